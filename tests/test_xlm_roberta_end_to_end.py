"""An XLM-R folder through prepare, train, embed and export; what sentence-transformers makes of the result."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.data.inputs import build_inputs
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.hf import tensors
from dense_jax.hf.export import export
from dense_jax.hf.model_card import CardContent
from dense_jax.hf.sentence_transformers import read_sentence_folder
from dense_jax.io import read_json
from dense_jax.models.bert import BertConfig, Family
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.types import Layout, Tokens, Tower, Towers
from tests.bert_folders import fresh_params
from tests.roberta_folders import TEXTS, multilingual_bert_tokenizer, roberta_tokenizer, xlm_roberta_tokenizer

ROOT = Path(__file__).parent.parent
CLOSE = {"rtol": 0, "atol": 1e-5}  # float32 sums in another order; vectors of length up to 4
STYLES = {Family.XLM_ROBERTA: xlm_roberta_tokenizer, Family.ROBERTA: roberta_tokenizer}


def model_folder(folder, family=Family.XLM_ROBERTA):
    """A small random model that takes 30 tokens, with its tokenizer."""
    STYLES[family](folder)
    bert = BertConfig(
        layers=1, width=16, heads=2, feed_forward=24, vocab_size=import_folder(folder).size, positions=32, types=1,
        family=family, epsilon=1e-5, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    params = fresh_params(bert)
    tensors.save_params({"bert": params["encoder"]["bert"], "mlm": params["mlm"]}, bert, folder, pad=1, ends=(0, 2))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def load():
    judge = pytest.importorskip("sentence_transformers", reason="the judge of exports")
    return lambda folder: judge.SentenceTransformer(str(folder), device="cpu")


def ours(tower, tokenizer, texts):
    ids = tokenizer.encode(texts)
    rows = [build_inputs(text[:0], text, tower.length, Layout.BODY, tokenizer.vocabulary) for text in ids]
    return jax.jit(tower.encoder.apply)(tower.params, Tokens(*(np.stack(field) for field in zip(*rows, strict=True))))


@pytest.mark.slow
@pytest.mark.parametrize("family", STYLES)
@pytest.mark.parametrize("layout", [Layout.BODY, Layout.JOINED])
def test_an_exported_encoder_gives_our_vectors(family, layout, tmp_path, load):
    source = model_folder(tmp_path / "source", family)
    bert = read_sentence_folder(source).encoder.bert
    encoder = Encoder(bert, Pooling.MEAN, normalize=True)
    params = {"bert": fresh_params(bert)["encoder"]["bert"]}
    tower, tokenizer = Tower(encoder, params, 30, layout), import_folder(source)
    tokenizer.save(tmp_path / "tokenizer")
    card = CardContent("x", "none", "five texts", 0, 1)
    assert export(Towers(tower, tower), tmp_path / "tokenizer", tmp_path / "model", card).difference < 1e-5
    model = load(tmp_path / "model")
    assert type(model[0].auto_model).__name__ == {"roberta": "RobertaModel"}.get(family.value, "XLMRobertaModel")
    texts = [*TEXTS[:5], " ".join(TEXTS)]
    np.testing.assert_allclose(model.encode(texts), ours(tower, tokenizer, texts), **CLOSE)


@pytest.mark.slow
def test_a_passage_prompt_is_exported_where_words_start_anew_after_it(folder, tmp_path, load):
    encoder = read_sentence_folder(folder).encoder
    tower = Tower(encoder, {"bert": fresh_params(encoder.bert)["encoder"]["bert"]}, 30, Layout.JOINED, "the light: ")
    tokenizer = import_folder(folder)
    tokenizer.save(tmp_path / "tokenizer")
    export(
        Towers(tower, tower), tmp_path / "tokenizer", tmp_path / "model", CardContent("x", "none", "five texts", 0, 1)
    )
    found = load(tmp_path / "model").encode(TEXTS[:3], prompt_name="document")
    np.testing.assert_allclose(found, ours(tower, tokenizer, [tower.prompt + text for text in TEXTS[:3]]), **CLOSE)


@pytest.mark.slow
def test_a_query_prompt_and_the_query_after_it_are_one_text_to_a_byte_level_tokenizer(tmp_path, load):
    source = model_folder(tmp_path / "source", Family.ROBERTA)
    encoder = read_sentence_folder(source).encoder
    passage = Tower(encoder, {"bert": fresh_params(encoder.bert)["encoder"]["bert"]}, 30, Layout.JOINED)
    query, tokenizer, card = (
        replace(passage, prompt="the light: "),
        import_folder(source),
        CardContent("x", "none", "", 0, 1),
    )
    tokenizer.save(tmp_path / "tokenizer")
    export(Towers(query, passage), tmp_path / "tokenizer", tmp_path / "model", card)
    found = load(tmp_path / "model").encode(TEXTS[:3], prompt_name="query")
    np.testing.assert_allclose(found, ours(query, tokenizer, [query.prompt + text for text in TEXTS[:3]]), **CLOSE)


# Through the verbs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    rows = [{"_id": f"d{i}", "title": f"Light {i}", "text": f"{TEXTS[i % 5]} {TEXTS[(i // 5) % 5]}"} for i in range(25)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def arguments(folder, corpus, workdir, *more):
    small = {"passages.length": 30, "steps": 3, "batch": 8, "log_every": 1, "embed.batch": 32}
    small |= {"corpus.source": corpus, "embed.collection": corpus}
    flags = [f"--{key}={value}" for key, value in small.items()]
    return [f"--config={ROOT / 'configs/pretrained.py'}:{folder}", f"--workdir={workdir}", *flags, *more]


def train(*argv):
    command = [sys.executable, "-m", "dense_jax", "train", *argv]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=200)


@pytest.mark.slow
def test_a_pretrained_folder_is_trained_embedded_and_exported(folder, corpus, tmp_path, load):
    workdir = tmp_path / "run"
    argv = arguments(folder, corpus, workdir)
    assert run(["prepare", *argv]) == 0
    done = train(*argv)
    assert done.returncode == 0, done.stderr
    assert f"{folder}: 26 arrays loaded" in done.stderr  # of one layer and the masked-LM head: all
    assert "newly initialised" not in done.stderr
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert run(["embed", *argv]) == 0
    vectors = np.concatenate([np.load(path) for path in sorted((workdir / "embeddings").rglob("*.npy"))])
    assert vectors.shape == (25, 16)
    assert run(["export", *argv]) == 0
    config = read_json(workdir / "export" / "config.json")
    ids = [config[f"{name}_token_id"] for name in ("bos", "pad", "eos")]
    assert (config["model_type"], config["architectures"], ids) == ("xlm-roberta", ["XLMRobertaModel"], [0, 1, 2])
    first = f"Light 0 {TEXTS[0]} {TEXTS[0]}"
    np.testing.assert_allclose(load(workdir / "export").encode([first]), vectors[:1], **CLOSE)


@pytest.mark.slow
def test_a_tokenizer_of_another_kind_is_refused_before_training(folder, corpus, tmp_path, capsys):
    bert = multilingual_bert_tokenizer(tmp_path / "bert", vocab_size=140)
    argv = arguments(folder, corpus, tmp_path / "run", f"--tokenizer.path={bert}")
    assert run(["prepare", *argv]) == 0
    assert run(["show", *argv]) == 2
    assert (
        "is of the family xlm-roberta, which counts positions on from padding, whose id is 1, but the tokenizer's is 0"
        in (capsys.readouterr().err)
    )
