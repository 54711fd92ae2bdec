"""A trained workdir, which tests copy before they damage it."""

import shutil
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from tests.faults.command_line import arguments, write_corpus


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with `documents.jsonl` and the workdir `run`, which was trained on it."""
    root = tmp_path_factory.mktemp("made")
    argv = arguments(write_corpus(root / "documents.jsonl"), root / "run")
    assert run(["prepare", *argv]) == 0
    assert run(["train", *argv]) == 0
    return root


@pytest.fixture
def workdir(made, tmp_path) -> Path:
    """A copy of the trained workdir."""
    return shutil.copytree(made / "run", tmp_path / "run")
