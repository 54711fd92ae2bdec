"""T13, T15 to T17: starts that cannot continue what the workdir holds, on the command line."""

import shutil
import signal
import time

import pytest

from dense_jax.__main__ import run
from tests.faults.command_line import arguments, start


def status(made, workdir, *more: str, verb: str = "train") -> int:
    return run([verb, *arguments(made / "documents.jsonl", workdir, *more)])


def test_t13_another_size_of_the_model_is_refused_with_both_values(made, workdir, capsys):
    assert status(made, workdir, "--objective.encoder.bert.width=32") == 2
    assert "objective.encoder.bert.width: 16 -> 32" in capsys.readouterr().err


@pytest.mark.slow
def test_t13_checkpoints_of_another_model_are_refused_with_names_and_shapes(made, workdir, tmp_path, capsys):
    other, wide = tmp_path / "other", "--objective.encoder.bert.width=32"
    shutil.copytree(made / "run", other, ignore=shutil.ignore_patterns("checkpoints", "config.json", "metrics.jsonl"))
    assert status(made, other, wide, "--steps=1") == 0
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(other / "checkpoints", workdir / "checkpoints")
    capsys.readouterr()
    assert status(made, workdir) == 4
    said = capsys.readouterr().err
    assert "checkpoint of step 1 in" in said and "is of another architecture than this config" in said
    assert "checkpoint float32[32], config float32[16]" in said


@pytest.mark.parametrize(
    ("flag", "difference"),
    [
        ("--batch=16", "batch: 8 -> 16"),
        ("--seed=1", "seed: 0 -> 1"),
        ("--optimizer.learning_rate=0.5", "optimizer.learning_rate: "),
        ("--steps=7", "steps: 6 -> 7"),
    ],
)
def test_t15_a_setting_that_would_change_the_run_is_refused_with_both_values(made, workdir, capsys, flag, difference):
    assert status(made, workdir, flag) == 2
    assert f"set these back:\n  {difference}" in capsys.readouterr().err


def test_t15_settings_that_change_neither_parameters_nor_order_may_change(made, workdir, capsys):
    assert status(made, workdir, "--log_every=2", "--checkpoint.every=5", "--checkpoint.keep=1") == 0
    assert "continuing from step 6 of 6" in capsys.readouterr().err


@pytest.mark.slow
def test_t16_a_second_trainer_names_the_first_and_goes_on_once_that_is_killed(made, tmp_path, capsys):
    workdir = shutil.copytree(made / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "metrics*"))
    (workdir / "config.json").unlink()
    more = ("--steps=100000", "--checkpoint.every=10")
    first = start("train", *arguments(made / "documents.jsonl", workdir, *more))
    while first.poll() is None and not (workdir / "checkpoints" / "digests-10.json").is_file():
        time.sleep(0.1)
    assert status(made, workdir, *more) == 2
    assert f"is being trained by process {first.pid} on " in capsys.readouterr().err
    first.kill()
    _, said = first.communicate()
    assert first.returncode == -signal.SIGKILL, said
    assert status(made, workdir, *more, "--checkpoint.keep=0") == 2  # a mistake of its own: the lock is free
    assert "is being trained" not in capsys.readouterr().err


@pytest.mark.parametrize("below", ["file/run", "file"])
def test_t17_a_workdir_that_cannot_be_made_is_refused_within_five_seconds(made, tmp_path, capsys, below):
    (tmp_path / "file").write_text("")
    before = time.monotonic()
    assert status(made, tmp_path / below) == 2
    assert time.monotonic() - before < 5
    assert f"{tmp_path / below} is not writable" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["passages.workdir", "init_from", "tokenizer.path"])
def test_t17_a_bucket_that_no_model_can_be_read_from_is_refused_by_its_setting(made, tmp_path, capsys, setting):
    assert status(made, tmp_path, f"--{setting}=gs://bucket/run") == 2
    assert f"{setting}=gs://bucket/run is in a bucket" in capsys.readouterr().err


def test_t17_a_model_that_is_not_there_is_refused_before_anything_is_done(made, tmp_path, capsys):
    """Nothing is looked up on a hub: a name is that of a folder."""
    assert status(made, tmp_path, "--init_from=bert-base-uncased", verb="prepare") in (2, 3, 4)
    assert "bert-base-uncased" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == []
