"""Contriever against its reference implementation, in float64."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from dense_jax.config import MeshConfig
from dense_jax.hf import tensors
from dense_jax.hf.config import config_json
from dense_jax.io import write_json
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.layers import Dtype
from dense_jax.objectives.contriever import Contriever, Negatives
from dense_jax.train.sharding import state_sharding
from dense_jax.train.state import TrainState, first_state
from dense_jax.types import Tokens
from tests.programs import plain_step

GOLDEN = Path(__file__).parent / "golden" / "contriever"
BERT = BertConfig(
    layers=2, width=32, heads=2, feed_forward=64, vocab_size=128, positions=64,
    dropout=0.0, attention_dropout=0.0, dtype=Dtype.FLOAT64,
)  # fmt: skip
ENCODER = Encoder(BERT, pooling=Pooling.MEAN)
LENGTHS = {"view_length": 64, "query_length": 64, "passage_length": 64}
MOCO = Contriever(ENCODER, **LENGTHS, temperature=2.0, queue=64, momentum=0.9, queue_warmup=False)
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # float64 on both sides
SGD = optax.sgd(1e-2)


@pytest.fixture
def weights(x64, tmp_path):
    """The reference's parameters in our tree."""
    save_file(load_file(GOLDEN / "bert_tiny.safetensors"), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", config_json(BERT, "BertModel", pad=0))
    params, report = tensors.load_params(jax.jit(MOCO.init)(jax.random.key(0)), tmp_path, MOCO)
    assert report.initialised == []
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)


def tokens(ids, mask) -> Tokens:
    return Tokens(jnp.asarray(ids), jnp.zeros(ids.shape, int), jnp.asarray(mask))


def moco_batch(step: int):
    inputs = np.load(GOLDEN / "moco_inputs.npz")
    sides = (("query", "q"), ("key", "k"))
    return {name: tokens(inputs[f"step{step}.{s}_tokens"], inputs[f"step{step}.{s}_mask"]) for name, s in sides}


def moco_start(weights) -> TrainState:
    """The reference's first state: its columns are keys, eight of which are a batch."""
    queue = np.load(GOLDEN / "moco_inputs.npz")["queue0_warm"]
    state = first_state(weights, MOCO, SGD, batch=8, seed=0)
    carry = {**state.carry, "queue": jnp.asarray(queue.T.reshape(8, 8, 32), jnp.float64)}
    return TrainState(state.step, state.params, state.optimizer, carry)


def take_steps(state: TrainState, place=lambda batch: batch):
    """The states and metrics of three steps."""
    step = plain_step(MOCO, SGD, state.params)
    for i in range(3):
        state, metrics = step(state, place(moco_batch(i)))
        yield i, state, metrics


def check(golden, i: int, state: TrainState, metrics) -> None:
    names = {"loss": "loss", "gradient_norm": "grad_norm", "query_std": "stdq", "key_std": "stdk"}
    for ours, theirs in names.items():
        np.testing.assert_allclose(metrics[ours], golden[f"step{i}.{theirs}"], **EXACT, err_msg=f"{ours}, step {i}")
    assert 100 * metrics["accuracy"] == golden[f"step{i}.accuracy"]
    np.testing.assert_allclose(state.carry["queue"].reshape(64, 32).T, golden[f"step{i}.queue_after"], **EXACT)
    assert 8 * state.carry["next"] == golden[f"step{i}.queue_ptr_after"][0]


@pytest.mark.slow
def test_three_steps_of_momentum_contrast_equal_the_reference(weights):
    golden = np.load(GOLDEN / "moco_sgd_3steps_f64.npz")
    for i, state, metrics in take_steps(moco_start(weights)):
        check(golden, i, state, metrics)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)], ids=["8 data", "2 data x 4 fsdp"])
def test_three_steps_with_the_queue_over_eight_devices_equal_the_reference(weights, shape):
    golden, mesh = np.load(GOLDEN / "moco_sgd_3steps_f64.npz"), make_mesh(MeshConfig(*shape))
    state = moco_start(weights)
    with jax.set_mesh(mesh):
        spread = jax.device_put(state, state_sharding(state, mesh))
        assert spread.carry["queue"].sharding.shard_shape((8, 8, 32)) == (8, 1, 32)
        for i, state, metrics in take_steps(spread, lambda batch: jax.device_put(batch, batch_sharding(mesh))):
            check(golden, i, state, metrics)


@pytest.mark.slow
def test_vectors_equal_the_reference(weights):
    golden = np.load(GOLDEN / "embeddings.npz")
    batch = moco_batch(0)
    for pooling, name in ((Pooling.MEAN, "mean"), (Pooling.CLS, "cls")):
        for side, ours in (("q", "query"), ("k", "key")):
            vectors = jax.jit(Encoder(BERT, pooling=pooling).apply)(weights["encoder"], batch[ours])
            np.testing.assert_allclose(vectors, golden[f"{side}.{name}"], rtol=1e-4, atol=1e-5)  # written in float32


IN_BATCH = {
    "T2": {"temperature": 2.0},
    "T2_ls0.1": {"temperature": 2.0, "label_smoothing": 0.1},
    "T0.05_norm": {"temperature": 0.05, "normalize_queries": True, "normalize_passages": True},
    "T0.05_raw": {"temperature": 0.05},
}


@pytest.mark.slow
@pytest.mark.parametrize("score_chunk", [0, 3])
@pytest.mark.parametrize("negatives", ["neg", "noneg"])
@pytest.mark.parametrize("case", IN_BATCH)
def test_in_batch_negatives_equal_the_reference(weights, case, negatives, score_chunk):
    check_in_batch(weights, f"{case}.{negatives}", negatives, score_chunk=score_chunk, **IN_BATCH[case])


@pytest.mark.slow
@pytest.mark.parametrize("score_chunk", [0, 3])
def test_both_directions_equal_the_reference(weights, score_chunk):
    check_in_batch(weights, "symmetric_noneg", "noneg", score_chunk=score_chunk, both_directions=True, temperature=2.0)


def check_in_batch(weights, name, negatives, **settings):
    """Of 16 keys the first 8 are the queries' own; `noneg` is those alone."""
    golden, inputs = (np.load(GOLDEN / f"{file}.npz") for file in ("inbatch", "inbatch_inputs"))
    method = Contriever(ENCODER, **LENGTHS, negatives=Negatives.IN_BATCH, **settings)
    count = 16 if negatives == "neg" else 8
    batch = {
        "query": tokens(inputs["q_tokens"], inputs["q_mask"]),
        "key": tokens(inputs["k_tokens"][:count], inputs["k_mask"][:count]),
    }
    loss = lambda params: method.loss(params, {}, batch, rng=jax.random.key(0), step=jnp.zeros((), int))  # noqa: E731
    (value, (metrics, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights)
    single = {"rtol": 2e-6}  # the reference computed these in float32
    np.testing.assert_allclose(value, golden[f"{name}.loss"], **single)
    np.testing.assert_allclose(optax.tree.norm(gradient), golden[f"{name}.grad_norm"], rtol=1e-5)  # and so these
    if f"{name}.stdq" in golden:
        np.testing.assert_allclose(metrics["query_std"], golden[f"{name}.stdq"], **single)
        np.testing.assert_allclose(metrics["key_std"], golden[f"{name}.stdk"], **single)
        assert 100 * metrics["accuracy"] == golden[f"{name}.accuracy"]
