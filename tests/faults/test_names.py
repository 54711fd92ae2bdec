"""Names of folders, files and runs that mean something to a shell, to Markdown, to HTML or to a chart."""

import ast
import shlex
from dataclasses import replace

import pytest

from dense_jax.compare import compare
from dense_jax.hf.model_card import render_card
from dense_jax.hf.tensors import read_tensors
from dense_jax.retrieval.evaluate import markdown
from dense_jax.terminal.markdown import fenced, plain, printable
from tests.test_compare import evaluated, workdir
from tests.test_model_card import CARD, PLAIN, RESULT

HOSTILE = "a|b <script>alert(1)</script> [x](javascript:y) `c` $x^{2$ \\frac\n# new *z*"


def test_a_hostile_name_is_plain_text_in_markdown():
    shown = plain(HOSTILE)
    assert "\n" not in shown and "<" not in shown
    assert shown.startswith("a\\|b &lt;script&gt;alert(1)&lt;/script&gt; \\[x\\](javascript:y) \\`c\\`")
    assert "\\$x^{2\\$ \\\\frac # new \\*z\\*" in shown


def test_code_is_shown_whatever_back_quotes_it_holds():
    assert fenced("a\n```\nb") == "````\na\n```\nb\n````"


def test_a_table_has_as_many_cells_as_its_header_whatever_they_hold():
    table = markdown([["", "nDCG@10"], [HOSTILE, "0.1"]]).splitlines()
    assert len(table) == 3
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_t29_a_model_card_runs_nothing_of_the_names_in_it():
    hostile = replace(
        CARD, name=HOSTILE, corpus=HOSTILE, results=(replace(RESULT, dataset=HOSTILE),), settings=HOSTILE + "\n```\n<b>"
    )
    text = render_card(hostile, PLAIN, shared=True)
    body, settings = text.split("---\n", 2)[2].split("## Settings")
    assert "<script>" not in body
    assert body.count("\n# ") == 1  # the title alone
    assert [line.replace("\\|", "").count("|") for line in body.splitlines() if line.startswith("|")] == [5, 5, 5]
    assert settings.strip().startswith("````\n") and settings.strip().endswith("\n````")


def test_prompts_with_markup_are_shown_as_text():
    text = render_card(CARD, replace(PLAIN, query=replace(PLAIN.query, prompt="<b>: ")), shared=True)
    assert "Queries start with '&lt;b&gt;: ', the prompt" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x^2", "$$", "$\\frac{$", "a\nb", "<b>", "a|b", "-x", "%s {}", "ü"])
def test_t29_a_report_shows_runs_and_sets_of_any_name(tmp_path, name):
    runs = [workdir(tmp_path / f"{name}{i}" / name, [0.6, 0.7], steps=10 + i) for i in range(2)]
    for run in runs:
        evaluated(run, [0.1, 0.2], step=10 + int(run.parent.name[-1]), test_set=name)
    table = compare(runs, "", tmp_path / "out")
    assert "<b>" not in table
    for block in table.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) <= 1
    for chart in ("comparison.png", "gains.png"):
        assert (tmp_path / "out" / chart).stat().st_size > 1_000


def test_the_command_that_converts_weights_reads_the_folder_whatever_its_name(tmp_path):
    folder = tmp_path / 'it\'s $HOME \\ "x" [a]'
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(Exception, match="python -c") as refused:
        read_tensors(folder)
    command = str(refused.value).split("\n", 1)[1]
    python, flag, program = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    paths = [node.value for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    assert str(folder) in paths


def test_what_is_printed_does_not_steer_the_terminal():
    assert printable("a\x1b[2J\n\tb\x07") == "a [2J b"
