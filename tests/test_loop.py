"""Training: resumes to the last bit, refuses what it must, stops when it should."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from dense_jax.config import CheckpointConfig, Config, MeshConfig, OptimizerConfig
from dense_jax.errors import ConfigError, DataError, NonFiniteError, StorageError
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.mlm import MLM
from dense_jax.processes.locks import only_one
from dense_jax.train.checkpoint import Checkpoints, has_checkpoint
from dense_jax.train.loop import initial_state, make_program
from dense_jax.train.restart import move_aside
from dense_jax.train.restore import load_trained
from dense_jax.train.same_run import NO_DATA, record
from tests.programs import train_workdir
from tests.toys import VOCABULARY, BagOfTokens, MeanEmbedding, MemoryStore

pytestmark = pytest.mark.usefixtures("shared_programs")


def config(**settings) -> Config:
    return Config(
        **(
            {"objective": BagOfTokens(), "steps": 10, "batch": 8, "log_every": 1, "optimizer": OptimizerConfig(0.1)}
            | settings
        )
    )


def run(workdir, **settings):
    workdir.mkdir(exist_ok=True)
    train_workdir(config(**settings), MemoryStore(), VOCABULARY, workdir)


def params(workdir, **settings):
    trained = load_trained(config(**settings), workdir, -1)
    return np.asarray(trained.towers.query.params["embedding"])


def lines(workdir):
    """What was logged, but for what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k and not k.startswith("time/")} for row in rows]


class Interrupted(BagOfTokens):
    """Breaks off before the seventh step, as a machine may."""

    def collate(self, examples, numbers):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 8:  # two batches are ready before they are trained on
            raise KeyboardInterrupt
        return examples


@pytest.mark.slow
def test_ten_steps_equal_five_a_restart_and_five_to_the_last_bit(tmp_path):
    run(tmp_path / "straight")
    every = {"checkpoint": CheckpointConfig(every=5)}
    with pytest.raises(KeyboardInterrupt):
        broken = config(**every)
        (tmp_path / "restarted").mkdir()
        broken.objective.__class__ = Interrupted
        train_workdir(broken, MemoryStore(), VOCABULARY, tmp_path / "restarted")
    shutil.copy(tmp_path / "straight" / "config.json", tmp_path / "restarted")  # without the class that broke off
    run(tmp_path / "restarted", **every)
    np.testing.assert_array_equal(params(tmp_path / "straight"), params(tmp_path / "restarted", **every))
    assert lines(tmp_path / "straight") == lines(tmp_path / "restarted")


def test_a_finished_run_started_again_does_nothing(tmp_path):
    run(tmp_path)
    before = params(tmp_path)
    run(tmp_path)
    np.testing.assert_array_equal(params(tmp_path), before)
    assert [row["step"] for row in lines(tmp_path)] == list(range(1, 11))


def test_the_loss_falls(tmp_path):
    run(tmp_path, steps=60)
    losses = [row["loss"] for row in lines(tmp_path)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.slow
def test_loss_and_gradient_norm_do_not_depend_on_the_mesh(tmp_path):
    for name, mesh in {"a": MeshConfig(8, 1), "b": MeshConfig(2, 4)}.items():
        run(tmp_path / name, mesh=mesh)
    # float32 sums in another order, over ten steps
    for a, b in zip(lines(tmp_path / "a"), lines(tmp_path / "b"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
def test_t11_a_run_continues_on_another_mesh(tmp_path):
    """From the fourth of eight steps, on devices that hold some heads each."""
    bert = BertConfig(layers=1, width=16, heads=2, feed_forward=32, vocab_size=VOCABULARY.size, positions=16)
    settings = {
        "objective": MLM(Encoder(bert), passage_length=12, query_length=12),
        "steps": 8,
        "checkpoint": CheckpointConfig(every=4),
    }
    run(tmp_path, **settings, mesh=MeshConfig(8))
    straight = lines(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    run(tmp_path, **settings, mesh=MeshConfig(2, 2, tensor=2))
    assert [row["step"] for row in lines(tmp_path)] == list(range(1, 9))
    # float32 sums in another order, over four steps
    for a, b in zip(straight, lines(tmp_path), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_the_initial_state_is_saved_for_the_comparison_with_no_training(tmp_path):
    run(tmp_path)
    program = make_program(config())
    trained = load_trained(config(), tmp_path, 0)
    assert trained.step == 0
    fresh = initial_state(program).params["encoder"]["embedding"]
    np.testing.assert_array_equal(trained.towers.query.params["embedding"], fresh)


@pytest.mark.slow
def test_what_was_trained_is_opened_on_devices_that_its_mesh_does_not_fit(tmp_path):
    run(tmp_path)
    np.testing.assert_array_equal(params(tmp_path, mesh=MeshConfig(fsdp=64)), params(tmp_path))


def test_a_workdir_of_another_config_is_refused_with_what_differs(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="trained with other settings") as error:
        run(tmp_path, seed=1, optimizer=OptimizerConfig(0.2))
    assert "seed: 0 -> 1" in str(error.value)
    assert "optimizer.learning_rate: 0.1 -> 0.2" in str(error.value)


class Choosy(BagOfTokens):
    """Makes no example of any passage."""

    def example(self, passage, vocabulary, rng):
        return None


class Ragged(BagOfTokens):
    """Its batches have three rows, which eight devices do not share."""

    def collate(self, examples, numbers):
        return jax.tree.map(lambda x: x[:3], examples)


@pytest.mark.parametrize(("method", "error"), [(Choosy, DataError), (Ragged, ConfigError)])
def test_a_start_that_is_refused_records_nothing_and_the_corrected_one_trains(tmp_path, method, error):
    with pytest.raises(error):
        run(tmp_path, objective=method())
    assert not (tmp_path / "config.json").exists()
    assert not has_checkpoint(tmp_path / "checkpoints")
    run(tmp_path)


def test_a_search_in_a_workdir_that_was_never_trained_records_nothing(tmp_path):
    with pytest.raises(StorageError, match="holds no checkpoint"):
        load_trained(config(seed=3), tmp_path, -1)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_the_advice_after_a_loss_that_is_not_finite_works_when_followed(tmp_path):
    with pytest.raises(NonFiniteError) as error:
        run(tmp_path / "diverged", optimizer=OptimizerConfig(1e30))
    (start,) = re.findall(r"--init_from=(\S+)", str(error.value))
    run(tmp_path / "again", optimizer=OptimizerConfig(0.01), init_from=start)


def test_settings_that_change_no_result_may_change(tmp_path):
    run(tmp_path)
    run(tmp_path, log_every=5, checkpoint=CheckpointConfig(every=3))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    wide = {"objective": BagOfTokens(encoder=MeanEmbedding(width=6))}
    run(tmp_path)
    record(config(**wide), tmp_path, NO_DATA)
    with pytest.raises(StorageError, match="of another architecture"):
        run(tmp_path, **wide)


def test_a_batch_that_does_not_split_is_refused_with_the_nearest_that_do(tmp_path):
    with pytest.raises(ConfigError, match=r"batch=100 is not divisible by 8 data devices; use --batch=96 or 104"):
        run(tmp_path, batch=100)


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(ConfigError, match=r"mesh.data=3 x mesh.fsdp=1 x mesh.tensor=1 does not make 8 devices"):
        make_program(config(mesh=MeshConfig(3, 1)))


def test_two_trainers_on_one_workdir_are_refused_by_name(tmp_path):
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.write('process 1 on elsewhere'); f.flush(); print(flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", holder, tmp_path / "train.lock"], stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        with (
            pytest.raises(ConfigError, match="is being trained by process 1 on elsewhere"),
            only_one(tmp_path / "train.lock", "is being trained"),
        ):
            pass
    finally:
        other.kill()
        other.communicate()


class Diverging(BagOfTokens):
    """Its loss is NaN from the fourth step on."""

    def loss(self, params, carry, batch, *, rng, step):
        loss, rest = super().loss(params, carry, batch, rng=rng, step=step)
        return loss + jax.numpy.where(step >= 3, jax.numpy.nan, 0.0), rest


def test_a_loss_that_is_no_number_stops_the_run_and_is_never_saved(tmp_path):
    with pytest.raises(NonFiniteError) as error:
        run(tmp_path, objective=Diverging(), checkpoint=CheckpointConfig(every=2))
    text = str(error.value)
    assert "step 4: loss nan" in text
    assert "doc" in text
    assert "the last good checkpoint is of step 2" in text
    assert "--optimizer.learning_rate" in text
    steps = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert steps == {"0", "2"}


def test_parameters_that_are_not_finite_end_the_run_in_the_step_that_would_save_them(tmp_path):
    """Loss and gradient of the second step are finite, and its update is 4 times the largest number."""
    overflowing = {"optimizer": OptimizerConfig(3e38, warmup=1, bias_correction=False)}
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"step 2: NaN or infinity in params/(.|\n)*is of step 0"):
            run(tmp_path, **overflowing, checkpoint=CheckpointConfig(every=2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["0"]


@pytest.mark.slow
def test_a_checkpoint_that_is_not_finite_is_put_aside_and_the_one_before_it_is_used(tmp_path, monkeypatch, capsys):
    """As saved by versions that did not look."""
    checkpoint = {"checkpoint": CheckpointConfig(every=2)}
    run(tmp_path, steps=6, **checkpoint)
    straight = params(tmp_path, steps=6, **checkpoint)
    make_last_checkpoint_nan(tmp_path, monkeypatch, **checkpoint)
    capsys.readouterr()
    run(tmp_path, steps=6, **checkpoint)
    said = capsys.readouterr().err
    assert "checkpoint of step 6 holds NaN or infinity in params/encoder/embedding" in said
    assert "continuing from step 4" in said
    assert (tmp_path / "checkpoints" / "quarantine" / "6").is_dir()
    np.testing.assert_array_equal(params(tmp_path, steps=6, **checkpoint), straight)


def make_last_checkpoint_nan(workdir, monkeypatch, **settings):
    checkpoints = Checkpoints(workdir / "checkpoints", settings["checkpoint"])
    state, meta = checkpoints.restore(6, make_program(config(steps=6, **settings)).like)
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "checkpoints" / "digests-6.json").unlink()
    checkpoints.close()
    checkpoints = Checkpoints(workdir / "checkpoints", settings["checkpoint"])
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "non_finite", lambda state: [])
        broken = replace(state, params=jax.tree.map(lambda x: x.at[0].set(np.nan), state.params))
        checkpoints.save(6, broken, meta)
        checkpoints.close()


@dataclass
class Breaking(BagOfTokens):
    """Loss and gradient of these steps, counted from 1, are not finite."""

    broken: tuple[int, ...] = ()

    def loss(self, params, carry, batch, *, rng, step):
        loss, rest = super().loss(params, carry, batch, rng=rng, step=step)
        return loss * jax.numpy.where(jax.numpy.isin(step + 1, jax.numpy.array(self.broken)), np.inf, 1.0), rest


def breaking(*steps, skip=3):
    return {
        "objective": Breaking(broken=steps),
        "optimizer": OptimizerConfig(0.1, skip_nonfinite=skip),
        "checkpoint": CheckpointConfig(every=1, keep=20),
    }


@pytest.mark.slow
def test_t19_a_step_that_is_not_finite_is_skipped_counted_and_its_examples_are_listed(tmp_path, capsys):
    run(tmp_path, **breaking(4))
    said = capsys.readouterr().err
    assert "warning: step 4: loss inf and gradient_norm" in said and "Its update is skipped" in said
    trained = [load_trained(config(**breaking(4)), tmp_path, step) for step in (3, 4, 5)]
    states = [one.towers.query.params["embedding"] for one in trained]
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.array_equal(states[1], states[2]) and np.isfinite(states[2]).all()
    assert [row["skipped_steps"] for row in lines(tmp_path)] == [0] * 3 + [1] * 7
    (row,) = (json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert row["step"] == 4 and row["loss"] == "inf"
    assert len(row["examples"]) == 8 and all(name.startswith("doc") for name in row["examples"])


@pytest.mark.slow
def test_t20_so_many_steps_in_a_row_that_are_not_finite_end_training_and_none_was_applied(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 6: (.|\n)*3 such steps in a row, and optimizer.skip_nonfinite=3"):
        run(tmp_path, **breaking(4, 5, 6, 7))
    assert np.isfinite(params(tmp_path, **breaking(4, 5, 6, 7))).all()


@pytest.mark.slow
def test_steps_that_are_not_finite_but_not_in_a_row_do_not_end_training(tmp_path):
    run(tmp_path, **breaking(2, 3, 5, 6, 8, 9))
    assert lines(tmp_path)[-1]["skipped_steps"] == 6


@pytest.mark.slow
def test_a_run_that_continues_counts_on(tmp_path):
    """Two of three steps in a row are behind it."""
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="step 6: "):
            run(tmp_path, **breaking(4, 5, 6, 7, 8, 9))
    assert [json.loads(line)["step"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines()] == [4, 5]


@pytest.mark.slow
def test_skipping_may_be_set_when_a_run_continues_and_changes_nothing_where_all_is_finite(tmp_path):
    run(tmp_path / "straight")
    with pytest.raises(NonFiniteError, match="step 6: "):
        run(tmp_path / "broken", **breaking(6, skip=0))
    run(tmp_path / "broken", **breaking(6, skip=2))
    run(tmp_path / "skipping", optimizer=OptimizerConfig(0.1, skip_nonfinite=2))
    np.testing.assert_array_equal(params(tmp_path / "straight"), params(tmp_path / "skipping"))


def test_a_disk_without_room_for_two_checkpoints_is_noticed_before_anything_is_computed(tmp_path):
    huge = BagOfTokens(encoder=MeanEmbedding(vocab_size=10**6, width=10**9))
    with pytest.raises(StorageError, match=r"2 more checkpoints may take 24000000.00 GB, and .* are free"):
        run(tmp_path, objective=huge)


def test_a_workdir_whose_checkpoints_are_gone_is_not_trained_over_again(tmp_path):
    run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"has no checkpoint of them; .*--restart"):
            run(tmp_path)


@pytest.mark.slow
def test_a_restart_moves_the_old_state_aside_and_may_have_other_settings(tmp_path):
    run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    move_aside(tmp_path)
    train_workdir(config(seed=1, steps=3), MemoryStore(), VOCABULARY, tmp_path)
    assert (tmp_path / "before-restart-1" / "metrics.jsonl").read_text() == before
    assert (tmp_path / "before-restart-1" / "checkpoints" / "10").is_dir()
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3]
    move_aside(tmp_path)
    assert (tmp_path / "before-restart-2" / "checkpoints" / "3").is_dir()
