"""Passages looked up while training: always in the version of the index that belongs to the step."""

import fcntl
import itertools
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax import io
from dense_jax.augmented.neighbours import Neighbours, Version
from dense_jax.augmented.refresher import refresh
from dense_jax.augmented.versions import VERSIONS, Library, Versions
from dense_jax.config import (
    CheckpointConfig,
    Config,
    EmbedConfig,
    IndexConfig,
    IndexKind,
    MeshConfig,
    NeighboursConfig,
    OptimizerConfig,
    Refresh,
    Stale,
)
from dense_jax.data.inputs import stack_tokens
from dense_jax.errors import NonFiniteError, Stopped
from dense_jax.mesh import make_mesh
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.loop import initial_state, make_program
from dense_jax.train.metrics import MetricsLog
from dense_jax.train.restore import load_trained
from dense_jax.train.same_run import NO_DATA, record
from tests.programs import train_workdir
from tests.toys import VOCABULARY, Borrower, MemoryStore, ToyTokenizer

pytestmark = pytest.mark.usefixtures("shared_programs")

STORE = MemoryStore(60)
LIBRARY = Library(STORE, ToyTokenizer(), "toys")


def config(neighbours: NeighboursConfig | None = None, **settings) -> Config:
    common = {"objective": Borrower(), "steps": 10, "batch": 8, "log_every": 1, "diagnose_every": 0}
    rest = {"optimizer": OptimizerConfig(0.1), "embed": EmbedConfig(batch=16, shard_size=25)}
    return Config(**common | rest | settings, neighbours=neighbours or NeighboursConfig(every=4))


def run(workdir, asked) -> list[np.ndarray]:
    """Trains; the rows found for each batch, in order."""
    workdir.mkdir(exist_ok=True)
    train_workdir(asked, STORE, VOCABULARY, workdir, library=LIBRARY)
    return asked.objective.seen


def watched(neighbours: NeighboursConfig, **settings) -> tuple[Config, list[list[np.ndarray]]]:
    """A config whose objective notes the questions of each batch."""
    questions = []

    class Watched(Borrower):
        def join(self, examples, found, passages, vocabulary):
            asked = examples.inputs["query"]
            questions.append([ids[mask] for ids, mask in zip(asked.ids, asked.mask, strict=True)])
            return super().join(examples, found, passages, vocabulary)

    return config(neighbours, objective=Watched(), **settings), questions


def lines(workdir) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if "second" not in k and not k.startswith("time/")}
        for row in rows
        if "loss" in row
    ]


def embedding(workdir, asked: Config, step: int = -1) -> np.ndarray:
    return np.asarray(load_trained(asked, workdir, step).towers.query.params["embedding"])


def best(table: np.ndarray, questions: list[np.ndarray], k: int, queries: np.ndarray | None = None) -> np.ndarray:
    """The rows of the passages with the largest inner products, by numpy; of equal ones the first.

    The embedding `table` is that of the passages, and of the questions unless `queries` is theirs.
    """
    passages = np.stack([table[[VOCABULARY.cls, *tokens, VOCABULARY.sep]].mean(0) for tokens in cut(STORE.tokens)])
    of_questions = table if queries is None else queries
    scores = np.stack([of_questions[tokens].mean(0) for tokens in questions]) @ passages.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def cut(texts):
    """As long as the toy tower takes them, with its special tokens."""
    return [tokens[: Borrower().length - 2] for tokens in texts]


@pytest.mark.slow
def test_the_index_is_made_anew_every_few_steps(tmp_path):
    run(tmp_path, config())
    assert [(row["step"], row["index/step"], row["index/staleness"]) for row in lines(tmp_path)] == [
        (1, 0, 0), (2, 0, 1), (3, 0, 2), (4, 0, 3), (5, 4, 0), (6, 4, 1), (7, 4, 2), (8, 4, 3), (9, 8, 0), (10, 8, 1),
    ]  # fmt: skip
    made = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "index/share" in line]
    assert [row["step"] for row in made] == [0, 4, 8]
    assert all(0 < row["index/share"] < 1 for row in made)


@pytest.mark.slow
def test_looking_up_ahead_changes_nothing(tmp_path):
    found = [run(tmp_path / str(ahead), config(NeighboursConfig(every=4, ahead=ahead))) for ahead in (0, 1, 5)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    assert lines(tmp_path / "0") == lines(tmp_path / "1") == lines(tmp_path / "5")


@pytest.mark.slow
def test_an_index_made_before_every_step_gives_the_exact_best_of_the_present_parameters(tmp_path):
    asked, questions = watched(NeighboursConfig(every=1), checkpoint=CheckpointConfig(keep=20))
    found = run(tmp_path, asked)
    for step in range(asked.steps):
        table = embedding(tmp_path, asked, step)
        np.testing.assert_array_equal(found[step], best(table, questions[step], 2))


class Diagnosed(Borrower):
    """Logs the token ids of its first query and of the passages that were found for it."""

    def collapse_metrics(self, params, carry, batch):
        return {"query": batch["query"].ids[0, 0], "found": batch["found"].ids[0].sum()}


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_diagnosis_looks_up_passages_for_the_same_queries_in_the_index_in_use(tmp_path, fresh, monkeypatch):
    monkeypatch.setattr(Diagnosed, "fresh", fresh)
    asked = config(objective=Diagnosed(), diagnose_every=3, checkpoint=CheckpointConfig(every=1, keep=20))
    run(tmp_path, asked)
    signs = [(row["collapse/query"], row["collapse/found"]) for row in lines(tmp_path) if "collapse/query" in row]
    questions = watched(NeighboursConfig(every=4))
    run(tmp_path / "watched", questions[0])
    first, expected = questions[1][0], []
    for step, index in ((3, 0), (6, 4), (9, 8)):
        of_passages = embedding(tmp_path, asked, index)
        of_queries = embedding(tmp_path, asked, step) if fresh else of_passages
        rows = best(of_passages, first, 2, queries=of_queries)[0]
        tokens = np.concatenate([STORE.tokens[row] for row in rows])[: asked.objective.length]
        expected.append((first[0][0], tokens.sum()))
    assert signs == expected


class Interrupted(Borrower):
    """Breaks off when the eighth batch is looked up."""

    def join(self, examples, found, passages, vocabulary):
        if len(self.seen) == 7:
            raise KeyboardInterrupt
        return super().join(examples, found, passages, vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", "the version", "its last word", "a byte"])
def test_a_restart_between_two_indexes_goes_on_to_the_last_bit(tmp_path, lost):
    straight = config()
    run(tmp_path / "straight", straight)
    broken = config(checkpoint=CheckpointConfig(every=3, keep=1))
    broken.objective.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "restarted", broken)  # saved at step 6; in use: the index of step 4
    shutil.copy(tmp_path / "straight" / "config.json", tmp_path / "restarted")  # without the class that broke off
    version = tmp_path / "restarted" / VERSIONS / "00000004"
    if lost == "the version":
        files_of = sorted(version.rglob("*"), reverse=True)
        for path in files_of:
            path.rmdir() if path.is_dir() else path.unlink()
    elif lost == "its last word":
        (version / "manifest.json").unlink()
    elif lost == "a byte":
        shard = next((version / "vectors").glob("*.npy"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    again = config(checkpoint=CheckpointConfig(every=3, keep=1))
    run(tmp_path / "restarted", again)
    np.testing.assert_array_equal(embedding(tmp_path / "straight", straight), embedding(tmp_path / "restarted", again))
    assert lines(tmp_path / "straight") == lines(tmp_path / "restarted")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [IndexKind.APPROXIMATE, pytest.param(IndexKind.SCANN, marks=pytest.mark.slow)])
def test_every_kind_of_index_finds_the_same_in_a_small_corpus(tmp_path, kind):
    """ScaNN opens all of its leaves here; on a CPU the approximate operation misses nothing."""
    store = MemoryStore(400)
    every_leaf = IndexConfig(leaves=4, leaves_searched=4, reorder=400)
    found = []
    for one in (IndexKind.EXACT, kind):
        asked = config(NeighboursConfig(kind=one, every=4), index=every_leaf)
        workdir = tmp_path / one.value
        workdir.mkdir()
        train_workdir(asked, store, VOCABULARY, workdir, library=Library(store, ToyTokenizer(), "toys"))
        found.append(np.sort(asked.objective.seen, axis=-1))  # equal scores may stand in either order
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_the_fresher_the_index_the_more_of_the_present_best_it_finds(tmp_path):
    """Overlap of what was found with what the parameters of the step would find, over a fast run."""
    overlaps = []
    for every in (1, 4, 16):
        asked, questions = watched(NeighboursConfig(every=every), steps=16, checkpoint=CheckpointConfig(1, keep=20))
        found = run(tmp_path / str(every), asked)
        tables = [embedding(tmp_path / str(every), asked, step) for step in range(16)]
        fresh = [best(table, asked_for, 2) for table, asked_for in zip(tables, questions, strict=True)]
        shared = [len(set(a) & set(b)) for f, g in zip(found, fresh, strict=True) for a, b in zip(f, g, strict=True)]
        overlaps.append(np.mean(shared) / 2)
    assert overlaps[0] == 1
    assert overlaps[0] > overlaps[1] > overlaps[2]


# ---- asynchronous: another process makes the versions


class Beside:
    """A trainer that stands at a step, with the checkpoints of steps 0, 10 and 20, and what is made beside it."""

    def __init__(self, workdir, **settings):
        defaults = {"refresh": Refresh.ASYNCHRONOUS, "every": 10, "max_staleness": 25, "keep": 2, "ahead": 0}
        self.workdir, self.said = workdir, []
        self.asked = config(NeighboursConfig(**defaults | settings), steps=100)
        self.program = make_program(self.asked)
        self.checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig(keep=10))
        state = initial_state(self.program)
        for step in (0, 10, 20):
            self.checkpoints.save(step, state, {})
            self.checkpoints.finish()
        record(self.asked, workdir, NO_DATA)
        self.versions = Versions(workdir / VERSIONS, LIBRARY, self.asked, self.program.mesh)
        self.log = MetricsLog(workdir, first=0, last=100, every=10, batch=8, names=str)
        self.log.say = self.said.append  # pyright: ignore[reportAttributeAccessIssue]
        self.neighbours = self.started(version=0)

    def started(self, version: int) -> Neighbours:
        like = self.program.like.params
        return Neighbours(self.asked, self.versions, self.checkpoints, like, self.log, version)

    def make(self, step: int) -> None:
        self.versions.make(step, self.tower, self.checkpoints.fingerprint(step))

    def prune(self) -> None:
        self.versions.prune(self.checkpoints.fingerprints(self.versions.begun()))

    @property
    def tower(self):
        return self.asked.objective.towers(initial_state(self.program).params).passage

    def at(self, step: int) -> int:
        """The version in use after an update at `step`."""
        self.neighbours.update(step)
        return self.neighbours.step


@pytest.fixture
def beside(tmp_path):
    made = []

    def make(**settings):
        made.append(Beside(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.log.close()
        one.checkpoints.close()


def test_the_first_index_is_made_by_the_trainer_itself(beside):
    trainer = beside()
    assert trainer.at(0) == 0
    assert trainer.versions.committed() == [0]


def test_the_trainer_changes_to_a_newer_version_when_it_looks(beside):
    trainer = beside()
    assert trainer.at(10) == 0
    trainer.make(10)
    assert trainer.at(13) == 0  # it looks every ten steps
    assert trainer.at(20) == 10


@pytest.mark.slow
def test_a_version_of_a_later_step_than_the_trainers_is_not_used(beside):
    trainer = beside()
    trainer.make(20)  # from before the trainer was set back
    assert trainer.at(10) == 0
    assert trainer.at(20) == 20


@pytest.mark.slow
def test_a_version_of_another_checkpoint_of_the_same_step_is_not_used_but_made_anew(beside):
    trainer = beside()
    trainer.versions.make(10, trainer.tower, "of a run that is no more")
    assert trainer.at(20) == 0
    trainer.make(10)
    assert trainer.at(20) == 10


def test_a_damaged_version_is_refused_with_a_word_and_the_old_one_stays(beside):
    trainer = beside(max_staleness=0)
    trainer.make(10)
    shard = next((trainer.workdir / VERSIONS / "00000010" / "vectors").glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert trainer.at(20) == 0
    assert trainer.at(30) == 0  # not read again
    assert len([text for text in trainer.said if "the index of step 10 is refused, 0 stays in use" in text]) == 1


@pytest.mark.slow
def test_whoever_makes_a_version_may_die_at_any_write_and_the_trainer_never_sees_a_part(beside, monkeypatch):
    trainer = beside()
    assert trainer.at(0) == 0
    folder = trainer.workdir / VERSIONS / "00000010"
    trainer.make(10)
    expected = io.digests(folder)
    whole_file, writes = io.whole_file, iter(())

    def dying(path):
        if next(writes, None) == "dies":
            raise KeyboardInterrupt
        return whole_file(path)

    for module in ("dense_jax.io", "dense_jax.retrieval.embed"):
        monkeypatch.setattr(f"{module}.whole_file", dying)
    for before in range(
        10
    ):  # claims of version and vectors, three shards, ids, manifest, the index's claim and manifest, the last manifest
        shutil.rmtree(folder)
        writes = iter([*["lives"] * before, "dies"])
        with pytest.raises(KeyboardInterrupt):
            trainer.make(10)
        assert trainer.versions.committed() == [0]
        assert trainer.at(20) == 0
        trainer.make(10)
        assert io.digests(folder) == expected
    assert trainer.at(20) == 10


@pytest.mark.slow
def test_of_two_makers_of_a_version_one_waits_and_finds_it_made(beside, monkeypatch):
    trainer, written = beside(), []
    whole_file = io.whole_file

    def slow(path):
        written.append(path)
        time.sleep(0.02)
        return whole_file(path)

    for module in ("dense_jax.io", "dense_jax.retrieval.embed"):
        monkeypatch.setattr(f"{module}.whole_file", slow)
    other = Versions(trainer.versions.folder, LIBRARY, trainer.asked, trainer.program.mesh)
    tower, checkpoint = trainer.tower, trainer.checkpoints.fingerprint(10)
    with ThreadPoolExecutor(2) as threads:
        makers = [threads.submit(one.make, 10, tower, checkpoint) for one in (trainer.versions, other)]
        for maker in makers:
            maker.result()
    assert len(written) == len(set(written)) == 11  # with the ids of the library


def test_the_ids_of_the_library_are_read_from_its_texts_once(beside, monkeypatch):
    trainer, read = beside(), []
    monkeypatch.setattr(STORE, "ids", lambda: read.append(1) or MemoryStore.ids(STORE))
    for step in (0, 10):
        trainer.make(step)
    assert len(read) == 1
    assert trainer.versions.open(10).vectors.ids == MemoryStore.ids(STORE)


def test_too_old_an_index_is_said_where_that_is_asked_for(beside):
    trainer = beside(stale=Stale.WARN)
    assert trainer.at(25) == 0
    assert not any("old" in text for text in trainer.said)
    assert trainer.at(30) == 0
    assert "the index is 30 steps old (neighbours.max_staleness=25)" in trainer.said[-1]


@pytest.mark.slow
def test_too_old_an_index_is_replaced_by_the_trainer_where_that_is_asked_for(beside):
    trainer = beside(stale=Stale.REFRESH)
    assert trainer.at(26) == 20
    assert trainer.versions.committed() == [0, 20]


@pytest.mark.slow
def test_the_trainer_waits_for_a_newer_version_and_then_makes_one_itself(beside, monkeypatch):
    trainer = beside(patience=3.0)
    trainer.at(0)
    pauses = []
    monkeypatch.setattr(
        "dense_jax.augmented.neighbours.time.sleep", lambda seconds: (pauses.append(1), trainer.make(10))
    )
    assert trainer.at(26) == 10
    assert len(pauses) == 1
    clock = itertools.count()
    monkeypatch.setattr("dense_jax.augmented.neighbours.time.sleep", lambda seconds: pauses.append(1))
    monkeypatch.setattr("dense_jax.augmented.neighbours.time.monotonic", lambda: float(next(clock)))
    assert trainer.at(36) == 20
    assert any("the trainer makes one itself" in text for text in trainer.said)


def test_a_restarted_trainer_goes_on_with_the_version_it_had(beside):
    trainer = beside()
    trainer.make(10)
    trainer.make(20)
    trainer.neighbours = trainer.started(version=10)
    assert trainer.at(21) == 10


def test_where_the_checkpoint_of_its_version_is_gone_the_newest_complete_one_is_used(beside):
    trainer = beside()
    trainer.make(10)
    trainer.neighbours = trainer.started(version=5)
    assert trainer.at(21) == 10
    assert "the checkpoint of the index in use, of step 5, is gone; goes on with 10" in trainer.said[0]


def test_where_the_checkpoint_of_its_version_is_damaged_it_is_put_aside_and_another_one_used(beside):
    trainer = beside()
    trainer.make(10)
    damaged = next((trainer.workdir / "checkpoints" / "10").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    trainer.neighbours = trainer.started(version=10)
    assert trainer.at(21) == 20
    assert "the checkpoint of the index in use, of step 10, is gone; goes on with 20" in trainer.said[0]
    assert (trainer.workdir / "checkpoints" / "quarantine" / "10").is_dir()


@pytest.mark.slow
def test_a_version_whose_checkpoint_is_damaged_is_refused_with_a_word_and_the_old_one_stays(beside):
    trainer = beside(max_staleness=0)
    trainer.at(0)
    trainer.make(10)
    damaged = next((trainer.workdir / "checkpoints" / "10").rglob("d/*"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert trainer.at(20) == 0
    assert "the index of step 10 is refused, 0 stays in use: checkpoint of step 10: " in trainer.said[-1]


def told_at(monkeypatch, checkpoints: Checkpoints, call: int) -> None:
    """SIGTERM is heard when it is asked about for so many times."""
    answers = itertools.count(1)
    monkeypatch.setattr(checkpoints, "preempted", lambda: next(answers) == call)


def test_sigterm_while_waiting_for_a_version_ends_the_run(beside, monkeypatch):
    trainer = beside()
    trainer.at(0)
    monkeypatch.setattr("dense_jax.augmented.neighbours.time.sleep", lambda seconds: None)
    told_at(monkeypatch, trainer.checkpoints, 3)
    with pytest.raises(Stopped, match="stopped while an index was waited for or made, saved"):
        trainer.at(26)


def test_sigterm_while_a_version_is_made_ends_it_between_two_shards_and_it_is_gone_on_with(beside, monkeypatch):
    trainer = beside()
    told_at(monkeypatch, trainer.checkpoints, 3)
    with pytest.raises(Stopped):
        trainer.at(0)
    vectors = trainer.workdir / VERSIONS / "00000000" / "vectors"
    assert len(list(vectors.glob("*.npy"))) == 2  # of three
    kept = io.digests(vectors, "*.npy")
    assert trainer.at(0) == 0
    assert kept.items() < io.digests(vectors, "*.npy").items()


@pytest.mark.slow
@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_stop_requested_while_it_makes_an_index_saves_its_state(tmp_path, monkeypatch, saved):
    """At step 4 a snapshot is saved anyway; here the feed asks for an index at step 6, which nobody saves."""
    straight = config()
    run(tmp_path / "straight", straight)
    stopped = config()
    update = Neighbours.update

    def stopping(self: Neighbours, step: int) -> None:
        if step == (4 if saved else 6):
            raise Stopped("told to stop")
        update(self, step)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Neighbours, "update", stopping)
        run(tmp_path / "stopped", stopped)
    steps = [row["step"] for row in lines(tmp_path / "stopped")]
    assert steps == list(range(1, 5 if saved else 7))
    assert (tmp_path / "stopped" / "checkpoints" / str(steps[-1])).is_dir()
    run(tmp_path / "stopped", config())
    assert lines(tmp_path / "stopped") == lines(tmp_path / "straight")


@pytest.mark.slow
def test_whoever_makes_a_version_and_does_not_end_is_waited_for_and_then_left_to_itself(beside, monkeypatch, capsys):
    trainer = beside(patience=1.0)
    lock = trainer.workdir / VERSIONS / "00000000.lock"
    lock.parent.mkdir()
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert trainer.at(0) == 0
    assert "another program makes" in capsys.readouterr().err
    assert trainer.versions.committed() == [0]


def test_sigterm_is_heard_while_another_program_makes_a_version(beside, monkeypatch):
    trainer = beside()
    lock = trainer.workdir / VERSIONS / "00000000.lock"
    lock.parent.mkdir()
    told_at(monkeypatch, trainer.checkpoints, 2)
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Stopped):
            trainer.at(0)


def test_what_was_left_half_made_is_removed_once_it_is_of_no_use(beside, monkeypatch):
    trainer = beside()
    trainer.at(0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("dense_jax.retrieval.index.build_index", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        trainer.make(10)
    assert trainer.versions.begun() == [0, 10]
    trainer.prune()
    assert trainer.versions.begun() == [0, 10]  # it may be gone on with
    trainer.make(20)
    trainer.prune()
    assert trainer.versions.begun() == [0, 20]


@pytest.mark.slow
def test_refresh_makes_a_version_anew_that_is_of_another_checkpoint_of_its_step(beside):
    trainer = beside()
    trainer.versions.make(20, trainer.tower, "of a run that is no more")
    seen = []

    def trained(step):
        seen.append(step)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return load_trained(trainer.asked, trainer.workdir, step)

    with pytest.raises(Stopped):
        refresh(trainer.versions, trainer.workdir, 100, trained, pause=stop)
    assert trainer.at(20) == 20


def stop(seconds):
    raise Stopped("as SIGTERM does")


@pytest.mark.slow
def test_checkpoints_that_a_version_is_made_of_are_kept(beside):
    trainer = beside()
    trainer.at(0)
    trainer.make(10)
    few = Checkpoints(trainer.workdir / "checkpoints", CheckpointConfig(keep=1))
    trainer.checkpoints = few
    trainer.neighbours = trainer.started(version=0)
    few.save(30, initial_state(trainer.program), {})
    few.finish()
    assert few.steps() == [0, 10, 30]
    few.close()


def test_refresh_makes_the_index_of_the_newest_snapshot(beside):
    trainer = beside()
    with pytest.raises(Stopped):
        refresh(
            trainer.versions,
            trainer.workdir,
            100,
            lambda step: load_trained(trainer.asked, trainer.workdir, step),
            pause=stop,
        )
    assert trainer.versions.committed() == [20]
    assert trainer.at(20) == 20


def test_refresh_ends_with_the_last_step_whose_index_nobody_needs(beside):
    trainer = beside()
    refresh(trainer.versions, trainer.workdir, 20, lambda step: pytest.fail("nothing is to be made"))
    assert trainer.versions.committed() == []


def test_old_versions_are_removed(beside):
    trainer = beside(keep=2)
    for step in (0, 10, 20):
        trainer.make(step)
    trainer.prune()
    assert trainer.versions.begun() == [10, 20]


def test_the_lock_of_a_version_that_is_removed_goes_with_it(beside):
    trainer = beside(keep=2)
    for step in (0, 10, 20):
        trainer.make(step)
    (trainer.versions.folder / "00000005.lock").touch()  # of a version that is long gone
    trainer.prune()
    left = sorted(path.name for path in trainer.versions.folder.glob("0*"))
    assert left == ["00000010", "00000010.lock", "00000020", "00000020.lock"]


def test_what_an_interrupted_removal_left_is_removed_and_what_is_being_made_is_not(beside):
    trainer = beside()
    for step in (0, 10):
        trainer.make(step)
        (trainer.versions.folder / f"{step:08d}" / "claim.json").unlink()
    with (trainer.versions.folder / "00000010.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        trainer.prune()
    assert sorted(path.name for path in trainer.versions.folder.glob("0*")) == ["00000010", "00000010.lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("claim.json", "{"),
        ("claim.json", '{"settings": {"checkpoint": "of a run that is no more", "passages": "toys"}}'),
        ("manifest.json", "{"),
        ("manifest.json", '{"settings": {}, "files": {"vectors/manifest.json": "0"}}'),
        ("vectors/manifest.json", "{}"),
        ("index/manifest.json", "["),
        ("vectors/ids.json", "[]"),
    ],
)
def test_a_damaged_file_of_a_version_is_named_before_the_version_is_made_again(beside, capsys, file, content):
    trainer = beside()
    trainer.make(0)
    folder = trainer.versions.folder / "00000000"
    sound = io.digests(folder)
    (folder / file).write_text(content)
    assert trainer.at(0) == 0
    assert io.digests(folder) == sound
    said = capsys.readouterr().err
    assert str(folder / file) in said and "the index of step 0 is made again" in said


def test_versions_of_a_future_that_was_given_up_make_room_for_new_ones(beside):
    trainer = beside(keep=2)
    for step in (10, 20):
        trainer.versions.make(step, trainer.tower, "of a run that is no more")
    trainer.make(0)
    trainer.prune()
    assert trainer.versions.committed() == [0]


def test_eight_devices_find_what_one_finds(tmp_path):
    tower = config().objective.towers(initial_state(make_program(config())).params).passage
    found = []
    for count in (1, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:count])
        versions = Versions(tmp_path / str(count), LIBRARY, config(), mesh)
        versions.make(0, tower, "a checkpoint")
        found.append(versions.open(0).search(np.eye(4, dtype=np.float32), 60).rows)
    np.testing.assert_array_equal(*found)


def test_a_corpus_with_fewer_passages_than_are_wanted_gives_those_it_has(tmp_path):
    asked, mesh = config(), make_mesh(config().mesh)
    towers = asked.objective.towers(initial_state(make_program(asked)).params)
    versions = Versions(tmp_path, Library(MemoryStore(1), ToyTokenizer(), "one"), asked, mesh)
    versions.make(0, towers.passage, "a checkpoint")
    encoder = towers.query.encoder
    encode = jax.jit(lambda params, tokens: encoder.apply(params, tokens))
    version = Version(0, 0.0, versions.open(0), towers.query.params, encode, asked.objective, mesh)
    question = stack_tokens([asked.objective._tokens(np.array([7, 8]))] * 8)
    found = version.find({"query": question})
    assert found.rows.tolist() == [[0, -1]] * 8
    np.testing.assert_array_equal(found.vectors[:, 0], np.repeat(version.index.vectors.array(), 8, axis=0))
    assert not found.vectors[:, 1].any()


@dataclass
class Diverging(Borrower):
    """Its first step makes the parameters NaN, and the second one searches with them."""

    fresh = True

    def combine(self, carry, encoded, batch, *, step):
        loss, rest = super().combine(carry, encoded, batch, step=step)
        return loss * jnp.nan, rest


@pytest.mark.parametrize("diagnose_every", [0, 1])
def test_a_run_that_diverges_says_so_before_its_search_does(tmp_path, diagnose_every):
    with pytest.raises(NonFiniteError, match="step 1: loss nan"):
        run(tmp_path, config(NeighboursConfig(every=0), objective=Diverging(), diagnose_every=diagnose_every))
