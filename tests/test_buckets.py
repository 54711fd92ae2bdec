"""What is named is read where it lies in a bucket; here a folder, in the place of the network's file system, is one."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dense_jax.config import (
    Config,
    CorpusConfig,
    EvaluateConfig,
    PassagesConfig,
    SpansConfig,
    TokenizerConfig,
    Unit,
    ValidationConfig,
)
from dense_jax.config.command_line import parse
from dense_jax.data.beir_folder import write_beir
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.sources.corpus import open_corpus, read_queries
from dense_jax.errors import ConfigError, DataError, MachineError
from dense_jax.remote import paths
from dense_jax.remote.paths import located
from dense_jax.retrieval.beir import read_test_set
from dense_jax.types import Document, QAExample, Tower, TrainingQuery
from dense_jax.workdir import Workdir
from tests.buckets import bucket_in
from tests.sources import config, contents, rows, write
from tests.toys import BagOfTokens, MeanEmbedding

ROOT = Path(__file__).parent.parent
OF_QUERIES = PassagesConfig(unit=Unit.QUERIES)


class Asks(BagOfTokens):
    """Stands for any objective that learns from queries."""

    learns_from = TrainingQuery


class Answers(BagOfTokens):
    """Stands for any objective that learns from questions with answers."""

    learns_from = QAExample


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    return bucket_in(tmp_path, monkeypatch)


def test_a_file_in_a_bucket_is_prepared_as_the_same_file_on_a_disk_is(bucket, tmp_path):
    plain = write(bucket / "rows.jsonl", rows(9))
    bucket.joinpath("rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    prepare(config("s3://bucket/rows.jsonl.gz", held_out=2), tmp_path / "there")
    prepare(config(bucket / "rows.jsonl.gz", held_out=2), tmp_path / "here")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_folder_in_a_bucket_gives_documents_and_queries(bucket):
    write_beir(bucket / "fiqa", [Document("a", "", "The sea.")], {"q": "what?"}, {"q": {"a": 1}}, "train")
    (source,) = open_corpus(config("s3://bucket/fiqa").corpus, with_queries=True).sources
    assert (source.name, [row.id for row in source], [query.text for query in source.queries()]) == (
        "fiqa",
        ["a"],
        ["what?"],
    )


def test_bad_rows_are_listed_under_the_name_in_the_bucket(bucket, tmp_path):
    write(bucket / "rows.jsonl", [*rows(9), {"text": 3}])
    prepare(config("s3://bucket/rows.jsonl", max_rejects=0.1), tmp_path / "work")
    (line,) = (tmp_path / "work" / "rejects.jsonl").read_text().splitlines()
    assert (json.loads(line)["file"], json.loads(line)["line"]) == ("s3://bucket/rows.jsonl", 10)


def test_what_is_not_in_the_bucket_is_named(bucket):
    with pytest.raises(DataError, match=r"corpus source s3://bucket/absent.jsonl: no such file or folder"):
        open_corpus(config("s3://bucket/absent.jsonl").corpus)


def test_training_queries_are_read_from_a_bucket(bucket, tmp_path):
    source = write(tmp_path / "rows.jsonl", rows(9))
    row = {"query_id": "q", "query_text": "the sea", "positive_document_ids": ["d1"]}
    mined = write(bucket / "mined.jsonl", [row])
    for name, queries in (("there", "s3://bucket/mined.jsonl"), ("here", str(mined))):
        corpus = CorpusConfig(source=str(source), queries=(queries,))
        asked = Config(Asks(), 1, 1, corpus=corpus, tokenizer=TokenizerConfig(vocab_size=80), passages=OF_QUERIES)
        prepare(asked, tmp_path / name)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_triples_of_ids_have_the_texts_of_a_folder_in_a_bucket(bucket):
    write_beir(bucket / "fiqa", [Document("a", "", "The sea.")], {"q": "what?"}, {"q": {"a": 1}}, "train")
    bucket.joinpath("triples.tsv").write_text("q\ta\tb\n")
    asked = CorpusConfig(source="s3://bucket/fiqa", queries=("s3://bucket/triples.tsv",))
    (source,) = open_corpus(asked, with_queries=True).sources
    (query,) = read_queries(located("s3://bucket/triples.tsv"), source, asked)
    assert (query.id, query.text) == ("q", "what?")


def test_salient_spans_are_read_from_a_bucket(bucket, tmp_path):
    source = write(tmp_path / "rows.jsonl", rows(9))
    spans = write(bucket / "spans.jsonl", [{"id": f"d{i}", "spans": [[0, 5]]} for i in range(9)])
    answers = write(bucket / "answers.jsonl", [{"question": "what shines?", "answer": ["lamp"]}])
    for name, at in (("there", "s3://bucket"), ("here", str(bucket))):
        tagged = SpansConfig(precomputed=f"{at}/{spans.name}", answers=f"{at}/{answers.name}")
        prepare(replace(config(source), spans=tagged), tmp_path / name)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_test_set_and_questions_are_read_from_a_bucket(bucket, tmp_path):
    write_beir(bucket / "fiqa", [Document("a", "", "The sea.")], {"q": "what?"}, {"q": {"a": 1}}, "test")
    write(bucket / "nq.jsonl", [{"question": "what shines?", "answer": ["lamp"]}])
    asked = config(write(tmp_path / "rows.jsonl", rows(9)))
    asked = replace(
        asked,
        objective=Answers(MeanEmbedding(vocab_size=0)),
        corpus=replace(asked.corpus, questions="s3://bucket/nq.jsonl"),
        evaluate=EvaluateConfig(folder="s3://bucket/fiqa"),
        validation=ValidationConfig(every=1, folder="s3://bucket/fiqa", split="test"),
    )
    prepare(asked, tmp_path / "work")
    work = Workdir(tmp_path / "work", asked)
    assert read_test_set(work.test_folder, "test").queries == {"q": "what?"}
    found = work.collection(Tower(MeanEmbedding(), {}, length=32), str(work.test_folder)).store
    assert [document.text for document in found.texts(range(len(found)))] == ["The sea."]
    assert work.sample().test_set.queries == {"q": "what?"}
    assert work.questions.document(0).text == "what shines?"
    assert work.learned_data.digests["passages"] == work.questions.fingerprint


@pytest.mark.parametrize(("name", "package"), [("gs://b/x.jsonl", "gcsfs"), ("s3://b/x.jsonl", "s3fs")])
def test_a_bucket_that_cannot_be_read_names_the_extra(name, package, monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=rf"{name}: needs {package}; pip install 'dense_jax\[{name[:2]}\]'"):
        open_corpus(config(name).corpus)


@pytest.mark.parametrize(
    "setting", ["--workdir", "--passages.workdir", "--tokenizer.path", "--corpus.guide",
                "--init_from", "--init_reader_from"],
)  # fmt: skip
def test_models_and_workdirs_in_buckets_are_refused(setting, tmp_path):
    argv = [f"--config={ROOT / 'configs' / 'ict.py'}:tiny", f"--workdir={tmp_path}", f"{setting}=gs://bucket/run"]
    with pytest.raises(ConfigError, match=rf"{setting.removeprefix('--')}=gs://bucket/run is in a bucket"):
        parse(argv)


def test_other_names_are_of_this_machine():
    assert paths.located("~/x.jsonl") == Path("~/x.jsonl").expanduser()
    assert isinstance(paths.located("x.jsonl"), Path)
