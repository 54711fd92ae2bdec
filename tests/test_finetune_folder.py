"""configs/finetune.py: folders of the shapes that people use, opened, fine-tuned and exported as they are.

The weights are random; the folders are written by transformers and sentence-transformers.
"""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import dense_jax
from dense_jax.config.command_line import parse
from dense_jax.config.tree import with_vocabulary
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError
from dense_jax.hf import tensors
from dense_jax.models.pooling import Pooling
from dense_jax.train.start import fitted
from tests.bert_folders import fresh_params, sentence_folder, settings, write_config
from tests.roberta_folders import TEXTS, roberta_tokenizer

CLOSE = {"rtol": 0, "atol": 2e-5}
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
NOMIC = {"query": "search_query: ", "document": "search_document: "}
BGE = {"query": "Represent this sentence for searching relevant passages: ", "document": ""}
# name of the folder: class in transformers, its settings, pooling, has a Dense module, prompts in the folder and in use
SHAPES = {
    "bge-small-en-v1.5": ("Bert", SIZES, "cls", False, {}, BGE),
    "e5-small-v2": ("Bert", SIZES, "mean", False, {}, {"query": "query: ", "document": "passage: "}),
    "nomic": ("NomicBert", SIZES | {"max_position_embeddings": 600}, "mean", False, NOMIC, NOMIC),
    "modernbert": (
        "ModernBert",
        SIZES | {"local_attention": 8, "pad_token_id": 1, "max_position_embeddings": 600},
        "cls",
        False,
        {"query": "search_query:", "document": "search_document:"},
        {"query": "search_query:", "document": "search_document:"},
    ),
    "distiluse": (
        "DistilBert",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
        "mean",
        True,
        {},
        {"query": "", "document": ""},
    ),
}


@pytest.fixture(scope="module")
def judge():
    return pytest.importorskip("sentence_transformers", reason="the writer of folders and the judge of exports")


def folder_of(name: str, root: Path, judge) -> Path:
    """A folder with random weights, as its library writes it."""
    import torch
    import transformers
    from sentence_transformers.sentence_transformer import modules as models

    kind, settings, pooling, has_dense, prompts, _ = SHAPES[name]
    plain, folder = root / "plain", root / name
    if kind == "ModernBert":
        roberta_tokenizer(plain)
    else:
        Tokenizer.train(TEXTS, vocab_size=200, lowercase=True).save(plain)
    torch.manual_seed(0)
    settings = settings | {"vocab_size": 330, "initializer_range": 0.3}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
    model.save_pretrained(plain)
    modules = [models.Transformer(str(plain), max_seq_length=48), models.Pooling(16, pooling_mode=pooling)]
    modules += [models.Dense(16, 12, activation_function=torch.nn.Tanh())] if has_dense else []
    modules += [models.Normalize()]
    judge.SentenceTransformer(modules=modules, prompts=prompts, similarity_fn_name="cosine", device="cpu").save(
        str(folder)
    )
    return folder


def judged_queries(root: Path) -> Path:
    """A BEIR folder whose queries are the first words of its documents."""
    (root / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": f"Light {i}", "text": f"{TEXTS[i % 5]} Number {i}."} for i in range(24)]
    queries = [{"_id": f"q{i}", "text": f"keeper of light {i}"} for i in range(24)]
    for name, lines in {"corpus": rows, "queries": queries}.items():
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    judged = "\n".join(f"q{i}\td{i}\t1" for i in range(24))
    for split in ("train", "test"):
        (root / f"qrels/{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}\n")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_is_opened_trained_and_exported_with_its_vectors_prompts_and_similarity(name, tmp_path, judge, capsys):
    folder, prompts = folder_of(name, tmp_path, judge), SHAPES[name][-1]
    queries, passages = ["Who keeps the light?", "keeper"], [TEXTS[0], "The lights. " * 30]

    def theirs(model, texts, side):
        return model.encode(texts, prompt=prompts[side])

    data = str(judged_queries(tmp_path / "data"))
    settings = {"corpus.source": data, "evaluate.folder": data, "steps": 10, "batch": 8, "objective.negatives": 0}
    settings |= {"objective.known": 0, "optimizer.learning_rate": 1e-2, "optimizer.warmup_share": 0.0, "log_every": 1}
    run = dense_jax.Run(tmp_path / "work", dense_jax.load_config(f"finetune:{folder}", settings))
    original = judge.SentenceTransformer(str(folder), device="cpu")
    as_it_is = dense_jax.Run(tmp_path / "as_it_is", dense_jax.load_config(f"pretrained:{folder}"))
    np.testing.assert_allclose(as_it_is.encode_queries(queries), theirs(original, queries, "query"), **CLOSE)
    np.testing.assert_allclose(as_it_is.encode_passages(passages), theirs(original, passages, "document"), **CLOSE)
    run.prepare()
    run.train()
    run.train()
    note = "note: 24 of 24 queries have more known positives than objective.known=0"
    assert capsys.readouterr().err.count(note) == 1
    run.export()
    loaded = judge.SentenceTransformer(str(tmp_path / "work" / "export"), device="cpu")
    assert not np.allclose(theirs(loaded, queries, "query"), theirs(original, queries, "query"), atol=1e-4)
    np.testing.assert_allclose(run.encode_queries(queries), theirs(loaded, queries, "query"), **CLOSE)
    np.testing.assert_allclose(run.encode_passages(passages), theirs(loaded, passages, "document"), **CLOSE)
    assert {side: loaded.prompts[side] for side in prompts} == prompts
    assert (loaded.similarity_fn_name, loaded.max_seq_length) == (original.similarity_fn_name, 48)
    assert [type(module).__name__ for module in loaded] == [type(module).__name__ for module in original]


DENSE = {"in_features": 16, "out_features": 5, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def with_dense(folder: Path, **changes) -> Path:
    sentence_folder(folder, {"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense", "Normalize"))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense/config.json").write_text(json.dumps(DENSE | changes))
    return folder


def test_the_folder_says_how_it_is_fine_tuned(tmp_path):
    found = parse([f"--config=finetune:{with_dense(tmp_path)}", "--workdir=w"]).config
    encoder = found.objective.encoder
    assert (encoder.pooling, encoder.dense, encoder.dense_tanh, encoder.normalize) == (Pooling.MEAN, 5, True, True)
    assert (encoder.width, found.objective.passage_length, found.objective.query_length) == (5, 12, 12)
    assert found.init_from == found.tokenizer.path == str(tmp_path)
    assert "name it after the colon, --config=finetune:FOLDER" in refusal("finetune")


@pytest.mark.slow
def test_any_method_starts_from_the_folder_with_its_model_pooling_and_affine_layer(tmp_path):
    folder = with_dense(tmp_path / "model")
    loaded = dense_jax.load_config("ict:tiny", {"init_from": folder, "objective.passage_length": 12})
    loaded = replace(loaded, config=replace(loaded.config, objective=replace(loaded.config.objective, query_length=12)))
    encoder = with_vocabulary(fitted(loaded.config, loaded.given, tmp_path).config.objective.encoder, 40)
    assert (encoder.bert.width, encoder.pooling, encoder.dense, encoder.normalize) == (16, Pooling.MEAN, 5, True)
    save_file({"linear.weight": np.ones((5, 16), np.float32)}, folder / "2_Dense" / "model.safetensors")
    params = jax.tree.map(jnp.zeros_like, encoder.init(jax.random.key(0)))
    tensors.save_params({"bert": fresh_params(encoder.bert)["encoder"]["bert"]}, encoder.bert, folder, pad=0)
    found, report = tensors.load_params({"encoder": params}, folder, settings(encoder.bert))
    np.testing.assert_array_equal(found["encoder"]["dense"]["kernel"], np.ones((16, 5)))
    np.testing.assert_array_equal(found["encoder"]["dense"]["bias"], np.zeros(5))  # a layer without a bias
    assert not report.initialised and not report.ignored


def refusal(config: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse([f"--config={config}", "--workdir=w"])
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, "activation_function is 'torch.nn.modules.activ"),
        ({"in_features": 7}, "in_features is 7; only 16 can be obeyed"),
        ({"gain": 2}, "gain is unknown"),
    ],
)
def test_an_affine_layer_that_cannot_be_obeyed_is_refused(changes, message, tmp_path):
    assert message in refusal(f"finetune:{with_dense(tmp_path, **changes)}")


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("e5-base-v2", "query: ", "passage: "),
        ("multilingual-e5-small", "query: ", "passage: "),
        ("bge-base-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("bge-m3", "", ""),
        ("my-e5-base-v2-tuned", "", ""),
    ],
)
def test_prompts_of_a_model_card_are_taken_by_the_name_of_the_folder_and_printed(
    name, query, passage, tmp_path, capsys
):
    folder = sentence_folder(tmp_path / name, {"pooling_mode": "mean"})
    found = parse([f"--config=finetune:{folder}", "--workdir=w"]).config.objective
    assert (found.query_prompt, found.passage_prompt) == (query, passage)
    assert (f"{folder} names no prompts, so those of {name} are taken" in capsys.readouterr().err) == bool(query)
    given = ["--objective.query_prompt=q: ", "--objective.passage_prompt="]
    found = parse([f"--config=finetune:{folder}", "--workdir=w", *given]).config.objective
    assert (found.query_prompt, found.passage_prompt) == ("q: ", "")


def test_empty_prompts_which_the_library_writes_into_every_folder_name_none(tmp_path):
    folder = sentence_folder(tmp_path / "e5-base", {"pooling_mode": "mean"}, prompts={"query": "", "document": ""})
    assert parse([f"--config=finetune:{folder}", "--workdir=w"]).config.objective.query_prompt == "query: "


def test_the_name_in_config_json_of_a_model_that_was_trained_on_gives_no_prompts(tmp_path):
    folder = sentence_folder(tmp_path / "ours", {"pooling_mode": "mean"})
    write_config(folder, _name_or_path="intfloat/e5-base-v2")
    assert parse([f"--config=finetune:{folder}", "--workdir=w"]).config.objective.query_prompt == ""


def test_prompts_of_the_folder_come_first_and_a_name_may_stand_in_the_cache_of_the_hub(tmp_path):
    own = sentence_folder(tmp_path / "e5-base-v2", {"pooling_mode": "mean"}, prompts={"query": "ask: "})
    assert parse([f"--config=finetune:{own}", "--workdir=w"]).config.objective.query_prompt == "ask: "
    place = tmp_path / "models--intfloat--e5-small-v2" / "snapshots"
    place.mkdir(parents=True)
    cached = sentence_folder(place / "0a1b", {"pooling_mode": "mean"})
    assert parse([f"--config=finetune:{cached}", "--workdir=w"]).config.objective.query_prompt == "query: "
