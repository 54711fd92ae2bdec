"""Files of queries about the documents of a source."""

import json
import math
from dataclasses import replace

import pytest

from dense_jax.data.sources.corpus import open_corpus, read_queries
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.errors import DataError
from dense_jax.types import Reject
from tests.query_files import ids, merged, rejects, scores, source_of, write

ROW = {
    "query_id": "q1",
    "query_text": "who found radium",
    "positive_document_ids": ["d1", 2],
    "positive_scores": [1.5, None],
    "negative_document_ids": ["d3"],
    "negative_scores": [0.25],
    "too_close": 1,
}


@pytest.fixture
def source(tmp_path):
    """A BEIR folder with query q1."""
    folder = tmp_path / "collection"
    write(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": f"text {i}"} for i in range(4)])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "who found radium"}])
    return source_of(folder, queries=("named",))


def found(path, source):
    return list(read_queries(path, source, source.config))


@pytest.mark.parametrize("name", ["mined.jsonl", "mined.jsonl.gz", "mined.jsonl.xz", "mined.json"])
def test_rows_of_ids_are_read_with_their_scores(tmp_path, source, name):
    content = [ROW] if "jsonl" in name else json.dumps([ROW])
    (query,) = found(write(tmp_path / name, content), source)
    assert (query.id, query.text) == ("q1", "who found radium")
    assert (ids(query.positives), ids(query.negatives)) == (["d1", "2"], ["d3"])
    assert query.positives[0].score == 1.5
    assert math.isnan(query.positives[1].score)
    assert scores(query.negatives) == [0.25]


def test_negatives_and_scores_may_be_absent(tmp_path, source):
    row = {key: ROW[key] for key in ("query_id", "query_text", "positive_document_ids")}
    (query,) = found(write(tmp_path / "ids.jsonl", [row]), source)
    assert (ids(query.positives), query.negatives) == (["d1", "2"], ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query_text": None}, "the query is None, not a string"),
        ({"query_id": None}, "the query id is None, not a string or an integer"),
        ({"positive_document_ids": [], "positive_scores": []}, "no positive: positive_document_ids is empty"),
        ({"positive_document_ids": "d1"}, "positive_document_ids or positive_scores is not a list but 'd1' and"),
        ({"negative_scores": [1, 2]}, "negative_scores holds 2 numbers for 1 documents"),
        ({"negative_scores": ["high"]}, "negative_scores has the score 'high', not a finite number"),
        ({"negative_document_ids": [1.5]}, "the document id in negative_document_ids is 1.5, not a string or an"),
        ({"query_text": "what"}, "query id 'q1' has another text than in an earlier row"),
    ],
)
def test_a_bad_row_is_rejected_with_its_line(tmp_path, source, change, reason):
    path = write(tmp_path / "ids.jsonl", [ROW, ROW | change, ROW])
    first, bad, last = found(path, source)
    assert first.id == last.id == "q1"
    assert bad.where == f"{path}:2"
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_triples_of_ids_have_the_texts_of_the_sources_queries(tmp_path, source, end):
    path = write(tmp_path / f"triples.tsv{end}", "q1\td1\td3\nq1\td1\td2\n")
    (query,) = merged(found(path, source))
    assert (query.text, ids(query.positives), ids(query.negatives)) == ("who found radium", ["d1"], ["d3", "d2"])


def test_the_split_names_the_queries_of_an_ms_marco_folder(tmp_path):
    write(tmp_path / "collection.tsv", "0\tzero\n1\tone\n")
    write(tmp_path / "queries.dev.tsv.gz", "7\twho\n")
    source = source_of(tmp_path, split="dev", queries=("named",))
    (query,) = found(write(tmp_path / "triples.tsv", "7\t0\t1\n"), source)
    assert query == JudgedQuery("7", "who", query.positives, query.negatives)


def test_bad_triples_are_rejected_with_their_line(tmp_path, source):
    path = write(tmp_path / "triples.tsv", "q1\td1\nq9\td1\td2\n")
    assert rejects(found(path, source)) == [
        (1, "['q1', 'd1'] are not three ids: query, positive and negative, with tabs between"),
        (2, "query 'q9' has no usable row in queries.jsonl"),
    ]


def test_triples_of_ids_need_a_folder_with_the_texts(tmp_path):
    source = source_of(write(tmp_path / "rows.jsonl", [{"_id": "a", "text": "x"}]))
    with pytest.raises(DataError, match=r"rows.jsonl is no folder with the texts of their queries in queries.train.ts"):
        found(write(tmp_path / "triples.tsv", "q1\td1\td2\n"), source)


def test_forms_with_texts_are_read_for_the_ids_of_their_documents(tmp_path, source):
    passages = [{"docid": "d1", "title": "", "text": "text 1"}]
    row = {"query_id": "q1", "query": "who found radium", "positive_passages": passages, "negative_passages": []}
    (query,) = found(write(tmp_path / "tevatron.jsonl", [row]), source)
    assert ids(query.positives) == ["d1"]
    pairs = write(tmp_path / "pairs.tsv", "query\tpositive\nwho\ta\n")
    assert [query.text for query in found(pairs, source)] == ["who"]
    article = {"title": "A", "paragraphs": [{"context": "One.", "qas": [{"id": "s", "question": "what"}]}]}
    squad = write(tmp_path / "squad.json", json.dumps({"data": [article]}))
    assert [query.id for query in found(squad, source)] == ["s"]


def test_a_file_of_documents_has_no_queries(tmp_path, source):
    path = write(tmp_path / "rows.jsonl", [{"_id": "a", "text": "x"}])
    with pytest.raises(DataError, match=r"corpus.queries: .*rows.jsonl holds documents but no queries"):
        found(path, source)


def test_ids_lose_the_prefix_of_their_source_so_a_file_mined_of_several_sources_reads_back(tmp_path, source):
    other = write(tmp_path / "other.jsonl", [{"_id": "a", "text": "x"}])
    first, _ = open_corpus(replace(source.config, also=(str(other),)), with_queries=True).sources
    documents = [document.id for document in first if not isinstance(document, Reject)]
    row = ROW | {"query_id": "collection/q1", "positive_document_ids": documents[:2], "positive_scores": [2, 1]}
    (query,) = found(write(tmp_path / "mined.jsonl", [row]), first)
    assert query.id == "q1"
    assert query.positives == (ScoredDocument("d0", 2.0), ScoredDocument("d1", 1.0))
    assert ids(query.negatives) == ["d3"]
