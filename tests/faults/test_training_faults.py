"""Damaged, lost and half-written checkpoints as a user meets them: status, one message, and a way out that works."""

import shutil
import time
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from tests.faults.command_line import arguments, ended, start, write_corpus
from tests.faults.full_disk import enlarge, mounted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]  # each start takes a process of its own


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "documents.jsonl")


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("prepared")
    assert run(["prepare", *arguments(corpus, workdir)]) == 0
    return workdir


@pytest.fixture(scope="module")
def trained(corpus, prepared, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    status, said = ended("train", *command(corpus, prepared, workdir))
    assert status == 0, said
    return workdir


def command(corpus: Path, prepared: Path, workdir: Path, *more: str) -> list[str]:
    return arguments(corpus, workdir, f"--passages.workdir={prepared}", *more)


def only_message(said: str) -> str:
    """All that was said after the start of the training, which is one message without a traceback."""
    assert "Traceback" not in said, said
    before, message = said.split("dense-jax train: ")
    assert "rror" not in before, said
    return message


@pytest.fixture
def damaged(trained, tmp_path) -> Path:
    """A run of whose checkpoints of trained steps not one is sound."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    for step in ("2", "4", "6"):
        flip(workdir / "checkpoints" / step / "params" / "_METADATA")
    return workdir


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_t03_damaged_checkpoints_end_every_start_with_status_4_until_one_is_repaired_and_moved_back(
    corpus, prepared, damaged
):
    argv, checkpoints = command(corpus, prepared, damaged), damaged / "checkpoints"
    for _ in range(2):
        status, said = ended("train", *argv)
        assert status == 4, said
        message = only_message(said)
        assert all(f"{checkpoints}/quarantine/{step}: " in message for step in (2, 4, 6)), message
    flip(checkpoints / "quarantine" / "6" / "params" / "_METADATA")
    for name in ("6", "digests-6.json"):  # as the message says
        (checkpoints / "quarantine" / name).rename(checkpoints / name)
    status, said = ended("train", *argv)
    assert status == 0 and "continuing from step 6 of 6" in said, said


def test_a_restart_starts_over_and_keeps_the_damaged_state(corpus, prepared, damaged):
    status, said = ended("train", *command(corpus, prepared, damaged, "--restart"))
    assert status == 0 and f"is moved to {damaged / 'before-restart-1'}" in said, said
    assert (damaged / "before-restart-1" / "checkpoints" / "4").is_dir()
    assert (damaged / "checkpoints" / "digests-6.json").is_file()


def test_t04_a_copy_without_digests_is_trained_on_request_and_foreign_folders_stay(corpus, prepared, trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("digests-*"))
    argv, checkpoints = command(corpus, prepared, workdir), workdir / "checkpoints"
    for name in ("notes", "quarantine/old", "3"):
        (checkpoints / name).mkdir(parents=True)
        (checkpoints / name / "mine").write_text(name)
    status, said = ended("train", *argv)
    assert status == 4 and f"{checkpoints / 'digests-6.json'}, are missing" in only_message(said), said
    assert f"warning: {checkpoints / '3'} is no complete checkpoint" in said
    status, said = ended("train", *argv, "--checkpoint.recompute_digests=true")
    assert status == 0 and "continuing from step 6 of 6" in said, said
    assert said.count("computed again from the files") == 4
    for name in ("notes", "quarantine/old", "quarantine/3"):
        assert (checkpoints / name / "mine").is_file()


def test_t01_a_kill_while_the_first_step_is_compiled_is_no_obstacle_to_the_next_start(corpus, prepared, tmp_path):
    argv = command(corpus, prepared, tmp_path, "--seed=3")
    running = start("train", *argv)
    while not (tmp_path / "checkpoints" / "0" / "commit_success.txt").is_file() and running.poll() is None:
        time.sleep(0.01)
    running.kill()
    running.communicate()
    assert not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text()
    status, said = ended("train", *argv)
    assert status == 0, said


def test_t05_a_disk_that_fills_up_while_training_ends_it_with_one_message(corpus, prepared, tmp_path):
    with mounted(tmp_path / "disk", 1_500_000) as disk:
        argv = command(corpus, prepared, disk / "run", "--steps=40")
        status, said = ended("train", *argv)
        assert status == 4, said
        assert "the disk is full" in only_message(said)
        assert only_message(said).count("\n") == 1
        enlarge(disk, 20_000_000)
        status, said = ended("train", *argv)
        assert status == 0 and "continuing from step" in said, said


def test_t05_a_first_checkpoint_that_cannot_be_written_ends_training_with_one_message(corpus, prepared, tmp_path):
    status, said = ended("train", *command(corpus, prepared, tmp_path), largest_file=10)
    assert status == 4, said
    assert "the disk is full" in only_message(said)
    assert only_message(said).count("\n") == 1


def test_restart_is_for_training_alone(corpus, tmp_path, capsys):
    assert run(["prepare", *arguments(corpus, tmp_path, "--restart")]) == 2
    assert "prepare takes no --restart" in capsys.readouterr().err
