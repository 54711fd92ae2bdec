"""The command that a verb names when it ends, and results on a terminal."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dense_jax import verbs
from dense_jax.configs import ict, orqa
from dense_jax.evaluation import EvaluationTable
from dense_jax.terminal.next_command import next_command
from dense_jax.terminal.stage_results import Counts, Overview


@pytest.fixture
def run(tmp_path):
    """A run whose workdir remembers its config and is not trained."""
    (tmp_path / "settings.json").write_text("{}")
    return SimpleNamespace(path=tmp_path, out=None, config=ict.get_config("tiny"))


def following(run, verb: str) -> str:
    return next_command(verb, run.path, run.config, run.out).replace(f" --workdir={run.path}", "")


def test_a_prepared_run_is_trained_and_a_trained_one_is_measured(run):
    assert following(run, "prepare") == following(run, "show") == "dense-jax train"
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    run.config.corpus.held_out = 500
    assert following(run, "train") == following(run, "show") == "dense-jax evaluate"


def test_a_run_without_judged_queries_is_searched(run):
    run.config.corpus.held_out, run.config.evaluate.folder = 0, ""
    assert following(run, "train") == following(run, "index") == "dense-jax search 'a query'"
    run.config.evaluate.folder = "judged"
    assert following(run, "train") == "dense-jax evaluate"


def test_a_reader_is_asked_a_question(run):
    run.config = orqa.get_config("tiny")
    assert following(run, "train") == following(run, "index") == "dense-jax answer 'a question'"


def test_vectors_lead_to_an_index_and_results_to_the_report_and_the_export(run):
    found = [following(run, verb) for verb in ("embed", "evaluate", "report")]
    assert found == ["dense-jax index", "dense-jax report", "dense-jax export"]


@pytest.mark.parametrize("verb", ["search", "answer", "export", "refresh", "mine"])
def test_the_last_verbs_lead_to_nothing(run, verb):
    assert following(run, verb) == ""


def test_the_command_has_the_same_folders_and_can_be_pasted_into_a_shell(run):
    run.path = Path(run.path.parent / "my run")
    run.path.mkdir()
    (run.path / "settings.json").write_text("{}")
    run.out = Path("other")
    assert next_command("embed", run.path, run.config, run.out) == f"dense-jax index '--workdir={run.path}' --out=other"


def test_a_workdir_that_remembers_no_config_is_left_to_the_user(run):
    (run.path / "settings.json").unlink()
    assert following(run, "prepare") == ""


TABLE = EvaluationTable(
    {"BM25": {"MRR@10": 0.5}}, "|      | MRR@10 |\n| ---- | -----: |\n| BM25 |  0.500 |", ["a note"], 7, Path("r" * 90)
)


@pytest.mark.parametrize("result", [TABLE, Counts(documents=1_200), Overview(method="[red]ICT", plan="one\ntwo")])
def test_a_result_is_drawn_on_a_terminal_and_plain_text_elsewhere(result, capsys, monkeypatch):
    verbs._print(result)
    assert capsys.readouterr().out == f"{result}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    verbs._print(result)
    drawn = capsys.readouterr().out
    words = ["0.500", "a note", "r" * 90] if result is TABLE else str(result).split()
    assert "|" not in drawn
    assert all(word in drawn for word in words)


def test_an_overview_has_its_titles_on_the_left_and_no_long_line():
    said = str(Overview(a="one\ntwo", b="word " * 40)).splitlines()
    assert said[:2] == ["a           one", "            two"]
    assert said[2].startswith("b           word word") and said[3].startswith("              word")
    assert max(map(len, said)) <= 96
