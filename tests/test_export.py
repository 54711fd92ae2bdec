"""Export: sentence-transformers gives our vectors, and nothing is exported that would not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from dense_jax.data.inputs import build_inputs
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, StorageError
from dense_jax.hf import export as export_module
from dense_jax.hf.export import export
from dense_jax.hf.model_card import CardContent, CardResult
from dense_jax.hf.sentence_transformers import read_sentence_folder
from dense_jax.io import read_json, write_json
from dense_jax.mesh import process_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.layers import Dtype
from dense_jax.objectives.condenser import Condenser
from dense_jax.retrieval.encode import TowerOnMesh, encode_queries
from dense_jax.types import Layout, Similarity, Tokens, Tower, Towers
from tests.toys import MeanEmbedding

TEXTS = ["Ada Lovelace wrote the first program.", "query: passage: who what where 0 1 2 3 4 5 6 7 8 9"] * 3
CARD = CardContent(
    "ada", "the inverse cloze task", "two sentences", 7, 8, results=(CardResult("toy", "test", "nDCG@10", 0.25),)
)
CLOSE = {"rtol": 0, "atol": 1e-5}  # float32 sums in another order; vectors of length up to 4
TITLES = ["Ada Lovelace", "", "Ada"]
PASSAGES = ["She wrote the first program.", "A text without a title.", " ".join(["who"] * 99)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=120, lowercase=True)


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tokenizer):
    return BertConfig(layers=1, width=16, heads=2, feed_forward=24, vocab_size=tokenizer.size, positions=40)


def params_of(encoder, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def ict(bert):
    """One encoder with pooler and projection, titles apart."""
    encoder = Encoder(bert, Pooling.POOLER, projection=6)
    params = params_of(encoder)
    return Towers(Tower(encoder, params, 12), Tower(encoder, params, 32, Layout.PAIR, "passage: "))


@pytest.fixture(scope="module")
def mean(bert):
    """One encoder with mean pooling, unit vectors, prompts, titles joined."""
    encoder = Encoder(bert, Pooling.MEAN, normalize=True)
    params = params_of(encoder)
    query = Tower(encoder, params, 12, prompt="query: ")
    return Towers(query, Tower(encoder, params, 32, Layout.JOINED, "passage: "), Similarity.COSINE)


@pytest.fixture(scope="module")
def mean_folder(mean, tokenizer_folder, tmp_path_factory):
    """Its export, to where there was an earlier one."""
    folder = tmp_path_factory.mktemp("mean")
    write_json(folder / "query/modules.json", [])
    export(mean, tokenizer_folder, folder, CARD)
    return folder


@pytest.fixture(scope="module")
def two(bert):
    """Two encoders."""
    encoder = Encoder(bert)
    return Towers(Tower(encoder, params_of(encoder, 1), 12), Tower(encoder, params_of(encoder, 2), 32))


def ours(tower, tokenizer, titles, texts):
    ids = zip(tokenizer.encode(titles), tokenizer.encode(texts), strict=True)
    rows = [build_inputs(title, text, tower.length, tower.layout, tokenizer.vocabulary) for title, text in ids]
    return jax.jit(tower.encoder.apply)(tower.params, Tokens(*(np.stack(field) for field in zip(*rows, strict=True))))


@pytest.fixture(scope="module")
def load():
    judge = pytest.importorskip("sentence_transformers", reason="the judge of exports")
    return lambda folder: judge.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.slow
def test_t30_an_exported_ict_model_gives_our_vectors(ict, tokenizer, tokenizer_folder, tmp_path, load):
    report = export(ict, tokenizer_folder, tmp_path / "model", CARD)
    assert report.difference < 1e-5
    assert "the vectors of 9 sample texts differ from ours by at most" in str(report)
    model = load(tmp_path / "model")
    assert (model.max_seq_length, model.similarity_fn_name, model.prompts["document"]) == (32, "dot", "")
    titles = [f"passage: {title}" for title in TITLES]
    pairs = list(zip(titles, PASSAGES, strict=True))
    np.testing.assert_allclose(model.encode(pairs), ours(ict.passage, tokenizer, titles, PASSAGES), **CLOSE)
    queries = ["who wrote the first program?", ""]
    np.testing.assert_allclose(model.encode(queries), ours(ict.query, tokenizer, ["", ""], queries), **CLOSE)


@pytest.mark.slow
def test_t30_prompts_lengths_and_cosine_come_along(mean, mean_folder, tokenizer, load):
    model = load(mean_folder)
    assert (model.max_seq_length, model.similarity_fn_name) == (32, "cosine")
    texts = [f"{title} {text}" for title, text in zip(TITLES, PASSAGES, strict=True)]
    titles = [f"passage: {title}" for title in TITLES]
    expected = ours(mean.passage, tokenizer, titles, PASSAGES)
    np.testing.assert_allclose(model.encode(texts, prompt_name="document"), expected, **CLOSE)
    queries = model.encode(["who?"], prompt_name="query")
    np.testing.assert_allclose(queries, ours(mean.query, tokenizer, [""], ["query: who?"]), **CLOSE)


@pytest.mark.slow
def test_a_mean_without_its_prompt_comes_along(mean, tokenizer, tokenizer_folder, tmp_path, load):
    query, passage = (replace(tower, pools_prompt=False) for tower in (mean.query, mean.passage))
    export(Towers(query, passage, Similarity.COSINE), tokenizer_folder, tmp_path / "model", CARD)
    model = load(tmp_path / "model")
    mesh = process_mesh()
    expected = encode_queries(["who?", "Ada"], TowerOnMesh(query, mesh), tokenizer)
    np.testing.assert_allclose(model.encode(["who?", "Ada"], prompt_name="query"), expected, **CLOSE)
    pooled = encode_queries(["who?", "Ada"], TowerOnMesh(mean.query, mesh), tokenizer)
    assert np.abs(expected - pooled).max() > 0.01
    found = read_sentence_folder(tmp_path / "model")
    assert (found.pools_prompt, found.encoder) == (False, query.encoder)


def test_a_mean_without_the_prompt_of_pairs_is_not_exported(mean, tokenizer_folder, tmp_path):
    pairs = replace(mean.passage, layout=Layout.PAIR, pools_prompt=False)
    message = r"pool_prompts=false cannot be exported with objective\.layout=pair and the prompt 'passage: '; use --"
    with pytest.raises(ConfigError, match=message):
        export(replace(mean, passage=pairs), tokenizer_folder, tmp_path / "model", CARD)


@pytest.mark.slow
def test_two_towers_become_two_models(two, tokenizer, tokenizer_folder, tmp_path, load):
    export(two, tokenizer_folder, tmp_path / "model", CARD)
    for side in ("query", "passage"):
        model, tower = load(tmp_path / "model" / side), getattr(two, side)
        assert model.max_seq_length == tower.length
        np.testing.assert_allclose(model.encode(["who?"]), ours(tower, tokenizer, [""], ["who?"]), **CLOSE)


@pytest.mark.slow
def test_a_condensers_export_is_its_encoder_alone_and_transformers_gives_our_cls_vectors(
    bert, tokenizer, tokenizer_folder, tmp_path
):
    torch = pytest.importorskip("torch", reason="runs transformers' model")
    from transformers import AutoModel, AutoTokenizer

    method = Condenser(Encoder(bert), head_layers=1, skip_from=0, passage_length=32)
    towers = method.towers(method.init(jax.random.key(0)))
    export(towers, tokenizer_folder, tmp_path / "model", CARD)
    model = AutoModel.from_pretrained(tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert not [name for name in names if "head" in name or "cls." in name]
    read = AutoTokenizer.from_pretrained(tmp_path / "model")
    inputs = read(PASSAGES, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        theirs = model.eval()(**inputs).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(theirs, ours(towers.passage, tokenizer, [""] * len(PASSAGES), PASSAGES), **CLOSE)


def test_we_read_our_own_export(mean, mean_folder):
    found = read_sentence_folder(mean_folder)
    assert found.encoder == mean.query.encoder
    assert (found.query_prompt, found.passage_prompt, found.length) == ("query: ", "passage: ", 32)
    assert found.similarity is Similarity.COSINE


@pytest.mark.slow
def test_t30_a_bfloat16_model_is_compared_in_float32(two, tokenizer_folder, tmp_path):
    encoder = replace(two.query.encoder, bert=replace(two.query.encoder.bert, dtype=Dtype.BFLOAT16))
    tower = replace(two.query, encoder=encoder)
    assert export(Towers(tower, tower), tokenizer_folder, tmp_path / "model", CARD).difference < 1e-5


@pytest.mark.slow
def test_t30_vectors_are_compared_in_float32_on_a_platform_that_computes_in_bfloat16(
    two, tokenizer_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("dense_jax.models.transformer.platform", lambda: "gpu")
    assert export(two, tokenizer_folder, tmp_path / "model", CARD).difference < 1e-5


def test_an_earlier_export_is_replaced_wholly(mean_folder):
    assert not (mean_folder / "query").exists()


def test_t30_the_folder_names_no_place_of_this_machine_and_loads_in_older_versions(mean_folder, tokenizer_folder):
    for path in mean_folder.rglob("*.json"):
        assert not any(str(place) in path.read_text() for place in (mean_folder, tokenizer_folder))
    tokenizer = read_json(mean_folder / "tokenizer_config.json")
    assert (tokenizer["tokenizer_class"], tokenizer["model_max_length"]) == ("BertTokenizer", 32)


def test_the_card_comes_along(mean_folder):
    assert ModelCard.load(mean_folder / "README.md").data.eval_results[0].metric_value == 0.25


def test_t30_vectors_that_differ_stop_the_export_and_keep_the_earlier(mean, mean_folder, tokenizer_folder, monkeypatch):
    before = (mean_folder / "model.safetensors").read_bytes()
    right = export_module.apply_modules
    monkeypatch.setattr(export_module, "apply_modules", lambda *inputs: right(*inputs) + 2e-4)
    message = r"the vector of '.*' differs from ours by 0\.0002, more than 0\.0001; nothing was exported"
    with pytest.raises(StorageError, match=message):
        export(mean, tokenizer_folder, mean_folder, CARD)
    assert (mean_folder / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_prompt_that_runs_into_the_next_word_is_refused(mean, tokenizer_folder, tmp_path):
    towers = replace(mean, passage=replace(mean.passage, prompt="pas"))
    with pytest.raises(StorageError, match="If there is a prompt, end it in a space"):
        export(towers, tokenizer_folder, tmp_path / "model", CARD)


def test_a_folder_with_something_else_in_it_is_left_alone(two, tokenizer_folder, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds something other than an export; delete it or name another folder"):
        export(two, tokenizer_folder, tmp_path, CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_foreign_encoder_is_refused(tokenizer_folder, tmp_path):
    tower = Tower(MeanEmbedding(), {"embedding": jnp.ones((2, 2))}, 8)
    with pytest.raises(ConfigError, match=r"MeanEmbedding cannot be exported: only models\.encoder\.Encoder can"):
        export(Towers(tower, tower), tokenizer_folder, tmp_path / "model", CARD)
