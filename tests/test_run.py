"""The Python API: the example of the README, and what a run remembers, refuses and writes."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import CodeType

import numpy as np
import pytest

import dense_jax
from dense_jax.__main__ import run as command
from dense_jax.config import overrides
from dense_jax.config.remembered import FILE, recall_config
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import digests
from tests.faults.command_line import SMALL, write_corpus

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.timeout(900)  # one training, and what is compiled for it
QUICK = {**SMALL, "corpus.held_out": 10, "embed.batch": 64, "embed.split": False, "steps": 4}


def readme_code(title: str) -> CodeType:
    """The program in a section of the README."""
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n## {title}\n")
    lines = section.partition("\n## ")[0].splitlines()
    code = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))
    return compile(code, "README.md", "exec")


@pytest.fixture(scope="module")
def example(tmp_path_factory) -> dict:
    """The names that the example of the README defines, on a small corpus and with small numbers."""
    folder, load = tmp_path_factory.mktemp("readme"), overrides.load_config
    write_corpus(folder / "docs.jsonl")
    names: dict = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(overrides, "load_config", lambda name, given: load(name, QUICK | given))
        exec(readme_code("From Python"), names)
    return names | {"folder": folder, "workdir": folder / "runs" / "mine"}


@pytest.fixture
def workdir(example, tmp_path) -> Path:
    """A copy of the example's workdir, to be changed."""
    return Path(shutil.copytree(example["workdir"], tmp_path / "mine"))


@pytest.mark.slow
def test_the_readmes_example_trains_searches_and_compares_vectors(example):
    assert (example["workdir"] / "export" / "modules.json").is_file()
    (hits,) = example["hits"]
    assert len(hits) == 5
    assert {hit.id[0] for hit in hits} == {"d"} and all(hit.text.startswith("The ") for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert example["scores"].shape == (1, 2)
    assert example["scores"].dtype == np.float32


@pytest.mark.slow
def test_the_readmes_exported_model_compares_texts_in_sentence_transformers(example, monkeypatch):
    monkeypatch.chdir(example["folder"])
    names: dict = {}
    exec(readme_code("The exported model"), names)
    assert names["similarity"].shape == (1, 1)
    assert names["similarity"].item() == pytest.approx(example["scores"][0, 1], abs=1e-4)


@pytest.mark.slow
def test_a_table_shows_itself_as_text_as_markdown_and_as_html(example):
    table = example["table"]
    assert list(table.figures) == ["BM25", "before training", "after training", "BM25 + dense"]
    assert table._repr_markdown_().startswith("|                 | nDCG@10 |")
    value = f"{table.figures['after training']['MRR@10']:.3f}"
    assert f"<td>{value}</td>" in table._repr_html_() and table._repr_html_().startswith("<table><tr><th></th>")
    assert (example["folder"] / table.folder / "table.md").read_text() == table.text + "\n"
    assert str(table).startswith(table.text)


@pytest.mark.slow
def test_passages_are_encoded_as_embed_encodes_documents(example):
    rows = [json.loads(line) for line in (example["folder"] / "docs.jsonl").read_text().splitlines()]
    run = dense_jax.Run(example["workdir"], recall_config(example["workdir"]))
    vectors = run.embed()
    own = run.encode_passages([(row["title"], row["text"]) for row in rows])
    assert vectors.ids == [row["_id"] for row in rows]
    np.testing.assert_allclose(own, vectors.array(), atol=1e-5)


@pytest.mark.slow
def test_a_query_that_is_a_passage_of_the_corpus_finds_its_document(example):
    run = dense_jax.Run(example["workdir"])
    assert run.encode_queries(["one", "two"]).shape == (2, 16)
    assert len(run.search(["number 7", "river"], k=2)[1]) == 2
    with pytest.raises(DataError, match="query 2 is empty"):
        run.search(["river", " "])


@pytest.mark.slow
def test_hybrid_search_ranks_by_both_and_its_bm25_index_is_built_once(example, capsys):
    run = dense_jax.Run(example["workdir"])
    (hits,) = run.search(["number 7"], k=20, hybrid=True)
    scores = [hit.score for hit in hits]
    assert len({hit.id for hit in hits}) == 20 and scores == sorted(scores, reverse=True)
    assert scores[0] <= 1 / 61 and hits[0].text
    assert "BM25 + dense: reciprocal ranks of the first 100 documents of each" in capsys.readouterr().err
    run.search(["number 7"], k=120, hybrid=True)
    assert "BM25 + dense: reciprocal ranks of the first 120 documents of each" in capsys.readouterr().err
    (index,) = (path for path in (example["workdir"] / "bm25").iterdir() if path.is_dir() and "docs" in path.name)
    before = (index / "manifest.json").stat().st_mtime_ns
    assert command(["search", f"--workdir={example['workdir']}", "--hybrid", "number 7"]) == 0
    assert hits[0].id in capsys.readouterr().out
    assert (index / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_later_verbs_need_the_workdir_alone_from_any_folder(example, monkeypatch, capsys):
    monkeypatch.chdir("/")
    assert command(["search", f"--workdir={example['workdir']}", "--search.k=1", "river"]) == 0
    assert "   1  " in (said := capsys.readouterr().out) and "   2  " not in said
    assert recall_config(example["workdir"]).config.search.k == 5  # a flag of a later verb holds for that call
    assert recall_config(example["workdir"]).config.corpus.source == str(example["folder"] / "docs.jsonl")


@pytest.mark.slow
def test_what_may_not_change_is_refused_with_the_reason(example, capsys):
    flags = [f"--workdir={example['workdir']}", "--objective.temperature=0.5", "--objective.query_length=24"]
    assert command(["search", *flags, "river"]) == 2
    said = capsys.readouterr().err
    assert "was trained with other settings" in said and "objective.temperature: 0.03 -> 0.5" in said
    assert "query_length" not in said  # which search alone reads


@pytest.mark.slow
def test_a_refused_start_of_training_leaves_what_the_workdir_remembers(workdir):
    before = digests(workdir)
    source = recall_config(workdir).config.corpus.source
    given = dense_jax.load_config("ict:tiny", QUICK | {"corpus.source": source, "seed": 9})
    with pytest.raises(ConfigError, match="seed: 0 -> 9"):
        dense_jax.Run(workdir, given).train()
    assert digests(workdir) == before


@pytest.mark.slow
def test_flags_of_train_are_remembered_before_the_first_step_and_prepare_keeps_those_of_the_run(
    example, tmp_path, capsys
):
    source = example["folder"] / "docs.jsonl"
    given = {"corpus.source": str(source), **QUICK}
    dense_jax.Run(tmp_path, dense_jax.load_config("ict:tiny", given)).prepare()
    dense_jax.Run(tmp_path, dense_jax.load_config("ict:tiny", given | {"steps": 2})).train()
    assert recall_config(tmp_path).config.steps == 2
    capsys.readouterr()
    dense_jax.Run(tmp_path).prepare()
    assert "note:" not in capsys.readouterr().err
    dense_jax.Run(tmp_path, dense_jax.load_config("ict:tiny", given)).prepare()
    assert f"note: {tmp_path} was trained and keeps the settings of its run; give" in capsys.readouterr().err
    assert recall_config(tmp_path).config.steps == 2
    dense_jax.Run(tmp_path).train()  # goes on, with nothing left to do
    with pytest.raises(ConfigError, match=r"steps: 2 -> 4"):
        dense_jax.Run(tmp_path, dense_jax.load_config("ict:tiny", given)).search(["river"])


@pytest.mark.slow
def test_a_start_of_training_that_fails_after_the_identity_check_leaves_what_the_workdir_remembers(example, tmp_path):
    given = {"corpus.source": str(example["folder"] / "docs.jsonl"), **QUICK}
    dense_jax.Run(tmp_path, dense_jax.load_config("ict:tiny", given)).prepare()
    with pytest.raises(ConfigError, match=r"mesh\.data=64 .* does not make"):
        dense_jax.Run(tmp_path, dense_jax.load_config("ict:tiny", given | {"mesh.data": 64})).train()
    assert recall_config(tmp_path).config.mesh.data == -1


def test_a_run_without_a_config_needs_a_workdir_that_remembers_one(tmp_path):
    with pytest.raises(
        ConfigError, match=r"remembers no config; give one, such as dense_jax\.load_config\('ict:tiny'\)"
    ):
        dense_jax.Run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_imported_without_jax():
    code = "import sys, dense_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'Rum'"):
        _ = dense_jax.Rum


READ_ONLY = """
import json, sys
from pathlib import Path
from dense_jax.__main__ import run
work, out, found = sys.argv[1:]
commands = {
    "show": ["show"], "search": ["search", "river"],
    "evaluate": ["evaluate"], "evaluate --out": ["evaluate", f"--out={out}"],
    "export": ["export"], "export --out": ["export", f"--out={out}"],
    "new vectors": ["search", "--embed.step=0", "river"],
    "new vectors --out": ["search", "--embed.step=0", f"--out={out}", "river"],
}
statuses = {name: run([verb, f"--workdir={work}", *rest]) for name, (verb, *rest) in commands.items()}
Path(found).write_text(json.dumps(statuses))
"""


@pytest.mark.slow
def test_a_read_only_workdir_is_shown_and_searched_and_with_out_evaluated_and_exported(workdir, tmp_path):
    mounted = f"mount --bind {workdir} {workdir} && mount -o remount,ro,bind {workdir}"
    if subprocess.run(["unshare", "--mount", "bash", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a folder read-only")
    before, out, found = digests(workdir), tmp_path / "out", tmp_path / "statuses.json"
    script = f'{mounted} && exec "$@"'
    program = [sys.executable, "-c", READ_ONLY, str(workdir), str(out), str(found)]
    argv = ["unshare", "--mount", "bash", "-c", script, "bash", *program]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(found.read_text()) == {
        "show": 0, "search": 0,
        "evaluate": 2, "evaluate --out": 0,
        "export": 2, "export --out": 0,
        "new vectors": 4, "new vectors --out": 0,
    }  # fmt: skip
    refusal = f"{workdir} is not writable (Read-only file system); name another one by --out=DIR"
    assert done.stderr.count(refusal) == 2
    assert "may not be written (Read-only file system); name a folder for what is missing by --out=DIR" in done.stderr
    assert (out / "results" / "test-test" / "table.md").is_file() and (out / "export" / "modules.json").is_file()
    assert digests(workdir) == before
    assert (workdir / FILE).is_file()
