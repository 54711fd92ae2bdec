"""T2 to T4 and T27: a flipped bit in each file of a workdir, and checkpoints that are not whole."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.config import CheckpointConfig
from dense_jax.train.checkpoint import Checkpoints
from tests.faults.command_line import arguments


def argv(made: Path, workdir: Path, *more: str) -> list[str]:
    return arguments(made / "documents.jsonl", workdir, *more)


def search(made: Path, workdir: Path) -> int:
    return run(["search", *argv(made, workdir), "--", "river"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def final_params(workdir: Path) -> Any:
    return Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True).restore_params_as_saved(6)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_t02_folders_and_files_that_look_like_steps_are_named_and_put_aside(made, workdir, capsys):
    checkpoints = workdir / "checkpoints"
    (checkpoints / "3").mkdir()
    (checkpoints / "9").write_text("mine")
    shutil.copytree(checkpoints / "6", checkpoints / "11", ignore=shutil.ignore_patterns("commit_success.txt", "meta"))
    assert run(["train", *argv(made, workdir)]) == 0
    said = capsys.readouterr().err
    for name in ("3", "9", "11"):
        assert f"warning: {checkpoints / name} is no complete checkpoint" in said
        assert (checkpoints / "quarantine" / name).exists()
    assert "continuing from step 6 of 6" in said


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_t03_a_damaged_file_of_the_newest_step_is_named_and_training_falls_back_to_the_one_before(
    made, workdir, damage, capsys
):
    victim = next((workdir / "checkpoints" / "6" / "params").rglob("_METADATA"))
    damage(victim)
    assert run(["train", *argv(made, workdir)]) == 0
    said = capsys.readouterr().err
    assert f"warning: checkpoint of step 6: {victim}: " in said and "continuing from step 4 of 6" in said
    again, before = (final_params(folder) for folder in (workdir, made / "run"))
    jax.tree.map(np.testing.assert_array_equal, again, before)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "null", None])
def test_t04_a_lost_seal_of_the_newest_step_is_said_by_search_which_uses_the_one_before(made, workdir, text, capsys):
    digests = workdir / "checkpoints" / "digests-6.json"
    digests.unlink() if text is None else digests.write_text(text)
    assert search(made, workdir) == 0
    said = capsys.readouterr().err
    assert f"warning: step 4 is used, not 6: its digests, {digests}, " in said
    assert f"checkpoint of step 4 in {workdir}" in said


@pytest.mark.slow
def test_t04_garbage_in_the_metadata_of_a_step_is_one_message(made, workdir, capsys):
    (workdir / "checkpoints" / "6" / "_CHECKPOINT_METADATA").write_text("garbage")
    assert search(made, workdir) == 4
    said = capsys.readouterr().err
    assert "_CHECKPOINT_METADATA: digest " in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_t03_t27_a_flipped_bit_in_any_file_of_a_workdir_is_named_or_changes_nothing(made, workdir, tmp_path, capsys):
    """Whatever a search reads; what it does not read, it finds the same without."""
    for step in ("0", "2", "4"):  # older checkpoints, of which one like the newest is enough
        shutil.rmtree(workdir / "checkpoints" / step)
        (workdir / "checkpoints" / f"digests-{step}.json").unlink()
    assert search(made, workdir) == 0
    found, whole = capsys.readouterr().out, shutil.copytree(workdir, tmp_path / "whole")
    refused = []
    for path in sorted(path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()):
        if not (workdir / path).stat().st_size:
            continue
        shutil.rmtree(workdir)
        shutil.copytree(whole, workdir)
        flip(workdir / path)
        status, said = search(made, workdir), capsys.readouterr()
        assert "Traceback" not in said.err, path
        assert status in (0, 2, 3, 4), path
        if status == 0:
            assert said.out == found, f"{path}: a flipped bit changed what is found"
        else:
            refused.append(str(path))
            assert said.err.strip(), path
    assert [path for path in refused if path.startswith("checkpoints/6/")]
    assert [path for path in refused if path.startswith("tokenizer/")]
    assert [path for path in refused if path.startswith("passages-96/")]


@pytest.mark.slow
def test_t27_an_index_that_moved_with_its_workdir_finds_the_same(made, workdir, tmp_path, capsys):
    assert search(made, workdir) == 0
    found = capsys.readouterr().out
    moved = workdir.rename(tmp_path / "moved")
    before = content(moved / "index")
    assert search(made, moved) == 0
    assert capsys.readouterr().out == found
    assert content(moved / "index") == before
