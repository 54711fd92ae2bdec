"""Queries under any known names of fields, their ids, and rows of other shapes."""

import pytest

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import read_queries
from dense_jax.data.sources.fields import DOCUMENT_IDS, QUERY_IDS, QUERY_TEXTS
from dense_jax.data.sources.open_questions import open_questions, sound_questions
from dense_jax.errors import DataError
from dense_jax.retrieval import beir
from dense_jax.types import Reject
from tests.query_files import ids, read, rejects, source_of, write


@pytest.mark.parametrize("identifier", [*QUERY_IDS, "queryid", "query-id"])
@pytest.mark.parametrize("text", ["text", *QUERY_TEXTS])
def test_a_queries_file_has_any_known_names(tmp_path, identifier, text):
    path = write(tmp_path / "queries.jsonl", [{identifier: 7, text: "who"}])
    assert beir.read_beir_queries(path) == {"7": "who"}


def test_a_query_without_the_id_that_the_first_one_has_is_refused(tmp_path):
    path = write(tmp_path / "queries.jsonl", [{"qid": 1, "text": "who"}, {"id": 2, "text": "when"}])
    with pytest.raises(DataError, match=r"""queries.jsonl:2: "qid" is missing; the row has 'id', 'text'"""):
        beir.read_beir_queries(path)


def test_a_queries_file_that_is_an_array_is_read(tmp_path):
    path = write(tmp_path / "queries.jsonl", '[\n{"_id": 1, "text": "who"},\n{"_id": 2, "text": "when"}\n]\n')
    assert beir.read_beir_queries(path) == {"1": "who", "2": "when"}


@pytest.mark.parametrize("header", ["qid\tquery", "query-id\ttext"])
def test_the_header_of_a_tsv_queries_file_is_no_query(tmp_path, header):
    assert beir.read_beir_queries(write(tmp_path / "q.tsv", f"{header}\n7\twho\n")) == {"7": "who"}
    swapped = "\t".join(reversed(header.split("\t")))
    assert beir.read_beir_queries(write(tmp_path / "q.tsv", f"{swapped}\nwho\t7\n")) == {"7": "who"}


@pytest.mark.parametrize(
    ("value", "reason"), [("3.0", '"_id" is 3.0, not a string or an integer; write it as 3'), ('" "', "which is blank")]
)
def test_a_query_id_that_is_no_id_is_refused(tmp_path, value, reason):
    with pytest.raises(DataError) as error:
        beir.read_beir_queries(write(tmp_path / "queries.jsonl", f'{{"_id": {value}, "text": "who"}}\n'))
    assert reason in str(error.value)


def test_ids_are_joined_as_strings_without_the_white_space_around_them(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"docid": i, "text": f"number {i}"} for i in range(4)])
    write(tmp_path / "queries.jsonl", [{"query_id": 9, "text": "third"}])
    write(tmp_path / "qrels/train.tsv", "query-id\tcorpus-id\tscore\n9 \t3 \t1\n")
    documents, (query,) = read(tmp_path)
    assert [document.id for document in documents if document.text == "number 3"] == ids(query.positives)


@pytest.mark.parametrize("name", DOCUMENT_IDS)
def test_texts_of_pairs_and_passages_have_any_known_id(tmp_path, name):
    row = {"query": "who", "positive": {name: 7, "text": "x"}, "negative": {name: " 8 ", "contents": "y"}}
    documents, (query,) = read(write(tmp_path / "train.jsonl", [row]))
    assert [document.id for document in documents] == ["7", "8"] == ids(query.positives + query.negatives)


@pytest.mark.parametrize("name", QUERY_IDS)
def test_rows_of_pairs_tevatron_and_dpr_keep_the_id_of_their_query(tmp_path, name):
    passages = [{"docid": "d", "text": "x"}]
    for row in (
        {name: 3, "query": "who", "positive": "x"},
        {name: 3, "query": "who", "positive_passages": passages, "negative_passages": []},
        {name: 3, "question": "who", "positive_ctxs": passages},
    ):
        _, (query,) = read(write(tmp_path / "train.jsonl", [row]))
        assert query.id == "3"


def test_queries_about_ids_have_any_known_names(tmp_path):
    source = source_of(write(tmp_path / "docs.jsonl", [{"docid": i, "text": f"number {i}"} for i in range(4)]))
    path = write(tmp_path / "queries.jsonl", [{"qid": 1, "query": "third", "positive_document_ids": [3]}])
    (query,) = read_queries(path, source, CorpusConfig(source=source.config.source))
    assert (query.id, query.text, ids(query.positives)) == ("1", "third", ["3"])
    assert {document.id: document.text for document in source}["3"] == "number 3"


def test_open_questions_have_any_known_names(tmp_path):
    path = write(tmp_path / "nq.jsonl", [{"qid": 5, "query": "who", "answers": ["Ann"]}])
    (question,) = sound_questions(path)
    assert (question.id, question.text) == ("5", "who")
    assert [row.reason[:40] for row in open_questions(write(path, [{"qid": 5.0, "query": "who", "answer": "x"}]))] == [
        "the question id is 5.0, not a string or "
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"query": ["who"], "positive": "x"},
        {"query": "who", "positive": 3},
        {"query": "who", "positive": {"text": None}},
        {"query": "who", "positive": {"id": 1.5, "text": "x"}},
        {"query": None, "positive": "x"},
        {"query": "who", "positive": [["x"]]},
        {"query": "who", "positive": " "},
    ],
)
def test_a_pair_of_another_shape_is_rejected_with_its_line(tmp_path, row):
    path = write(tmp_path / "train.jsonl", [row, {"query": "when", "positive": "y"}])
    assert [line for line, _ in rejects(source_of(path).queries())] == [1]
    assert sum(not isinstance(query, Reject) for query in source_of(path).queries()) == 1
