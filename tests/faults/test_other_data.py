"""T14: other data in the workdir of a run, on the command line: named, and nothing is done with them."""

import shutil
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from tests.faults.command_line import arguments, write_corpus

VERBS = ("train", "search", "export")


@pytest.fixture(scope="module")
def both(made, tmp_path_factory) -> Path:
    """The trained workdir `run` on documents.jsonl, and `other`, prepared of other.jsonl by the same settings."""
    root = shutil.copytree(made, tmp_path_factory.mktemp("both") / "both")
    write_corpus(root / "other.jsonl", seed=1)
    assert run(["prepare", *arguments(root / "other.jsonl", root / "other")]) == 0
    return root


@pytest.fixture
def copied(both, tmp_path) -> Path:
    return shutil.copytree(both, tmp_path / "made")


def status(verb: str, corpus: Path, workdir: Path) -> int:
    return run([verb, *arguments(corpus, workdir, *(["--", "river"] if verb == "search" else []))])


def replaced(workdir: Path, part: str, other: Path) -> None:
    shutil.rmtree(workdir / part)
    shutil.copytree(other / part, workdir / part)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("verb", VERBS)
def test_t14_another_tokenizer_in_the_workdir_is_named_and_nothing_is_written(copied, both, verb, capsys):
    work = copied / "run"
    replaced(work, "tokenizer", both / "other")
    before = content(work)
    assert status(verb, both / "documents.jsonl", work) == 3
    assert "the tokenizer of the workdir: its content is not what this run began with" in capsys.readouterr().err
    assert content(work) == before


def test_t14_other_passages_in_the_workdir_are_named_and_not_trained_on(copied, both, capsys):
    work = copied / "run"
    replaced(work, "passages-96", both / "other")
    before = content(work)
    assert status("train", both / "documents.jsonl", work) == 3
    assert "what is prepared of corpus.source=" in capsys.readouterr().err
    assert content(work) == before


@pytest.mark.slow
def test_t14_search_names_passages_that_the_run_did_not_learn_from(copied, both, capsys):
    """The texts that are searched need not be those that were learned from, but nobody should take them for these."""
    work = copied / "run"
    assert status("search", both / "documents.jsonl", work) == 0
    assert "warning" not in capsys.readouterr().err
    replaced(work, "passages-96", both / "other")
    assert status("search", both / "documents.jsonl", work) == 0
    assert f"warning: {work}/passages-96 holds other text than the run learned from" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_t14_a_corpus_that_moved_goes_on(copied, verb):
    """As does a workdir that moved: this one is a copy."""
    moved = shutil.move(copied / "documents.jsonl", copied / "elsewhere.jsonl")
    assert status(verb, moved, copied / "run") == 0


def test_t14_a_corpus_that_moved_and_changed_is_named(copied, capsys):
    moved = shutil.move(copied / "documents.jsonl", copied / "elsewhere.jsonl")
    with moved.open("a") as file:
        file.write('{"_id": "more", "title": "", "text": "One more. And another."}\n')
    work = copied / "run"
    assert status("export", moved, work) == 3
    said = capsys.readouterr().err
    assert f"-> {moved} (its content is not what this run began with)" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["train", *(pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS if verb != "train")]
)
def test_t14_checkpoints_of_another_run_in_the_workdir_are_refused(copied, both, verb, capsys):
    """The digests stand in each checkpoint too: these come without the config.json of their run."""
    other = copied / "other"
    assert status("train", both / "other.jsonl", other) == 0
    replaced(copied / "run", "checkpoints", other)
    assert status(verb, both / "documents.jsonl", copied / "run") == 3
    assert "was trained with another content of tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_t14_a_workdir_without_the_record_of_its_data_is_refused(copied, both, verb, capsys):
    (copied / "run" / "config.json").unlink()
    assert status(verb, both / "documents.jsonl", copied / "run") == 4
    assert "config.json is missing" in capsys.readouterr().err
