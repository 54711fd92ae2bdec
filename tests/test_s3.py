"""Data in a bucket of S3, by its own protocol: a local server stands in for the service.

`make test-s3` installs its libraries in an environment of their own.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.data.beir_folder import write_beir
from dense_jax.types import Document
from tests.faults.command_line import ROOT, arguments, start, write_corpus
from tests.sources import contents

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # those of the libraries of S3 are not ours


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket that this process and those that it starts read as any other."""
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        filesystem().mkdir("data")
        yield "s3://data"
    server.stop()


def filesystem():
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True)


def upload(path: Path, place: str) -> None:
    """A file or a folder."""
    filesystem().put(str(path), place.removeprefix("s3://"), recursive=path.is_dir())


@pytest.fixture(scope="module")
def corpus(bucket, tmp_path_factory) -> Path:
    """A file of documents, which is in the bucket too."""
    path = write_corpus(tmp_path_factory.mktemp("corpus") / "documents.jsonl")
    upload(path, f"{bucket}/documents.jsonl")
    return path


def test_a_preparation_from_s3_that_sigterm_stopped_goes_on_and_is_that_of_the_file_on_a_disk(bucket, corpus, tmp_path):
    given = arguments(f"{bucket}/documents.jsonl", tmp_path / "there", "--passages.shard_size=10")
    module, function = "dense_jax.data.stores.shards", "write_records"
    command = [sys.executable, "-m", "tests.told_to_stop", module, function, "4", "prepare", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 75, done.stderr
    assert not (tmp_path / "there" / "passages-96" / "manifest.json").is_file()
    assert run(["prepare", *given]) == 0
    assert run(["prepare", *arguments(corpus, tmp_path / "here", "--passages.shard_size=10")]) == 0
    there, here = (contents(tmp_path / name) for name in ("there", "here"))
    assert there.pop("settings.json") != here.pop("settings.json")  # the place of the corpus
    assert there == here


@pytest.fixture(scope="module")
def asked(bucket, tmp_path_factory) -> list[str]:
    """A command line that learns from judged queries in the bucket."""
    folder, workdir = tmp_path_factory.mktemp("asked") / "set", tmp_path_factory.mktemp("run") / "run"
    documents = [Document(f"d{i}", "", f"The river {i} met the bridge {i % 7}. It was late.") for i in range(60)]
    queries, judged = {f"q{i}": f"river {i}" for i in range(20)}, {f"q{i}": {f"d{i}": 1} for i in range(20)}
    write_beir(folder, documents, queries, judged, "train")
    upload(folder, f"{bucket}/set")
    argv = arguments(f"{bucket}/set", workdir, "--steps=2", "--objective.negatives=0")
    argv[0] = f"--config={ROOT / 'configs' / 'finetune_dpr.py'}:tiny"
    assert run(["prepare", *argv]) == 0
    assert run(["train", *argv]) == 0
    return argv


def test_negatives_are_mined_of_queries_in_s3_and_what_was_mined_is_read_from_there(bucket, asked, tmp_path):
    module, function = "dense_jax.retrieval.mine", "_write_lines"
    command = [sys.executable, "-m", "tests.told_to_stop", module, function, "1", "mine", *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 75, done.stderr
    workdir = Path(asked[1].removeprefix("--workdir="))
    assert not list((workdir / "mined").glob("*.jsonl"))
    assert run(["mine", *asked]) == 0
    (mined,) = (workdir / "mined").glob("*.jsonl")
    assert len(mined.read_text().splitlines()) == 20
    upload(mined, f"{bucket}/mined.jsonl")
    again = [*asked, f"--workdir={tmp_path / 'again'}", f"--corpus.queries={bucket}/mined.jsonl"]
    assert run(["prepare", *again]) == 0
    (store,) = (tmp_path / "again").glob("queries-*")
    assert json.loads((store / "manifest.json").read_text())["notes"]["negatives"] > 0


def test_questions_in_s3_are_answered(bucket, asked, tmp_path, capsys):
    path = tmp_path / "nq.jsonl"
    path.write_text("".join(json.dumps({"question": f"river {i}", "answer": [f"river {i}"]}) + "\n" for i in range(5)))
    upload(path, f"{bucket}/nq.jsonl")
    capsys.readouterr()
    assert run(["answer", *asked, f"--answer.questions={bucket}/nq.jsonl"]) == 0
    assert "all answers are in" in capsys.readouterr().out


@pytest.mark.timeout(1_200)
def test_a_trainer_and_its_refresher_on_a_corpus_in_s3_are_killed_and_stopped_and_end(bucket, corpus, tmp_path):
    argv = arguments(f"{bucket}/documents.jsonl", tmp_path / "run", "--steps=12", "--neighbours.every=4",
                     "--passages.length=32", "--objective.passage_length=32", "--diagnose_every=0",
                     "--neighbours.refresh=asynchronous", "--embed.shard_size=20", "--embed.batch=16")  # fmt: skip
    argv[0] = f"--config={ROOT / 'configs' / 'realm.py'}:tiny"
    assert run(["prepare", *argv]) == 0
    trainer, refresher = start("train", *argv), start("refresh", *argv)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while trainer.poll() is None and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.1)
    refresher.send_signal(signal.SIGTERM)
    trainer.kill()
    for running in (trainer, refresher):
        running.communicate(timeout=400)
    assert (trainer.returncode, refresher.returncode) == (-signal.SIGKILL, 75)
    trainer, refresher = start("train", *argv), start("refresh", *argv)
    for running in (trainer, refresher):
        _, said = running.communicate(timeout=500)
        assert running.returncode == 0, said


def test_a_bucket_that_is_not_there_is_one_message_within_seconds(bucket, tmp_path, capsys):
    before = time.monotonic()
    assert run(["prepare", *arguments("s3://nosuch/documents.jsonl", tmp_path)]) == 3
    assert time.monotonic() - before < 30
    said = capsys.readouterr().err
    assert "s3://nosuch/documents.jsonl" in said and "Traceback" not in said
