"""One process at a time writes a folder; who writes it is named, and a killed writer leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import write_json
from dense_jax.processes.locks import alone, lock_of
from tests.sources import rows, write

HOLD = """
import fcntl, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
lock = path.open("a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write("process 1 on elsewhere")
lock.flush()
print(flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def held(path):
    """A lock that another process holds."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        yield other
    finally:
        other.kill()
        other.communicate()


ROOT = Path(__file__).parent.parent.parent
CONFIG = "--config=configs/ict.py:tiny"


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source" / "rows.jsonl", rows(30))


def prepare(source, work):
    settings = {"corpus.source": source, "corpus.held_out": 0, "tokenizer.vocab_size": 80, "passages.length": 32}
    return run(["prepare", CONFIG, f"--workdir={work}", *(f"--{key}={v}" for key, v in settings.items())])


@pytest.mark.slow
def test_t16_a_second_prepare_is_refused_by_the_name_of_the_first_and_works_once_that_is_gone(source, tmp_path, capsys):
    work = tmp_path / "work"
    with held(work / "prepare.lock") as other:
        assert prepare(source, work) == ConfigError.code
        said = capsys.readouterr().err
        assert f"{work} is being prepared by process 1 on elsewhere" in said
        assert "wait until it ends, or use another --workdir" in said
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert prepare(source, work) == 0


def test_a_prepare_names_itself_while_it_works(source, tmp_path, capsys, monkeypatch):
    from dense_jax import run as stages

    said = []
    monkeypatch.setattr(
        stages, "prepare", lambda config, root: said.append((root / "prepare.lock").read_text()) or {"a": 1}
    )
    prepare(source, tmp_path / "work")
    assert said[0].startswith(f"process {os.getpid()} on ")


WRITE = """
import pathlib, sys
from dense_jax.io import whole_file
with whole_file(pathlib.Path(sys.argv[1])) as partial:
    partial.write_text(sys.argv[2])
    print(flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def writing(path, text):
    """A process that has written `text` and will name it `path` at the next line of its input."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writer = subprocess.Popen([sys.executable, "-c", WRITE, path, text], cwd=ROOT, **pipes)
    try:
        writer.stdout.readline()
        yield writer
    finally:
        writer.kill()
        writer.communicate()


@pytest.mark.slow
def test_two_processes_that_write_one_file_do_not_mix_their_bytes(tmp_path):
    path = tmp_path / "a.txt"
    with writing(path, "first") as first, writing(path, "2nd") as second:
        for writer, text in ((first, "first"), (second, "2nd")):
            writer.communicate("go\n")
            assert writer.returncode == 0
            assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "a.txt"
    with writing(path, "half"):
        write_json(path, "mine")
        assert len(list(tmp_path.iterdir())) == 2  # the other one still writes
    write_json(path, "mine again")
    assert list(tmp_path.iterdir()) == [path]


class Unused:
    """A retriever that is never reached."""

    def find(self, queries, positives, k):
        raise NotImplementedError


def collected(root):
    """A collection in `root`, in a folder that its content names."""
    from dense_jax.data.preparation.collection import open_collection, prepare_collection
    from dense_jax.data.tokenizer import Tokenizer
    from tests.sources import config

    settings = config(write(root.parent / "rows.jsonl", rows(3)))
    corpus = open_collection(settings.corpus.source, settings)
    return prepare_collection(corpus, settings, Tokenizer.train(["a b c d"], 40, True), root, "rows")


@pytest.mark.parametrize("kind", ["embedded", "built", "mined", "exported", "prepared"])
def test_every_folder_that_a_verb_writes_is_locked(tmp_path, kind):
    from dense_jax.config import IndexConfig, MineConfig
    from dense_jax.hf.export import export
    from dense_jax.hf.model_card import CardContent
    from dense_jax.mesh import process_mesh
    from dense_jax.retrieval import embed, index, mine
    from tests import toys

    folder, store, tower = tmp_path / "parent" / "made", toys.MemoryStore(), toys.BagOfTokens()
    towers = tower.towers(tower.init(__import__("jax").random.key(0)))

    def embedded(to):
        return embed.embed(
            store, towers.passage, toys.ToyTokenizer(), process_mesh(), to, batch=8, shard_size=8, made_by={}
        )

    def exported():
        from dense_jax.data.tokenizer import Tokenizer

        Tokenizer.train(["a b c d"], 40, True).save(tmp_path / "tokenizer")
        export(towers, tmp_path / "tokenizer", folder, CardContent("a", "b", "c", 1, 1))

    if kind == "prepared":
        folder = tmp_path / "parent" / collected(tmp_path / "elsewhere").folder.name
    work = {
        "embedded": lambda: embedded(folder),
        "built": lambda: index.build_index(embedded(tmp_path / "vectors"), IndexConfig(), folder, process_mesh()),
        "mined": lambda: mine.mine(toys.QuestionStore(), store, Unused(), MineConfig(), folder, {}),
        "exported": exported,
        "prepared": lambda: collected(tmp_path / "parent"),
    }[kind]
    with (
        held(lock_of(folder)),
        pytest.raises(ConfigError, match=f"{folder.name} is being {kind} by process 1 on elsewhere"),
    ):
        work()
    assert not folder.exists()


def test_results_of_two_evaluations_are_written_one_after_the_other(tmp_path):
    from dense_jax.augmented.qa_report import Provenance, Report

    report = Report(Provenance("q.jsonl", "c", 3, 1), "nq", {"x": 1.0}, {}, [])
    with held(lock_of(tmp_path / "results")) as other:
        writer = threading.Thread(target=report.write, args=(tmp_path / "results",))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert not (tmp_path / "results").exists()
        other.kill()
        writer.join(60)
    assert (tmp_path / "results" / "table.md").is_file()


def test_a_finished_folder_is_read_whoever_holds_its_lock(tmp_path):
    with held(lock_of(collected(tmp_path).folder)):
        assert len(collected(tmp_path)) == 3


def test_a_lock_in_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="may not be written"),
        alone(tmp_path / "file" / "x.lock", "x is being made"),
    ):
        pass


def test_the_lock_file_stands_next_to_its_folder():
    assert lock_of(Path("runs/a.b")) == Path("runs/a.b.lock")
