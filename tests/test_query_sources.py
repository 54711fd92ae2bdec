"""Sources that hold documents and training queries: each form, packed and not, and each way a row can be bad."""

import json
import math
import sys
from urllib.parse import quote

import pytest
import xxhash

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.queries import JudgedQuery
from dense_jax.errors import DataError, MachineError
from dense_jax.types import Document, Reject
from tests.query_files import ids, merged, read, rejects, scores, source_of, write

ENDS = ["", ".gz", ".xz"]


def text_id(title, text):
    return xxhash.xxh3_64_hexdigest(f"{title}\n{text}".encode())


# BEIR


@pytest.fixture
def beir(tmp_path):
    """Queries q1 (d2 answers, d1 does not), q2 (not judged), q3 (d1 of grade 0 alone); q9 is judged without a text."""
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in (1, 2)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"question {i}"} for i in (1, 2, 3)])
    judgements = "query-id\tcorpus-id\tscore\nq1\td1\t0\nq1\td2\t2\nq1\td2\t2\n"
    write(tmp_path / "qrels" / "train.tsv", judgements)
    write(tmp_path / "qrels" / "dev.tsv.xz", judgements + "q3\td1\t0\nq9\td1\t1\nq2\td1\thigh\n")
    return tmp_path


def test_a_beir_folder_gives_the_queries_of_its_split_grade_one_and_above_as_positives(beir):
    documents, (query,) = read(beir)
    assert documents == [Document("d1", "", "text 1"), Document("d2", "", "text 2")]
    assert (query.id, query.text) == ("q1", "question 1")
    assert (ids(query.positives), ids(query.negatives)) == (["d2"], ["d1"])
    assert math.isnan(query.positives[0].score)


@pytest.mark.parametrize("end", ENDS)
def test_a_beir_folder_may_be_packed(beir, end):
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        path = beir / name
        content = path.read_bytes()
        path.unlink()
        write(beir / f"{name}{end}", content)
    assert ids(read(beir)[1][0].positives) == ["d2"]


def test_bad_rows_of_a_beir_folder_are_named_with_file_and_line(beir):
    write(beir / "queries.jsonl", [{"_id": "q1", "text": "question 1"}, "{oops", {"_id": "q3", "text": "question 3"}])
    bad = [row for row in source_of(beir, split="dev").queries() if isinstance(row, Reject)]
    assert [(row.where.removeprefix(f"{beir}/"), row.reason.split(" (")[0]) for row in bad] == [
        (
            "qrels/dev.tsv.xz:7",
            "grade 'high' is not a whole number; round the grades, or keep those that are relevant as 1",
        ),
        ("queries.jsonl:2", "is not JSON"),
        ("qrels/dev.tsv.xz:5", "no positive: query 'q3' has no grade of 1 or more"),
        ("qrels/dev.tsv.xz:6", "no text: query 'q9' has no usable row in queries.jsonl"),
    ]


def test_a_missing_split_names_those_there_are(beir):
    with pytest.raises(DataError, match=r"no split 'test' \(qrels/test.tsv\); there are: dev, train"):
        source_of(beir, split="test").queries()


def test_the_fingerprint_of_a_folder_depends_on_its_queries_only_if_they_are_asked_for(beir):
    def fingerprints():
        config = CorpusConfig(source=str(beir))
        return [open_corpus(config, with_queries=with_queries).fingerprint() for with_queries in (True, False)]

    before = fingerprints()
    write(beir / "qrels" / "train.tsv", "q2\td1\t1\n")
    after = fingerprints()
    assert before[0] != after[0]
    assert before[1] == after[1] == {key: before[0][key] for key in ("name", "digest", "fields")}


# MS MARCO


@pytest.mark.parametrize("end", ENDS)
def test_an_ms_marco_folder_gives_passages_and_the_queries_of_its_split(tmp_path, end):
    write(tmp_path / f"collection.tsv{end}", "0\tRadium is a metal.\n1\tWho knows.\n")
    write(tmp_path / f"queries.train.tsv{end}", "7\twho found radium\n8\tnot judged\n")
    write(tmp_path / f"qrels.train.tsv{end}", "7\t0\t1\t1\n")
    documents, (query,) = read(tmp_path)
    assert documents == [Document("0", "", "Radium is a metal."), Document("1", "", "Who knows.")]
    assert (query.id, query.text, ids(query.positives)) == ("7", "who found radium", ["1"])


def test_a_bad_query_of_ms_marco_is_named_with_file_and_line(tmp_path):
    write(tmp_path / "collection.tsv", "0\tRadium is a metal.\n")
    write(tmp_path / "queries.train.tsv", "7\twho\textra\n8\twhat\n")
    write(tmp_path / "qrels.train.tsv", "8\t0\t0\t1\n")
    bad, good = source_of(tmp_path).queries()
    assert bad == Reject(
        f"{tmp_path}/queries.train.tsv:1",
        "'7\\twho\\textra' does not have two non-empty columns: query id and text",
    )
    assert good.id == "8"


# Tevatron

PASSAGE = {"docid": "d1", "title": "Radium", "text": "It was found in 1898."}
OTHER = {"docid": 2, "title": None, "text": "Nothing.", "score": 0.5}
TEVATRON = {
    "query_id": 1,
    "query": "who",
    "answers": ["x"],
    "positive_passages": [PASSAGE],
    "negative_passages": [OTHER],
}


@pytest.mark.parametrize("end", ENDS)
def test_tevatron_rows_give_their_passages_as_documents_and_a_query(tmp_path, end):
    documents, (query,) = read(write(tmp_path / f"train.jsonl{end}", [TEVATRON]))
    assert documents == [Document("d1", "Radium", "It was found in 1898."), Document("2", "", "Nothing.")]
    assert (query.id, query.text) == ("1", "who")
    assert (ids(query.positives), ids(query.negatives), scores(query.negatives)) == (["d1"], ["2"], [0.5])


def test_a_document_of_many_queries_is_given_once(tmp_path):
    rows = [TEVATRON | {"query_id": i} for i in range(3)]
    documents, queries = read(write(tmp_path / "train.jsonl", rows))
    assert [document.id for document in documents] == ["d1", "2"]
    assert [query.id for query in queries] == ["0", "1", "2"]


def test_two_texts_under_one_document_id_are_rejected(tmp_path):
    other = TEVATRON | {"positive_passages": [PASSAGE | {"text": "It was lost."}]}
    path = write(tmp_path / "train.jsonl", [TEVATRON, other])
    reason = "the document 'd1' has another title or text than where it was given first"
    assert list(source_of(path))[2:] == [Reject(f"{path}:2", reason)]


def test_two_titles_under_one_document_id_are_rejected(tmp_path):
    rows = [
        {"query": "who", "positive_passages": [{"docid": "d", "title": title, "text": "one"}]} for title in ("A", "B")
    ]
    bad = (2, "the document 'd' has another title or text than where it was given first")
    assert rejects(source_of(write(tmp_path / "train.jsonl", rows))) == [bad]


def test_two_texts_under_one_query_id_are_rejected(tmp_path):
    path = write(tmp_path / "train.jsonl", [TEVATRON, TEVATRON | {"query": "what"}])
    assert rejects(source_of(path).queries()) == [(2, "query id '1' has another text than in an earlier row")]


BAD_OF_BOTH = {
    "not JSON": ("{oops", "is not JSON (unexpected character"),
    "passage a number": (TEVATRON | {"positive_passages": [3]}, "positive_passages[0] is 3, neither a text nor"),
    "text missing": (
        TEVATRON | {"positive_passages": [PASSAGE, {"docid": "x", "title": "t"}]},
        "positive_passages[1] has title 't' and text None, not two strings",
    ),
    "id true": (
        TEVATRON | {"negative_passages": [PASSAGE | {"docid": True}]},
        "the negative_passages[0]: document id is True, not a string or an integer",
    ),
    "score a word": (
        TEVATRON | {"negative_passages": [PASSAGE | {"score": "high"}]},
        "negative_passages[0] has the score 'high', not a finite number",
    ),
}
BAD_QUERIES = {
    "no query": (TEVATRON | {"query": None}, "the query is None, not a string"),
    "empty query": (TEVATRON | {"query": " "}, "the query is empty"),
    "query with NUL": (TEVATRON | {"query": "a\0"}, "the query holds a NUL character"),
    "id a list": (TEVATRON | {"query_id": []}, "the query id is [], not a string or an integer"),
    "no positive": (TEVATRON | {"positive_passages": []}, "no positive: nothing to learn from"),
}


@pytest.mark.parametrize("case", [*BAD_OF_BOTH, *BAD_QUERIES])
def test_a_bad_row_is_rejected_with_its_line_and_the_next_one_is_read(tmp_path, case):
    line, reason = (BAD_OF_BOTH | BAD_QUERIES)[case]
    path = write(tmp_path / "train.jsonl", [TEVATRON, line, TEVATRON | {"query_id": 3}])
    first, bad, last = source_of(path).queries()
    assert (first.id, last.id, bad.where) == ("1", "3", f"{path}:2")
    assert bad.reason.startswith(reason)
    assert [reason for _, reason in rejects(source_of(path))] == ([bad.reason] if case in BAD_OF_BOTH else [])


# DPR

DPR = {
    "question": "who",
    "answers": ["x"],
    "positive_ctxs": [{"title": "A", "text": "a", "passage_id": "7", "score": "81.5"}],
    "negative_ctxs": [{"title": "B", "text": "b", "psg_id": 8}],
    "hard_negative_ctxs": [{"title": "C", "text": "c"}],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "lines.json"])
def test_dpr_is_read_as_an_array_and_as_lines_with_the_hard_negatives_first(tmp_path, name, end):
    content = [DPR] if name != "train.json" else json.dumps([DPR], indent=1)
    documents, (query,) = read(write(tmp_path / f"{name}{end}", content))
    hard = text_id("C", "c")
    assert documents == [Document("7", "A", "a"), Document(hard, "C", "c"), Document("8", "B", "b")]
    assert query.id == xxhash.xxh3_64_hexdigest(b"who")
    assert (ids(query.positives), ids(query.negatives)) == (["7"], [hard, "8"])
    assert scores(query.positives) == [81.5]


def test_a_bad_entry_of_an_array_is_named_by_its_number(tmp_path):
    path = write(tmp_path / "train.json", json.dumps([DPR, "who", DPR | {"positive_ctxs": []}]))
    assert rejects(source_of(path).queries()) == [
        (2, "is not a JSON object but 'who'"),
        (3, "no positive: nothing to learn from"),
    ]


def test_questions_and_answers_without_passages_are_refused(tmp_path):
    path = write(tmp_path / "nq.jsonl", [{"question": "who", "answers": ["x"]}])
    with pytest.raises(DataError, match=r"nq.jsonl: holds questions and answers but no passages to learn from"):
        source_of(path)


# SQuAD


def squad(*paragraphs, title="Saint_Barth%C3%A9lemy"):
    return json.dumps({"version": "x", "data": [{"title": title, "paragraphs": list(paragraphs)}]})


def paragraph(context, *questions):
    return {"context": context, "qas": [{"answers": []} | question for question in questions]}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("indent", [None, 1])
def test_squad_gives_distinct_paragraphs_and_questions_about_them(tmp_path, end, indent):
    text = squad(
        paragraph("One.", {"id": "a", "question": "who"}, {"id": "b", "question": "what"}),
        paragraph("Two."),
        paragraph("One.", {"id": "c", "question": "when"}),
    )
    text = json.dumps(json.loads(text), indent=indent)
    documents, queries = read(write(tmp_path / f"train.json{end}", text))
    title = "Saint Barthélemy"
    assert quote(title.replace(" ", "_")) == "Saint_Barth%C3%A9lemy"
    one, two = text_id(title, "One."), text_id(title, "Two.")
    assert documents == [Document(one, title, "One."), Document(two, title, "Two.")]
    assert [(q.id, q.text, ids(q.positives)) for q in queries] == [
        ("a", "who", [one]),
        ("b", "what", [one]),
        ("c", "when", [one]),
    ]


def test_a_byte_order_mark_and_white_space_before_a_json_file_are_skipped(tmp_path):
    text = squad(paragraph("One.", {"id": "a", "question": "who"}))
    path = write(tmp_path / "train.json", b"\xef\xbb\xbf\n " + text.encode())
    assert [query.id for query in read(path)[1]] == ["a"]


def test_an_impossible_question_and_bad_rows_of_squad_are_named_by_their_number(tmp_path):
    text = squad(
        paragraph("One.", {"id": "a", "question": "who"}, {"id": "b", "question": "what", "is_impossible": True}),
        {"context": None, "qas": []},
        paragraph("Two.", {"id": "c"}),
    )
    source = source_of(write(tmp_path / "train.json", text))
    bad = (2, "the paragraph has title 'Saint Barthélemy' and text None, not two strings")
    assert rejects(source) == [bad]
    assert rejects(source.queries()) == [
        (
            2,
            "the question is impossible: its paragraph does not answer it, so it has no positive (id 'b', paragraph 1)",
        ),
        bad,
        (3, "the query is None, not a string (id 'c', paragraph 3)"),
    ]


def test_two_texts_under_one_question_id_of_squad_are_rejected(tmp_path):
    text = squad(
        paragraph("One.", {"id": "a", "question": "who"}),
        paragraph("Two.", {"id": "a", "question": "when"}, {"id": "a", "question": "who"}),
    )
    source = source_of(write(tmp_path / "train.json", text))
    assert rejects(source.queries()) == [
        (2, "question id 'a' has another text than in an earlier row (id 'a', paragraph 2)")
    ]
    (query,) = merged(query for query in source.queries() if isinstance(query, JudgedQuery))
    assert len(query.positives) == 2


@pytest.mark.parametrize("text", ['{"data": {}}', '{\n"version": 1}', '{"articles": []}'])
def test_another_object_in_a_json_file_is_refused(tmp_path, text):
    with pytest.raises(DataError, match="SQuAD"):
        source_of(write(tmp_path / "train.json", text))


def test_a_json_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train.json: is not JSON \(unexpected"):
        source_of(write(tmp_path / "train.json", "[{"))


# Pairs and tuples


def both(path):
    """Texts of the positives and negatives of the only query."""
    documents, (query,) = read(path)
    texts = {document.id: document.text for document in documents}
    return [texts[one] for one in ids(query.positives)], [texts[one] for one in ids(query.negatives)]


@pytest.mark.parametrize(
    ("row", "positives", "negatives"),
    [
        ({"query": "who", "positive": "a"}, ["a"], []),
        ({"anchor": "who", "positive": "a", "negative": "b"}, ["a"], ["b"]),
        ({"question": "who", "answer": "a"}, ["a"], []),
        ({"query": "who", "pos": ["a", "b"], "neg": ["c", "d"]}, ["a", "b"], ["c", "d"]),
        ({"query": "who", "passage": "a", "negatives": None}, ["a"], []),
        ({"query": "who", "document": {"title": "T", "text": "a"}, "negatives": ["c"]}, ["a"], ["c"]),
        ({"anchor": "who", "positive": "a", "negative_2": "c", "negative_10": "d", "negative_1": "b"}, ["a"], [*"bcd"]),
    ],
)
def test_pairs_and_tuples_are_told_by_their_names(tmp_path, row, positives, negatives):
    assert both(write(tmp_path / "pairs.jsonl", [row])) == (positives, negatives)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("header", ["", "anchor\tPositive\tnegative\n"])
def test_text_triples_are_read_with_a_header_and_without(tmp_path, header, end):
    path = write(tmp_path / f"triples.tsv{end}", header + 'who\ta\t"b ""c"""\n')
    assert both(path) == (["a"], ['b "c"'])


def test_a_tsv_file_of_two_columns_is_a_corpus_unless_queries_are_asked_for(tmp_path):
    path = write(tmp_path / "rows.tsv", "who\ta\n")
    assert both(path) == (["a"], [])
    plain = CorpusConfig(source=str(path))
    with_queries = CorpusConfig(source=str(path), queries=("mined.jsonl",))
    for corpus in (open_corpus(plain), open_corpus(with_queries, with_queries=True)):
        assert list(corpus) == [Document("who", "", "a")]


def test_a_tsv_corpus_with_a_header_stays_one_where_queries_are_asked_for(tmp_path):
    source = source_of(write(tmp_path / "rows.tsv", "id\ttext\ttitle\n7\tx\tT\n"))
    assert list(source) == [Document("7", "T", "x")]
    with pytest.raises(DataError, match="has documents but no training queries"):
        source.queries()


def test_a_tsv_file_of_four_columns_needs_a_header(tmp_path):
    with pytest.raises(DataError, match=r"rows.tsv:1: 4 columns; a TSV corpus is"):
        list(source_of(write(tmp_path / "rows.tsv", "who\ta\tb\tc\n")))


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.jsonl"])
def test_equal_queries_without_an_id_have_one_id(tmp_path, name):
    rows = [{"query": "who", "positive": "a"}, {"query": "who", "positive": "b"}]
    content = rows if name.endswith("jsonl") else "query\tpositive\nwho\ta\nwho\tb\n"
    first, second = read(write(tmp_path / name, content))[1]
    assert first.id == second.id


@pytest.mark.parametrize(
    ("row", "positives", "negatives"),
    [
        ({"score": 0.7}, [0.7], []),
        ({"label": 1}, [1.0], []),
        ({"negative": "b", "scores": [3, 1]}, [3.0], [1.0]),
        ({"negative": "b", "score": 2.5}, [0.0], [-2.5]),  # a margin
        ({"negative": ["b", "c"], "label": [2, 5]}, [0.0], [-2.0, -5.0]),
        ({"negative": ["b", "c"], "label": [9, 7, 4]}, [9.0], [7.0, 4.0]),
    ],
)
def test_scores_of_pairs_are_one_for_each_text_or_margins(tmp_path, row, positives, negatives):
    _, (query,) = read(write(tmp_path / "pairs.jsonl", [{"query": "who", "positive": "a"} | row]))
    assert (scores(query.positives), scores(query.negatives)) == (positives, negatives)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "who", "other": "a"}, "has no query and positive; it has 'query', 'other'"),
        ({"query": "who", "positive": "a", "label": 0}, "no positive: the pair is labelled 0"),
        ({"query": "who", "positive": "a", "scores": [1, 2]}, "scores holds 2 numbers for 1 positives and 0 negatives"),
        ({"query": "who", "positive": "a", "score": []}, "score holds 0 numbers for 1 positives and 0 negatives"),
        ({"query": "who", "positive": "a", "score": True}, "score has the score True, not a finite number"),
        ({"query": "who", "positive": 3}, "positive[0] is 3, neither a text nor"),
    ],
)
def test_a_bad_pair_is_rejected_with_its_line(tmp_path, row, reason):
    path = write(tmp_path / "pairs.jsonl", [{"query": "who", "positive": "a"}, row])
    ((line, found),) = rejects(source_of(path).queries())
    assert line == 2
    assert found.startswith(reason)


def test_a_row_of_other_columns_is_rejected_with_its_line(tmp_path):
    path = write(tmp_path / "triples.tsv", "who\ta\tb\nwho\ta\n")
    reason = "has 2 columns, not the 3 columns query, positive, negative"
    assert rejects(source_of(path)) == rejects(source_of(path).queries()) == [(2, reason)]


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"pairs.tsv:1: two columns have one name: query, positive, positive"):
        source_of(write(tmp_path / "pairs.tsv", "query\tpositive\tpositive\nwho\ta\tb\n"))


def parquet(path, rows):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    files.write_table(arrow.Table.from_pylist(rows), path)
    return path


def test_parquet_files_hold_pairs_passages_or_documents(tmp_path):
    pairs = parquet(tmp_path / "pairs.parquet", [{"query": "who", "positive": "a", "negative": ["b", "c"]}])
    assert both(pairs) == (["a"], ["b", "c"])
    assert ids(read(parquet(tmp_path / "tevatron.parquet", [TEVATRON]))[1][0].negatives) == ["2"]
    plain = parquet(tmp_path / "plain.parquet", [{"_id": "d", "title": "T", "text": "x"}, {"_id": "e", "text": None}])
    good, bad = source_of(plain)
    assert good == Document("d", "T", "x")
    assert bad == Reject(f"{plain}:2", "text and title are empty")


def test_a_damaged_parquet_file_is_refused(tmp_path):
    path = parquet(tmp_path / "pairs.parquet", [{"query": "who", "positive": "a"}])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"pairs.parquet:1: is no sound Parquet file"):
        source_of(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError, match=r"need pyarrow; pip install 'dense_jax\[parquet\]'"):
        source_of(write(tmp_path / "pairs.parquet", b""))


# Sources in general


def test_the_form_is_told_by_the_first_row_that_can_be_read(tmp_path):
    path = write(tmp_path / "train.jsonl", ["{oops", TEVATRON])
    assert rejects(source_of(path)) == rejects(source_of(path).queries())
    assert [row.id for row in source_of(path) if isinstance(row, Document)] == ["d1", "2"]


def test_documents_win_over_pairs_so_plain_corpora_are_read_as_ever(tmp_path):
    row = {"_id": "a", "text": "x", "query": "who", "answer": "y"}
    assert list(source_of(write(tmp_path / "rows.jsonl", [row]))) == [Document("a", "", "x")]


def test_rows_of_no_known_form_are_refused_with_the_forms_there_are(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"_id": "a", "body": "x"}])
    with pytest.raises(
        DataError, match=r"fields '_id', 'body', .*corpus.text_field=text; name a BEIR or MS MARCO folder"
    ):
        source_of(path)


def test_a_source_without_queries_says_what_has_them(tmp_path):
    source = source_of(write(tmp_path / "rows.jsonl", [{"_id": "a", "text": "x"}]))
    with pytest.raises(DataError, match=r"rows.jsonl: has documents but no training queries; name files of queries"):
        source.queries()


def test_a_file_of_queries_about_ids_is_no_source(tmp_path):
    path = write(tmp_path / "mined.jsonl", [{"query_id": "q", "query_text": "who", "positive_document_ids": ["a"]}])
    with pytest.raises(
        DataError, match=r"mined.jsonl: holds queries about documents by their ids; name it in corpus.q"
    ):
        source_of(path)


def test_with_several_sources_documents_have_the_prefix_and_queries_do_not(tmp_path):
    write(tmp_path / "a.jsonl", [TEVATRON])
    write(tmp_path / "b.jsonl", [TEVATRON])
    config = CorpusConfig(source=str(tmp_path / "a.jsonl"), also=(str(tmp_path / "b.jsonl"),))
    corpus = open_corpus(config, with_queries=True)
    assert [document.id for document in corpus] == ["a.jsonl/d1", "a.jsonl/2", "b.jsonl/d1", "b.jsonl/2"]
    assert [ids(query.positives) for source in corpus.sources for query in source.queries()] == [["d1"], ["d1"]]
