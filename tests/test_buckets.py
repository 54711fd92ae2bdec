"""Sources are read where they lie in a bucket; here a folder, in the place of the network's file system, is one."""

import gzip
import json
from pathlib import Path

import pytest
from etils import epath
from fsspec.implementations.local import LocalFileSystem

from dense_jax import files
from dense_jax.contracts import Document
from dense_jax.data.beir_folder import write_beir
from dense_jax.data.corpus import open_corpus
from dense_jax.data.prepare import prepare
from dense_jax.errors import DataError, MachineError
from tests.sources import config, contents, rows, write


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that s3://bucket is."""

    class Bucket(LocalFileSystem):
        protocol = "s3"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return str(path).replace("s3:/", str(tmp_path), 1).rstrip("/")

        def glob(self, path, **settings):
            return [found.removeprefix(f"{tmp_path}/") for found in super().glob(path, **settings)]

    monkeypatch.setitem(files._BUCKETS, "s3://", "fsspec")
    monkeypatch.setattr(epath.backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
    return tmp_path / "bucket"


def test_a_file_in_a_bucket_is_prepared_as_the_same_file_on_a_disk_is(bucket, tmp_path):
    plain = write(bucket / "rows.jsonl", rows(9))
    bucket.joinpath("rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    prepare(config("s3://bucket/rows.jsonl.gz", held_out=2), tmp_path / "there")
    prepare(config(bucket / "rows.jsonl.gz", held_out=2), tmp_path / "here")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_folder_in_a_bucket_gives_documents_and_queries(bucket):
    write_beir(bucket / "fiqa", [Document("a", "", "The sea.")], {"q": "what?"}, {"q": {"a": 1}}, "train")
    (source,) = open_corpus(config("s3://bucket/fiqa").corpus, asked=True).sources
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


@pytest.mark.parametrize(("name", "package"), [("gs://b/x.jsonl", "gcsfs"), ("s3://b/x.jsonl", "s3fs")])
def test_a_bucket_that_cannot_be_read_names_the_extra(name, package, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=rf"{name}: needs {package}; pip install 'dense_jax\[{name[:2]}\]'"):
        open_corpus(config(name).corpus)


def test_other_names_are_of_this_machine():
    assert files.located("~/x.jsonl") == Path("~/x.jsonl").expanduser()
    assert isinstance(files.located("x.jsonl"), Path)
