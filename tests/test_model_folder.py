"""A model folder as it is: evaluated, searched, embedded and exported without `prepare` and without training."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from dense_jax import Run, load_config
from dense_jax.__main__ import run
from dense_jax.config import command_line
from dense_jax.data.beir_folder import write_beir
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.hf import tensors
from dense_jax.io import read_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.retrieval.runs import read_trec_run
from dense_jax.types import Document
from dense_jax.workdir import Workdir
from tests.programs import train_workdir
from tests.sources import rows, sentence

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A plain BERT folder of random numbers, with its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = Tokenizer.train([sentence(i) for i in range(20)], 80, lowercase=True)
    bert = BertConfig(layers=1, width=16, heads=2, feed_forward=24, vocab_size=tokenizer.size, positions=40)
    params = Encoder(bert, Pooling.MEAN).init(jax.random.key(1))
    vocabulary = tokenizer.vocabulary
    tensors.save_params(
        {"bert": params["bert"]}, bert, folder, pad=vocabulary.pad, ends=(vocabulary.cls, vocabulary.sep)
    )
    tokenizer.save(folder, max_length=40)
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "toys"
    documents = [Document(row["_id"], row["title"], row["text"]) for row in rows(12)]
    write_beir(folder, documents, {"q": sentence(0)}, {"q": {"d0": 1}}, "test")
    return folder


def arguments(model, workdir, **settings):
    given = [f"--{key.replace('__', '.')}={value}" for key, value in settings.items()]
    return [f"--config={ROOT / 'configs' / 'pretrained.py'}:{model}", f"--workdir={workdir}", *given]


@pytest.mark.slow
def test_a_model_folder_is_evaluated_by_one_command_and_its_row_has_its_name(model, judged, tmp_path, capsys):
    argv = arguments(model, tmp_path / "work", evaluate__folder=judged)
    assert run(["evaluate", *argv]) == 0
    said = capsys.readouterr()
    assert [line.split("|")[1].strip() for line in said.out.splitlines() if line.startswith("| ")][2:] == [
        "BM25",
        "tiny-bert",
        "BM25 + dense",
    ]
    assert "BM25 + dense: reciprocal ranks of the first 100 documents of each, weight 0.5 of the dense side" in said.out
    assert f"{judged}: 12 documents; parameters of {model}" in said.err
    assert not (tmp_path / "work" / "checkpoints").exists()
    found = read_json(tmp_path / "work" / "results" / "toys-test" / "before_training.json")
    assert found["step"] == 0 and found["counts"]["queries"] == 1
    assert run(["compare", str(tmp_path / "work"), f"--workdir={tmp_path / 'compared'}"]) == 0


@pytest.mark.slow
def test_hybrid_search_finds_what_its_row_was_measured_on(model, judged, tmp_path):
    argv = arguments(model, tmp_path / "work", evaluate__folder=judged)
    assert run(["evaluate", *argv]) == 0
    measured = read_trec_run(tmp_path / "work" / "results" / "toys-test" / "hybrid_before_training.trec")["q"]
    config = load_config(f"pretrained:{model}", {"embed.collection": str(judged)})
    (hits,) = Run(tmp_path / "work", config).search([sentence(0)], k=12, hybrid=True)
    assert {hit.id: pytest.approx(hit.score) for hit in hits} == measured


@pytest.mark.slow
def test_a_weight_that_was_chosen_on_a_dev_split_is_named_with_it(model, judged, tmp_path, capsys):
    folder = Path(shutil.copytree(judged, tmp_path / "toys"))
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "r", "text": sentence(3)}) + "\n")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nr\td3\t1\n")
    argv = arguments(model, tmp_path / "work", evaluate__folder=folder, evaluate__dev_split="dev")
    assert run(["evaluate", *argv]) == 0
    found = read_json(tmp_path / "work" / "results" / "toys-test" / "hybrid_before_training.json")
    assert found["fusion"]["chosen_on"] == "toys/dev" and found["counts"]["queries"] == 1
    said = f"weight {found['fusion']['weight']:g} of the dense side, chosen by nDCG@10 on toys/dev"
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_folder_that_is_named_with_a_slash_or_a_dot_has_its_name(model, judged, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(model)
    assert run(["evaluate", *arguments(".", tmp_path / "work", evaluate__folder=f"{judged}/")]) == 0
    assert "| tiny-bert " in capsys.readouterr().out
    assert (tmp_path / "work" / "results" / "toys-test").is_dir()


@pytest.mark.slow
def test_a_model_folder_searches_a_corpus_and_is_exported_without_being_prepared(model, judged, tmp_path, capsys):
    argv = arguments(model, tmp_path / "work", corpus__source=judged)
    assert run(["search", *argv, sentence(0)]) == 0
    said = capsys.readouterr()
    assert said.out.count("  Title ") == 5
    assert f"{judged}: 12 documents; parameters of {model}" in said.err
    for verb in ("embed", "index", "export"):
        assert run([verb, *argv]) == 0, capsys.readouterr().err
    assert (tmp_path / "work" / "export" / "modules.json").is_file()


@pytest.mark.slow
def test_the_figures_of_a_model_folder_are_those_of_a_run_of_no_steps(model, judged, tmp_path, capsys):
    argv = arguments(model, tmp_path / "work", corpus__source=judged, evaluate__folder=judged)
    results = tmp_path / "work" / "results" / "toys-test" / "before_training.json"
    assert run(["evaluate", *argv]) == 0
    before = json.loads(results.read_text())
    assert run(["prepare", *argv]) == 0
    given = command_line.parse(argv)
    work = Workdir(given.workdir, given.config)
    train_workdir(work.config, work.passages, work.vocabulary, work.path)
    assert run(["evaluate", *argv]) == 0
    assert f"checkpoint of step 0 in {work.path}" in capsys.readouterr().err
    assert json.loads(results.read_text()) == before


def test_a_test_set_must_be_named_where_nothing_was_prepared(model, tmp_path, capsys):
    assert run(["evaluate", *arguments(model, tmp_path / "work")]) == 2
    assert "--evaluate.folder=DIR" in capsys.readouterr().err
