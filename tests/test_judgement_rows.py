"""Judgements with foreign headers and spaced ids, and queries without a text."""

import pytest

from dense_jax.errors import DataError
from dense_jax.retrieval import beir
from dense_jax.types import Reject
from tests.query_files import read, rejects, source_of, write

EXPECTED = {"q1": {"d1": 1, "d2": 0}}


@pytest.mark.parametrize(
    "content",
    [
        "Query ID\tDoc ID\tRelevance\nq1\td1\t1\nq1\td2\t0\n",
        "qid\tpid\tlabel\nq1\td1\t1\nq1\td2\t0\n",
        "corpus-id\tquery-id\tscore\nd1\tq1\t1\nd2\tq1\t0\n",  # its header says so
        "query_id\tcorpus_id\tscore\tannotator\nq1\td1\t1\tme\nq1\td2\t0\tyou\n",
        "topic iteration docno rel\nq1 0 d1 1\nq1 0 d2 0\n",
        "_id\tdocument_id\tgrade\nq1\td1\t1\nq1\td2\t0\n",
    ],
)
def test_the_header_of_judgements_names_the_columns(tmp_path, content):
    assert beir.read_qrels(write(tmp_path / "test.tsv", content)) == EXPECTED


@pytest.mark.parametrize("header", ["frage\tdokument\tnote", "frage dokument note"])
def test_a_header_of_other_words_is_refused_with_the_words_to_use(tmp_path, header):
    rest = "q1\td1\t1\nq1\td2\t0\n"
    rest = rest if "\t" in header else rest.replace("\t", " ")
    path = write(tmp_path / "test.tsv", f"{header}\n{rest}")
    with pytest.raises(DataError) as error:
        beir.read_qrels(path)
    assert "test.tsv:1: " in str(error.value)
    assert "if it is a header, write it as query-id, corpus-id and score" in str(error.value)
    separator = "\t" if "\t" in header else " "
    write(path, f"{separator.join(['query-id', 'corpus-id', 'score'])}\n{rest}")
    assert beir.read_qrels(path) == EXPECTED


def test_tabs_separate_ids_with_spaces(tmp_path):
    path = write(tmp_path / "test.tsv", "query-id\tcorpus-id\tscore\nq 1\tGeneva Durben\t1\nq 1\t Ann  Lee \t0\n")
    assert beir.read_qrels(path) == {"q 1": {"Geneva Durben": 1, "Ann  Lee": 0}}


@pytest.mark.parametrize("first", ["", "query-id corpus-id score\n"])
def test_spaces_do_not_separate_ids_with_spaces(tmp_path, first):
    path = write(tmp_path / "test.tsv", f"{first}q1 Geneva Durben 1\nq1 Ann Lee 0\n")
    with pytest.raises(DataError, match=r"separate the columns by tabs"):
        beir.read_qrels(path)


def test_quoted_ids_may_hold_tabs_and_quotes(tmp_path):
    path = write(tmp_path / "test.tsv", 'q1\t"a\tb"\t1\nq1\t"say ""x"" now"\t1\nq1\t"Foo" bar\t1\n')
    assert beir.read_qrels(path) == {"q1": {"a\tb": 1, 'say "x" now': 1, '"Foo" bar': 1}}


@pytest.fixture
def folder(tmp_path):
    """Queries q1 and q2, of which q2 is empty."""
    write(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "radium"}])
    write(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "who"}, {"_id": "q2", "text": " "}])
    write(tmp_path / "qrels/test.tsv", "q1\td1\t1\n")
    return tmp_path


def test_an_empty_query_that_is_not_judged_does_not_count(folder):
    assert beir.read_test_set(folder, "test").queries == {"q1": "who"}
    assert [query.text for query in read(folder, split="test")[1]] == ["who"]


def test_an_empty_query_that_is_judged_is_left_out_and_named_with_file_and_line(folder):
    write(folder / "qrels/test.tsv", "q1\td1\t1\nq2\td1\t1\nq9\td1\t1\n")
    found = beir.read_test_set(folder, "test")
    assert (found.queries, found.unknown_queries) == ({"q1": "who"}, ("q2", "q9"))
    assert found.empty_queries == (f"{folder}/queries.jsonl:2",)


def test_an_empty_training_query_that_is_judged_is_rejected_once(folder):
    write(folder / "qrels/train.tsv", "q1\td1\t1\nq2\td1\t1\n")
    rows = list(source_of(folder).queries())
    assert rejects(rows) == [(2, '"text" is empty')]
    assert sum(not isinstance(row, Reject) for row in rows) == 1


@pytest.mark.parametrize("text", ["a\0b", 3, None])
def test_a_judged_query_without_a_text_is_refused_with_its_line(folder, text):
    write(folder / "queries.jsonl", [{"_id": "q1", "text": text}])
    with pytest.raises(
        DataError, match=r"queries.jsonl:1: \"text\" .*; the query 'q1' is judged: correct it, or remove"
    ):
        beir.read_test_set(folder, "test")


@pytest.mark.parametrize("row", ["{oops", '{"text": "no id"}', '{"_id": 1.5, "text": "x"}'])
def test_a_row_that_may_be_a_judged_query_is_refused(folder, row):
    write(folder / "queries.jsonl", ['{"_id": "q1", "text": "who"}', row])
    with pytest.raises(DataError, match=r"queries.jsonl:2: "):
        beir.read_test_set(folder, "test")


@pytest.mark.parametrize("text", ["a\0b", 3, None, ["x"]])
def test_a_query_of_another_shape_that_is_not_judged_does_not_count(folder, text):
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "who"}, {"_id": "q3", "text": text}])
    assert beir.read_test_set(folder, "test").queries == {"q1": "who"}


def test_judgements_with_commas_are_refused_with_the_separator(tmp_path):
    path = write(tmp_path / "test.tsv", "query-id,corpus-id,score\nq1,d1,1\n")
    with pytest.raises(DataError, match=r"test.tsv:1: .* has 1 column; separate the columns by tabs"):
        beir.read_qrels(path)
