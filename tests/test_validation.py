"""Validation while training: what they find, which state they choose, when they end a run."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.compare import grouped, read_run
from dense_jax.config import (
    CheckpointConfig,
    Config,
    EmbedConfig,
    IndexConfig,
    IndexKind,
    OptimizerConfig,
    Select,
    ValidationConfig,
)
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.io import read_json, write_json
from dense_jax.retrieval import beir, index, search
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.evaluate import evaluate
from dense_jax.train.loop import make_program
from dense_jax.train.restore import load_trained
from dense_jax.train.validation import FILE, History, read_history, selected_step
from dense_jax.train.validator import Sample, Validator
from dense_jax.train.warm_start import warm_start
from tests.programs import train_workdir
from tests.toys import VOCABULARY, BagOfTokens, MeanEmbedding, MemoryStore

pytestmark = pytest.mark.usefixtures("shared_programs")

STORE = MemoryStore(150)
QUERIES = {f"q{i}": " ".join(map(str, STORE.tokens[i][::2])) for i in range(0, 60, 3)}
QRELS = {query: {query.replace("q", "doc"): 1} for query in QUERIES}
QUERIES["doc7"], QRELS["doc7"] = " ".join(map(str, STORE.tokens[7])), {"doc8": 1}  # a query that is a document itself


class Numbers:
    """The tokenizer of texts that are numbers."""

    vocabulary = VOCABULARY

    def encode(self, texts):
        return [np.array([int(word) for word in text.split()], np.int32) for text in texts]

    def prompt_ids(self, prompt):
        return self.encode([prompt])[0]


SAMPLE = Sample(beir.TestSet("toys", "dev", QUERIES, QRELS, ()), STORE, Numbers(), "toys")


class Scripted(Validator):
    """A validator with a script of results."""

    def __init__(self, *values):
        self.values, self.sample = list(values), SAMPLE

    def __call__(self, params):
        value = self.values.pop(0)
        return {"nDCG@10": value, "MRR@10": 1 - value, "Recall@100": value}


def config(checkpoint=None, objective=None, steps=10, **validation) -> Config:
    return Config(
        objective=objective or BagOfTokens(),
        steps=steps,
        batch=8,
        log_every=3,
        optimizer=OptimizerConfig(0.1),
        checkpoint=checkpoint or CheckpointConfig(every=100),
        embed=EmbedConfig(batch=16),
        validation=ValidationConfig(**({"every": 2} | validation)),
    )


@pytest.fixture
def run(tmp_path):
    """Trains in a workdir of this test; validations find `values` if there are any."""

    def run(*values, name="run", sample=SAMPLE, **settings):
        asked = config(**settings)
        validator = Scripted(*values) if values else Validator(sample, asked.objective, 16) if sample else None
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)
        train_workdir(asked, STORE, VOCABULARY, workdir, validator=validator)
        return workdir

    return run


def figures(workdir, measure="nDCG@10"):
    """What metrics.jsonl has of the validations, by step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[f"validation/{measure}"] for row in rows if f"validation/{measure}" in row}


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


def test_a_validation_finds_what_evaluate_finds_on_the_same_collection(tmp_path):
    program = make_program(config())
    params = program.init()
    found = Validator(SAMPLE, BagOfTokens(), 16)(params)
    towers = BagOfTokens().towers(params)
    folder, mesh = tmp_path / "embeddings", program.mesh
    vectors = embed(STORE, towers.passage, Numbers(), mesh, folder, batch=16, shard_size=99, made_by={})
    exact = index.build_index(vectors, IndexConfig(IndexKind.EXACT), tmp_path / "index", mesh)
    result = evaluate(search.dense_search(exact, towers.query, Numbers()), STORE.ids(), SAMPLE.test_set, 100)
    assert found == {name: result.scores.mean[name] for name in ("nDCG@10", "MRR@10", "Recall@100")}
    assert result.counts.identical_ids == 1
    assert 0.05 < found["nDCG@10"] < 1


@dataclasses.dataclass
class Turned(MeanEmbedding):
    """Three views: the mean with its numbers in three orders."""

    views: int = 3

    def apply(self, params, tokens, *, rng=None):
        mean = super().apply(params, tokens, rng=rng)
        return mean if self.views == 1 else jnp.stack([jnp.roll(mean, i, axis=1) for i in range(3)], axis=1)


class TurnedBag(BagOfTokens):
    """A passage has three views."""

    def towers(self, params):
        towers = super().towers(params)
        return dataclasses.replace(towers, passage=dataclasses.replace(towers.passage, encoder=Turned()))


@pytest.mark.slow
def test_of_several_views_the_best_counts(tmp_path):
    program = make_program(config())
    params = program.init()
    found = Validator(SAMPLE, TurnedBag(), 16)(params)
    towers = TurnedBag().towers(params)
    vectors = embed(STORE, towers.passage, Numbers(), program.mesh, tmp_path / "e", batch=16, shard_size=99, made_by={})
    exact = index.build_index(vectors, IndexConfig(IndexKind.EXACT), tmp_path / "index", program.mesh)
    result = evaluate(search.dense_search(exact, towers.query, Numbers()), STORE.ids(), SAMPLE.test_set, 100)
    assert found["nDCG@10"] == result.scores.mean["nDCG@10"]
    assert found != Validator(SAMPLE, BagOfTokens(), 16)(params)


def test_other_parameters_are_validated_without_compiling_again(monkeypatch):
    program, traced = make_program(config()), []
    objective = BagOfTokens()
    apply = type(objective.encoder).apply

    def counted(self, params, tokens, *, rng=None):
        traced.append(tokens.ids.shape)
        return apply(self, params, tokens, rng=rng)

    monkeypatch.setattr(type(objective.encoder), "apply", counted)
    validation, params = Validator(SAMPLE, objective, 16), program.init()
    before = validation(params)
    count = len(traced)
    after = validation(jax.tree.map(lambda x: -x[::-1], params))
    assert len(traced) == count > 0
    assert before != after


def test_figures_are_logged_before_the_first_step_at_every_kth_and_after_the_last(run):
    workdir = run(every=4)
    found = figures(workdir)
    assert list(found) == [0, 4, 8, 10]
    assert found[10] > found[0]
    assert read_history(workdir).steps == [0, 4, 8, 10]
    assert read_json(workdir / FILE)["results"][1] == {
        "step": 4, **{name: figures(workdir, name)[4] for name in ("nDCG@10", "MRR@10", "Recall@100")}
    }  # fmt: skip


def test_without_a_number_of_steps_the_first_and_the_last_state_are_validated(run):
    assert figures(run(0.1, 0.2, every=0)) == {0: 0.1, 10: 0.2}


@pytest.mark.parametrize(("values", "warns"), [((0.3, 0.2), True), ((0.2, 0.3), False), ((0.2, 0.2), False)])
def test_a_training_that_loses_what_the_start_had_warns(run, capsys, values, warns):
    run(*values, every=0)
    said = "warning: training lowered nDCG@10 on the validation sample from 0.300 to 0.200; try a lower --optimizer"
    assert (said in capsys.readouterr().err) == warns


@pytest.mark.slow
def test_validations_change_nothing_in_what_is_trained(run):
    params = []
    for name, every in {"with": 1, "without": 0}.items():
        settings = {"every": every, "sample": SAMPLE if every else None}
        workdir = run(name=name, **settings)
        params.append(load_trained(config(), workdir, -1).towers.query.params["embedding"])
    np.testing.assert_array_equal(*params)


def test_the_best_checkpoint_is_kept_and_is_what_is_meant_where_none_is_named(run):
    few = CheckpointConfig(every=3, keep=1)
    workdir = run(0.1, 0.5, 0.4, 0.5, 0.2, 0.3, checkpoint=few, select=Select.BEST)
    assert kept(workdir) == [0, 2, 10]
    best, newest = (load_trained(config(select=s), workdir, -1) for s in (Select.BEST, Select.NEWEST))
    assert (best.step, newest.step) == (2, 10)
    assert load_trained(config(select=Select.BEST), workdir, 10).step == 10
    mrr = config(select=Select.BEST, measure="MRR@10")
    assert load_trained(mrr, workdir, -1).step == 0


@pytest.mark.slow
def test_an_earlier_best_makes_room(run):
    workdir = run(0.1, 0.2, 0.3, 0.2, 0.4, 0.1, checkpoint=CheckpointConfig(every=100, keep=1), select=Select.BEST)
    assert kept(workdir) == [0, 8, 10]


@pytest.mark.slow
def test_the_earlier_best_stays_until_the_new_one_is_sealed(run, tmp_path, monkeypatch, capsys):
    """Broken off with the last save under way, of which nothing has reached the disk."""
    monkeypatch.setattr("dense_jax.train.checkpoint.Checkpoints.close", lambda self: self._manager.close())
    monkeypatch.setattr("dense_jax.train.checkpoint.Checkpoints.poll", lambda self: None)
    once = CheckpointConfig(every=100, keep=1)
    with pytest.raises(IndexError):
        run(0.1, 0.2, 0.3, checkpoint=once, select=Select.BEST)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    workdir = run(0.3, 0.2, 0.2, 0.2, checkpoint=once, select=Select.BEST)
    assert "continuing from step 2" in capsys.readouterr().err
    assert [validation["nDCG@10"] for validation in read_history(workdir).results] == [0.1, 0.2, 0.3, 0.2, 0.2, 0.2]
    assert selected_step(workdir, Select.BEST, "nDCG@10", kept(workdir)) == 4


def test_without_it_the_best_is_not_saved_and_asking_for_it_says_why(run):
    workdir = run(0.1, 0.5, 0.4, 0.5, 0.2, 0.3)
    assert kept(workdir) == [0, 10]
    with pytest.raises(
        StorageError, match=r"the best validation is of step 2, whose checkpoint was not kept .* \[0, 10\]"
    ):
        load_trained(config(select=Select.BEST), workdir, -1)


def test_the_best_of_a_run_without_validations_is_no_checkpoint(run):
    workdir = run(every=0, sample=None)
    with pytest.raises(StorageError, match="nothing was validated"):
        load_trained(config(select=Select.BEST), workdir, -1)


@pytest.mark.slow
def test_another_run_starts_from_the_best(run):
    workdir = run(0.1, 0.5, 0.4, 0.5, 0.2, 0.3, select=Select.BEST)
    fresh = make_program(config()).init()
    found = [
        warm_start(fresh, str(path), BagOfTokens())[0]["encoder"]["embedding"]
        for path in (workdir, workdir / "checkpoints" / "2", workdir / "checkpoints" / "10")
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


class BrokenOff(BagOfTokens):
    """Breaks off before the sixth step, as a machine may."""

    def collate(self, examples, numbers):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 7:  # two batches are ready before they are trained on
            raise KeyboardInterrupt
        return examples


@pytest.mark.slow
def test_a_run_that_was_broken_off_has_the_validations_and_the_best_of_one_that_was_not(run):
    """Broken off after the validation of step 4, with step 3 saved: that validation is done again."""
    settings = {"checkpoint": CheckpointConfig(every=3), "patience": 9}
    straight = run(name="straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(objective=BrokenOff(), **settings)
    broken = straight.parent / "run"
    assert read_history(broken).steps == [0, 2, 4]
    shutil.copy(straight / "config.json", broken)  # without the class that broke off
    run(**settings)
    assert read_history(broken) == read_history(straight)
    assert list(figures(broken)) == [0, 2, 4, 6, 8, 10]


def test_a_run_ends_when_patience_is_over_and_says_so_again(run, capsys):
    workdir = run(0.1, 0.5, 0.4, 0.3, patience=2)
    said = "training ended at step 6 of 10: 2 validations in a row were no better in nDCG@10 than that of step 2"
    assert said in capsys.readouterr().err
    assert kept(workdir) == [0, 6]
    before = (workdir / "metrics.jsonl").read_text()
    run(0.9, patience=2)
    assert said in capsys.readouterr().err
    assert (kept(workdir), (workdir / "metrics.jsonl").read_text()) == ([0, 6], before)


@pytest.mark.slow
def test_more_patience_lets_it_go_on(run, capsys):
    workdir = run(0.1, 0.5, 0.4, 0.3, patience=2)
    run(0.6, 0.2, patience=3)
    assert list(figures(workdir).values()) == [0.1, 0.5, 0.4, 0.3, 0.6, 0.2]
    assert kept(workdir) == [0, 6, 10]
    straight = run(*figures(workdir).values(), name="straight")
    params = [load_trained(config(), path, 10).towers.query.params["embedding"] for path in (workdir, straight)]
    np.testing.assert_array_equal(*params)


def test_patience_in_another_measure_is_another_patience(run):
    workdir = run(0.1, 0.2, 0.3, patience=2, measure="MRR@10")
    assert list(figures(workdir)) == [0, 2, 4]


@pytest.mark.slow
def test_validations_of_another_sample_do_not_count(run):
    workdir = run(0.9, 0.1, 0.1, 0.1, 0.1, 0.1, every=2)
    history = dataclasses.replace(read_history(workdir), sample="another")
    history.write(workdir)
    run(0.2, patience=1)
    assert (read_history(workdir).sample, read_history(workdir).results[0]["nDCG@10"]) == ("toys", 0.2)


def evaluated(workdir, step):
    """What `evaluate` leaves behind."""
    per_query = {"q0": dict.fromkeys(("nDCG@10", "MRR@10", "Recall@100"), 0.5)}
    write_json(workdir / "results" / "toys-dev" / "after_training.json", {"step": step, "per_query": per_query})
    return read_run(workdir)


@pytest.mark.slow
def test_a_run_that_ended_early_is_compared_at_its_end_or_at_its_best(run):
    workdir = run(0.1, 0.5, 0.4, 0.3, patience=2, select=Select.BEST)
    assert [evaluated(workdir, step).steps for step in (2, 6)] == [6, 6]
    with pytest.raises(DataError, match="toys-dev is of step 4, but training stands at 6"):
        evaluated(workdir, 4)


@pytest.mark.slow
def test_runs_that_were_chosen_by_other_rules_are_different_rows(run):
    found = [
        evaluated(run(*(0.5, 0.1, 0.1, 0.1, 0.1, 0.1), name=name, **settings), 10)
        for name, settings in {"a": {}, "b": {"select": Select.BEST}, "c": {}}.items()
    ]
    assert [[run.path.name for run in row.runs] for row in grouped(found)] == [["a", "c"], ["b"]]


@pytest.mark.parametrize(
    ("values", "patience", "best", "ended"),
    [([], 1, None, False), ([3], 1, 0, False), ([3, 3], 1, 0, True), ([3, 4], 1, 1, False), ([3, 2, 2], 3, 0, False),
     ([3, 2, 2, 1], 3, 0, True), ([3, 2, 4, 1], 2, 2, False), ([3, 2, 2, 2], 0, 0, False)],
)  # fmt: skip
def test_of_equal_validations_the_first_is_best_and_patience_counts_those_after_it(values, patience, best, ended):
    validations = tuple({"step": step, "nDCG@10": value} for step, value in enumerate(values))
    history = History("toys", "nDCG@10", Select.NEWEST, patience, validations)
    assert (history.best, bool(history.ended)) == (best, ended)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0, "select": Select.BEST}, r"validation.select=best needs results to choose by.*validation.every"),
        ({"every": 0, "patience": 3}, r"validation.patience=3 needs results to count.*validation.every"),
        ({"measure": "nDCG"}, r"validation.measure=nDCG is not one of nDCG@10, MRR@10, Recall@100"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
