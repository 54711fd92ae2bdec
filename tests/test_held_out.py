import json

import pytest

from dense_jax.data.held_out import choose_queries, read_held_out, without_queries, write_test_set
from dense_jax.errors import DataError
from dense_jax.retrieval.beir import read_test_set
from dense_jax.types import Document

REST = "It gives back a new array and leaves the old one alone, whatever the order."


def document(name, first, rest=REST):
    return Document(name, name, f"{first}\n\n{rest}")


SORT = document("numpy.sort", "Return a sorted copy of an array along its last axis.")
SVD = document("numpy.linalg.svd", "Compute the svd of a matrix, stacked or not.")


def query(of):
    return choose_queries([of], 1)[of.id]


def test_the_query_is_the_first_sentence_without_the_last_part_of_a_dotted_title():
    assert query(SORT) == "Return a sorted copy of an array along its last axis."
    assert query(SVD) == "Compute the of a matrix, stacked or not."


def test_the_query_is_the_first_sentence_without_the_words_of_a_title_in_words():
    albedo = Document("7", "Albedo effect", f"The albedo is an Effect of light on a surface. {REST}")
    assert query(albedo) == "The is an of light on a surface."


@pytest.mark.parametrize(
    "unfit",
    [
        document("a", "Too few words here."),
        document("a", "word " * 41 + "end."),
        document("only.these.five.words.remain", "Remain only these remain remain words."),
        document("a", "One sentence is all that there is of it.", rest=""),
        document("a", "The rest of this one is much too short.", rest="A few words only."),
        Document("a", "a", ""),
    ],
    ids=["short", "long", "name", "alone", "poor", "empty"],
)
def test_a_document_that_makes_no_fair_query_is_not_chosen(unfit):
    assert list(choose_queries([unfit, SORT], 1)) == ["numpy.sort"]


@pytest.mark.parametrize(
    "other",
    [
        "RETURN a sorted copy, of an array along its last axis",
        "In short: return a sorted copy of an array along its last axis, or not.",
    ],
)
def test_a_document_whose_sentence_stands_elsewhere_in_the_corpus_is_not_chosen(other):
    documents = [SORT, SVD, Document("other", "Other", f"Something else.\n\n{other}")]
    assert list(choose_queries(documents, 1)) == ["numpy.linalg.svd"]


def test_no_query_sentence_stands_in_the_training_text():
    documents = [document(f"f{i}", f"Return number {i % 30} of the {i} numbers there are.") for i in range(60)]
    sentences = {d.id: d.text.partition("\n")[0] for d in documents}
    queries = choose_queries(documents, 20)
    training = "\n".join(d.text for d in without_queries(documents, queries))
    assert len(queries) == 20
    assert not any(sentences[name] in training for name in queries)
    assert sum(sentence in training for sentence in sentences.values()) == 40


def test_the_choice_depends_on_the_ids_and_not_on_the_order():
    documents = [document(f"f{i}", f"Return number {i} of the numbers that there are.") for i in range(50)]
    chosen = choose_queries(documents, 10)
    assert choose_queries(documents[::-1], 10) == chosen
    assert set(chosen) != {d.id for d in documents[:10]}


def test_a_held_out_document_stays_with_the_rest_of_its_text_and_the_others_whole():
    queries = {"numpy.sort": "..."}
    sort, svd = without_queries([SORT, SVD], queries)
    assert sort == Document("numpy.sort", "numpy.sort", REST)
    assert svd == SVD


def test_the_rest_keeps_its_line_breaks():
    text = "First sentence\n  wrapped here. Second one.\n\n- a\n- b"
    (rest,) = without_queries([Document("a", "", text)], {"a": "..."})
    assert rest.text == "Second one.\n\n- a\n- b"


def test_fewer_fit_documents_than_asked_for_are_an_error_with_the_number_there_are():
    message = r"corpus.held_out=3, but only 2 documents start with .* use --corpus.held_out=2"
    with pytest.raises(DataError, match=message):
        choose_queries([SORT, SVD, document("a", "Too short.")], 3)


def test_the_test_set_is_a_beir_folder(tmp_path):
    queries = choose_queries([SORT, SVD], 2)
    write_test_set(tmp_path, without_queries([SORT, SVD], queries), queries)
    rows = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    assert rows[0] == {"_id": "numpy.sort", "title": "numpy.sort", "text": REST}
    assert (tmp_path / "qrels/test.tsv").read_text().splitlines()[0] == "query-id\tcorpus-id\tscore"

    test_set = read_test_set(tmp_path, "test")
    found = {next(iter(grades)): test_set.queries[name] for name, grades in test_set.qrels.items()}
    assert found == queries == read_held_out(tmp_path)


def test_ids_with_white_space_and_quotes_come_back_from_the_test_set(tmp_path):
    names = ["Geneva Durben", "a\tb", 'say "x"', "in\u2028line", "plain"]
    documents = [document(name, f"Return number {i} of the numbers that there are.") for i, name in enumerate(names)]
    queries = choose_queries(documents, len(names))
    write_test_set(tmp_path, without_queries(documents, queries), queries)
    assert read_held_out(tmp_path) == queries
    test_set = read_test_set(tmp_path, "test")
    assert {next(iter(own)) for own in test_set.qrels.values()} == set(names)
