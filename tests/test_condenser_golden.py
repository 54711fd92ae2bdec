"""Condenser, coCondenser and RetroMAE against their reference implementations, in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from dense_jax.hf import tensors
from dense_jax.hf.config import config_json
from dense_jax.hf.families import FAMILIES
from dense_jax.io import write_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype
from dense_jax.objectives.cocondenser import CoCondenser
from dense_jax.objectives.condenser import Condenser
from dense_jax.objectives.retromae import RetroMAE
from dense_jax.train.gradient_cache import loss_in_chunks
from dense_jax.types import Tokens

GOLDEN = Path(__file__).parent / "golden" / "condenser"
BERT = BertConfig(
    layers=4, width=32, heads=2, feed_forward=64, vocab_size=128, positions=64,
    dropout=0.0, attention_dropout=0.0, dtype=Dtype.FLOAT64, scan=True,
)  # fmt: skip
ENCODER = Encoder(BERT)
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64 on both sides

pytestmark = pytest.mark.usefixtures("x64")


def load(name, method, folder):
    """The numbers of a file, and its parameters in the tree of `method`, read as the authors publish them."""
    golden = np.load(GOLDEN / f"{name}.npz")
    weights = {key.removeprefix("param/"): golden[key] for key in golden if key.startswith("param/")}
    save_file({key: value for key, value in weights.items() if "c_head" not in key}, folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "c_head" in key}, folder / "head.safetensors")
    write_json(folder / "config.json", config_json(BERT, "BertForMaskedLM", pad=0))
    params, report = tensors.load_params(method.init(jax.random.key(0)), folder, method)
    assert report.initialised == []
    return golden, jax.tree.map(lambda x: x.astype(jnp.float64), params)  # and so the gradients


def masked(ids, mask, labels):
    """A batch in which every position has a slot."""
    positions = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
    weights = (labels != -100).astype(np.float32)
    return {
        "tokens": Tokens(ids, np.zeros_like(ids), mask.astype(bool)),
        "positions": positions,
        "labels": np.maximum(labels, 0),
        "weights": weights,
    }


def run(method, params, batch, chunk=0):
    def loss(params):
        settings = {"rng": jax.random.key(0), "step": jnp.zeros((), int)}
        if chunk:
            return loss_in_chunks(method, params, {}, batch, chunks=4 // chunk, **settings)
        return method.loss(params, {}, batch, **settings)

    batch = jax.tree.map(jnp.asarray, batch)
    (value, (metrics, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return value, metrics, by_name(gradient)


def by_name(gradient):
    """Gradients under their names and in their layout."""
    flat = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(gradient)
    }
    return {FAMILIES["bert"].tensor_name(path): x.T if path.endswith("kernel") else x for path, x in flat.items()}


def assert_gradients(ours, golden, prefix="grad"):
    found = [key for key in golden if key.startswith((f"{prefix}/", f"{prefix}norm/"))]
    assert any(key.startswith(f"{prefix}norm/") for key in found)
    for key in found:
        gradient = ours[FAMILIES["bert"].modern_name(key.partition("/")[2])]
        value = np.linalg.norm(gradient) if key.startswith(f"{prefix}norm/") else gradient
        # attention's key bias has no gradient but the rounding of sums
        np.testing.assert_allclose(value, golden[key], rtol=1e-8, atol=1e-12, err_msg=key)


def condenser_batch(golden):
    return masked(*(golden[f"input/{name}"] for name in ("input_ids", "attention_mask", "labels")))


@pytest.mark.slow
def test_condenser_equals_the_reference(tmp_path):
    method = Condenser(ENCODER, head_layers=2, skip_from=2, passage_length=16)
    golden, params = load("condenser", method, tmp_path)
    loss, metrics, gradients = run(method, params, condenser_batch(golden))
    np.testing.assert_allclose(loss, golden["output/loss_total"], **EXACT)
    np.testing.assert_allclose(metrics["loss_head"], golden["output/loss_head"], **EXACT)
    np.testing.assert_allclose(metrics["loss_late"], golden["output/loss_late"], **EXACT)
    assert_gradients(gradients, golden)


@pytest.mark.slow
def test_condenser_without_the_late_loss_equals_the_reference(tmp_path):
    method = Condenser(ENCODER, head_layers=2, skip_from=2, passage_length=16, late_mlm=False)
    golden, params = load("condenser", method, tmp_path)
    loss, _, gradients = run(method, params, condenser_batch(golden))
    np.testing.assert_allclose(loss, golden["output/loss_total_no_late"], **EXACT)
    assert_gradients(gradients, golden, "grad_no_late")


def pairs(golden):
    return jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), condenser_batch(golden))


@pytest.mark.slow
@pytest.mark.parametrize("score_chunk", [0, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (3, 8))])
def test_cocondenser_equals_the_reference(tmp_path, score_chunk):
    method = CoCondenser(ENCODER, head_layers=2, skip_from=2, passage_length=16, score_chunk=score_chunk)
    golden, params = load("cocondenser", method, tmp_path)
    loss, metrics, gradients = run(method, params, pairs(golden))
    np.testing.assert_allclose(metrics["loss_contrast"], golden["output/loss_co"], **EXACT)
    np.testing.assert_allclose(metrics["loss_head"], golden["output/loss_head"], **EXACT)
    np.testing.assert_allclose(metrics["loss_late"], golden["output/loss_late"], **EXACT)
    np.testing.assert_allclose(loss, golden["output/loss_total"], **EXACT)
    assert_gradients(gradients, golden)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2])
def test_the_gradient_cache_gives_the_gradient_of_the_whole_batch(tmp_path, chunk):
    method = CoCondenser(ENCODER, head_layers=2, skip_from=2, passage_length=16)
    golden, params = load("cocondenser", method, tmp_path)
    loss, _, gradients = run(method, params, pairs(golden), chunk=chunk)
    np.testing.assert_allclose(loss, golden["output/loss_total"], **EXACT)
    assert_gradients(gradients, golden)


@pytest.mark.slow
def test_a_masked_lm_weight_of_two_is_the_released_gradient_cache(tmp_path):
    method = CoCondenser(ENCODER, head_layers=2, skip_from=2, passage_length=16, mlm_weight=2.0)
    golden, params = load("cocondenser", method, tmp_path)
    loss, _, gradients = run(method, params, pairs(golden), chunk=4)
    np.testing.assert_allclose(loss, golden["output/refcached_chunk8_loss"], **EXACT)
    assert_gradients(gradients, golden, "grad_refcached8")


@pytest.mark.slow
def test_a_run_of_two_processes_is_the_global_contrast_and_the_mean_of_their_masked_lm_losses(tmp_path):
    """And no factor for the number of processes."""
    contrast = CoCondenser(ENCODER, head_layers=2, skip_from=2, passage_length=16, mlm_weight=0.0)
    local = Condenser(ENCODER, head_layers=2, skip_from=2, passage_length=16)
    golden, params = load("cocondenser", contrast, tmp_path)
    spans = jax.tree.map(jnp.asarray, condenser_batch(golden))
    halves = [jax.tree.map(lambda x, part=part: x[part], spans) for part in (slice(4), slice(4, None))]
    settings = {"rng": jax.random.key(0), "step": jnp.zeros((), int)}

    def loss(params):
        together = contrast.loss(params, {}, jax.tree.map(jnp.asarray, pairs(golden)), **settings)[0]
        return together + sum(local.loss(params, {}, half, **settings)[0] for half in halves) / 2

    assert_gradients(by_name(jax.jit(jax.grad(loss))(params)), golden, "grad_ddp2")


def retromae_batch(golden):
    ids, mask, labels = (golden[f"input/encoder_{name}"] for name in ("input_ids", "attention_mask", "labels"))
    view = golden["input/decoder_attention_mask"].astype(bool)
    return masked(ids, mask, labels) | {"ids": golden["input/decoder_input_ids"], "decoder_view": view}


@pytest.mark.slow
def test_retromae_equals_the_reference(tmp_path):
    method = RetroMAE(ENCODER, passage_length=14)
    golden, params = load("retromae", method, tmp_path)
    loss, metrics, gradients = run(method, params, retromae_batch(golden))
    np.testing.assert_allclose(metrics["loss_encoder"], golden["output/loss_encoder"], **EXACT)
    np.testing.assert_allclose(metrics["loss_decoder"], golden["output/loss_decoder"], **EXACT)
    np.testing.assert_allclose(loss, golden["output/loss_total"], **EXACT)
    assert_gradients(gradients, golden)


@pytest.mark.slow
def test_dupmae_adds_its_bag_of_words_and_changes_only_the_decoders_queries(tmp_path):
    method = RetroMAE(ENCODER, passage_length=14, bag_of_words=0.1)
    golden, params = load("retromae", method, tmp_path)
    loss, metrics, _ = run(method, params, retromae_batch(golden))
    np.testing.assert_allclose(metrics["loss_encoder"], golden["output/loss_encoder"], **EXACT)
    assert abs(metrics["loss_decoder"] - golden["output/loss_decoder"]) > 1e-4
    parts = metrics["loss_encoder"] + metrics["loss_decoder"] + 0.1 * metrics["loss_bag_of_words"]
    np.testing.assert_allclose(loss, parts, rtol=1e-6)
