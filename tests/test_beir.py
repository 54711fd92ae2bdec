"""Reading test collections: every dialect, and every way in which a row can be wrong."""

import gzip

import pytest

from dense_jax.errors import DataError
from dense_jax.retrieval import beir

QUERY = '{"_id": "q1", "text": "who found radium"}\n'


@pytest.fixture
def queries(tmp_path):
    def write(content: str | bytes, name: str = "queries.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def qrels(tmp_path):
    def write(content: str):
        path = tmp_path / "test.tsv"
        path.write_text(content)
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    """Queries q1 and q2; judgements of q1 (d1, d404) and of q9, which has no text."""
    root = tmp_path / "collection"
    (root / "qrels").mkdir(parents=True)
    (root / "queries.jsonl").write_text(QUERY + '{"_id": "q2", "text": "not judged"}\n')
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td404\t2\nq9\td1\t1\n")
    return root


# Queries


def test_queries_keep_the_order_of_their_file(queries):
    path = queries('{"_id": "b", "text": "second"}\n\n{"_id": "a", "text": "first", "metadata": {}}\n')
    assert list(beir.read_beir_queries(path).items()) == [("b", "second"), ("a", "first")]


def test_integer_query_ids_become_strings(queries):
    assert beir.read_beir_queries(queries('{"_id": 7, "text": "seven"}\n')) == {"7": "seven"}


def test_gzipped_queries_are_read(queries):
    assert beir.read_beir_queries(queries(gzip.compress(QUERY.encode()), "queries.jsonl.gz")) == {
        "q1": "who found radium"
    }


def test_a_byte_order_mark_is_not_part_of_the_first_line(queries):
    assert list(beir.read_beir_queries(queries(b"\xef\xbb\xbf" + QUERY.encode()))) == ["q1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", ":2: is not JSON"),
        ("[1, 2]", ":2: is not a JSON object but '[1, 2]'"),
        ('{"text": "a"}', ':2: "_id" is missing'),
        ('{"_id": 1.5, "text": "a"}', ':2: "_id" is 1.5, not a string or an integer'),
        ('{"_id": true, "text": "a"}', ':2: "_id" is True, not a string or an integer'),
        ('{"_id": "", "text": "a"}', ":2: \"_id\" is '', not a string or an integer"),
        ('{"_id": "q2"}', ':2: "text" is missing'),
        ('{"_id": "q2", "text": ["a"]}', ":2: \"text\" is ['a'], not a string"),
        ('{"_id": "q2", "text": " "}', ':2: "text" is empty'),
        ('{"_id": "q2", "text": "a\\u0000b"}', ':2: "text" holds a NUL character'),
        ('{"_id": "q2", "text": "\\ud800"}', ":2: is not JSON"),
        ('{"_id": "q1", "text": "again"}', ":2: query id 'q1' stands on line 1 already"),
        ("a\0b", ":2: holds a NUL byte"),
        ("x" * (1 << 21), ":2: is longer than 1,048,576 bytes"),
    ],
)
def test_a_bad_query_is_refused_with_its_line(queries, line, message):
    with pytest.raises(DataError) as error:
        beir.read_beir_queries(queries(QUERY + line + "\n"))
    assert message in str(error.value)


def test_queries_that_are_not_utf8_are_refused_with_their_line(queries):
    with pytest.raises(DataError, match=r"queries.jsonl:2: is not UTF-8"):
        beir.read_beir_queries(queries(QUERY.encode() + b'{"_id": "q2", "text": "\xff"}\n'))


def test_a_cut_gzip_file_is_refused(queries):
    with pytest.raises(DataError, match="the compressed file is damaged"):
        beir.read_beir_queries(queries(gzip.compress(QUERY.encode())[:-12], "queries.jsonl.gz"))


def test_an_empty_queries_file_is_refused(queries):
    with pytest.raises(DataError, match="holds no query"):
        beir.read_beir_queries(queries("\n"))


# Judgements


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n",  # BEIR
        "q1\td1\t1\nq1\td2\t0\n",  # without its header: the first row counts
        "q1 d1 1\nq1 d2 0\n",
        "q1 0 d1 1\nq1 0 d2 0\n",  # TREC
        "q1\tQ0\td1\t1\r\nq1\tQ0\td2\t0\r\n",
        "query_id doc_id relevance\nq1 d1 1.0\n\nq1 d2 0.0\n",
    ],
)
def test_every_dialect_of_judgements_says_the_same(qrels, content):
    assert beir.read_qrels(qrels(content)) == {"q1": {"d1": 1, "d2": 0}}


def test_document_ids_with_spaces_survive_tabs(qrels):
    assert beir.read_qrels(qrels("q1\tmy document\t1\n")) == {"q1": {"my document": 1}}


def test_negative_grades_are_kept(qrels):
    assert beir.read_qrels(qrels("q1 d1 -2\n")) == {"q1": {"d1": -2}}


def test_a_judgement_may_be_repeated_with_the_same_grade(qrels):
    assert beir.read_qrels(qrels("q1 d1 1\nq1 d1 1\n")) == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1 d1 1\nq1 d2 0.5\n", "test.tsv:2: grade '0.5' is not a whole number"),
        ("q1 d1 high\n", "test.tsv:1: grade 'high' is not a whole number"),
        ("q1 d1 nan\n", "test.tsv:1: grade 'nan' is not a whole number"),
        ("q1 d1\n", "test.tsv:1: 2 columns"),
        ("q1 d1 1\nq1 0 d2 1\n", "test.tsv:2: 'q1 0 d2 1' does not have 3 non-empty columns"),
        ("q1\td1\t1\nq1\t\t1\n", "test.tsv:2: 'q1\\t\\t1' does not have 3 non-empty columns"),
        (
            "q1 d1 1\nq1 d1 2\n",
            "test.tsv:2: query 'q1' and document 'd1' have grade 2, but line 1 gives them 1",
        ),
        ("query-id\tcorpus-id\tscore\n", "holds no judgement"),
    ],
)
def test_a_bad_judgement_is_refused_with_its_line(qrels, content, message):
    with pytest.raises(DataError) as error:
        beir.read_qrels(qrels(content))
    assert message in str(error.value)


# The collection


def test_a_test_set_holds_the_queries_that_are_judged(folder):
    collection = beir.read_test_set(folder, "test")
    assert (collection.queries, collection.qrels) == ({"q1": "who found radium"}, {"q1": {"d1": 1, "d404": 2}})


def test_judged_queries_without_text_are_listed_as_unknown(folder):
    assert beir.read_test_set(folder, "test").unknown_queries == ("q9",)


def test_judged_documents_that_the_corpus_lacks_are_named(folder):
    assert beir.read_test_set(folder, "test").missing_documents(["d1", "d2"]) == ["d404"]


def test_a_missing_split_names_the_ones_that_exist(folder):
    (folder / "qrels" / "dev.tsv.gz").write_bytes(gzip.compress(b"q1 d1 1\n"))
    with pytest.raises(DataError, match=r"no split 'train' \(qrels/train.tsv\); there are: dev, test"):
        beir.read_test_set(folder, "train")


def test_a_folder_without_judgements_says_so(folder):
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"no split 'test'.*the folder has none"):
        beir.read_test_set(folder, "test")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere: no such folder; name a folder with queries.jsonl and qrels/test.tsv"
    ):
        beir.read_test_set(tmp_path / "nowhere", "test")


def test_a_folder_without_queries_is_refused(folder):
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"queries.jsonl: no such file, nor queries.jsonl.gz"):
        beir.read_test_set(folder, "test")


def test_judgements_of_another_collection_are_refused(folder):
    (folder / "qrels" / "test.tsv").write_text("x1 d1 1\n")
    with pytest.raises(
        DataError, match=r"none of the 1 queries of qrels/test.tsv is in queries.jsonl, for example 'x1'"
    ):
        beir.read_test_set(folder, "test")
