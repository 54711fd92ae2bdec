"""A sample of a test collection: what is in it, and that it stays the same."""

import pytest

from dense_jax.artifact import read_claim
from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.retrieval import beir
from dense_jax.retrieval.beir import read_test_set
from dense_jax.retrieval.sample import write_sample
from dense_jax.types import Document

DOCUMENTS = [Document(f"d{i}", f"title {i}", f"text {i}") for i in range(100)]
QRELS = {f"q{i}": {f"d{i}": 1, f"d{i + 1}": 2, f"d{i + 2}": 0} for i in range(50)} | {"none": {"d1": 0}}
TEST_SET = beir.TestSet("toys", "dev", {query: f"words of {query}" for query in QRELS}, QRELS, ())


@pytest.fixture
def sample(tmp_path):
    def sample(name="sample", test_set=TEST_SET, documents=DOCUMENTS, queries=5, size=30, made_from=None):
        folder = tmp_path / name
        write_sample(folder, test_set, iter(documents), queries=queries, size=size, made_from=made_from or {"a": 1})
        return folder, read_test_set(folder, "dev"), list(open_corpus(CorpusConfig(source=str(folder))))

    return sample


def test_it_holds_so_many_queries_with_all_that_is_relevant_and_so_many_documents(sample):
    _, found, documents = sample()
    assert len(found.queries) == 5
    assert found.queries == {query: TEST_SET.queries[query] for query in found.queries}
    assert found.qrels == {query: QRELS[query] for query in found.queries}
    relevant = {document for own in found.qrels.values() for document, grade in own.items() if grade}
    assert len(documents) == 30
    assert relevant < {document.id for document in documents}
    assert set(documents) < set(DOCUMENTS)


def test_what_is_relevant_is_there_even_if_it_is_more_than_was_asked_for(sample):
    _, found, documents = sample(size=1)
    relevant = {document for own in found.qrels.values() for document, grade in own.items() if grade}
    assert {document.id for document in documents} == relevant


def test_a_query_without_a_relevant_document_is_not_in_it(sample):
    _, found, documents = sample(queries=1_000, size=1_000)
    assert found.queries.keys() == QRELS.keys() - {"none"}
    assert len(documents) == len(DOCUMENTS)


def test_the_order_of_the_files_decides_nothing_and_more_is_more_of_the_same(sample):
    _, found, documents = sample("a")
    turned = beir.TestSet("toys", "dev", TEST_SET.queries, dict(reversed(QRELS.items())), ())
    _, again, others = sample("b", test_set=turned, documents=DOCUMENTS[::-1])
    assert (again.queries, set(others)) == (found.queries, set(documents))
    assert sample("c", queries=9)[1].queries.keys() > found.queries.keys()


def test_it_is_written_once_and_that_of_another_collection_is_refused(sample):
    folder, *found = sample()
    assert read_claim(folder)["settings"] == {"a": 1, "split": "dev", "queries": 5, "documents": 30}
    assert sample(documents=[]) == (folder, *found)
    with pytest.raises(ConfigError, match="a: 1 -> 2"):
        sample(made_from={"a": 2})


def test_an_interrupted_sample_is_written_again(sample):
    folder, *found = sample()
    (folder / "manifest.json").unlink()
    (folder / "corpus.jsonl").write_text("")
    assert sample() == (folder, *found)


def test_a_collection_in_which_nothing_is_relevant_has_none(sample):
    with pytest.raises(DataError, match=r"toys: no query of dev has a document of grade 1 or more"):
        sample(test_set=beir.TestSet("toys", "dev", {"none": "words"}, {"none": {"d1": 0}}, ()))


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/dev.tsv"])
def test_a_changed_file_of_a_sample_is_named_and_the_sample_is_not_written_again(sample, name):
    folder, *_ = sample()
    text = (folder / name).read_text()
    (folder / name).write_text(text[:-2] + "x\n")
    with pytest.raises(StorageError, match=rf"{name}: digest .* remove .*sample and run `dense-jax train` again"):
        sample()
    assert (folder / name).read_text() != text
