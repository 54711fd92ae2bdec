"""The losses against reference numbers, and against numbers worked out by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dense_jax import losses
from dense_jax.config import MeshConfig
from dense_jax.mesh import batch_sharding, make_mesh

GOLDEN = Path(__file__).parent / "golden" / "realm"


@pytest.fixture(scope="module")
def ict():
    return dict(np.load(GOLDEN / "ict_small.npz"))


def mean_loss(queries, passages):
    return losses.in_batch_softmax(losses.dot_scores(queries, passages)).loss.mean()


def test_in_batch_softmax_equals_the_reference_in_loss_and_accuracy(ict):
    scores = losses.dot_scores(jnp.array(ict["query_emb"]), jnp.array(ict["block_emb"]))
    result = losses.in_batch_softmax(scores)
    np.testing.assert_allclose(scores, ict["logits"], rtol=1e-5, atol=1e-5)  # float32 sums of 16 products
    np.testing.assert_allclose(result.loss, ict["per_example_loss"], rtol=1e-5, atol=1e-5)
    masked = jnp.array(ict["mask_query"])
    assert losses.weighted_mean(result.correct, masked) == pytest.approx(float(ict["masked_accuracy"]))
    assert losses.weighted_mean(result.correct, ~masked) == pytest.approx(float(ict["unmasked_accuracy"]))


def test_in_batch_softmax_gradients_equal_the_reference(ict):
    gradients = jax.grad(mean_loss, (0, 1))(jnp.array(ict["query_emb"]), jnp.array(ict["block_emb"]))
    np.testing.assert_allclose(gradients[0], ict["grad_query"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients[1], ict["grad_block"], rtol=1e-4, atol=1e-6)


def test_in_batch_softmax_is_exact_in_float64(x64, ict):
    queries, passages = jnp.array(ict["query_emb"]), jnp.array(ict["block_emb"])
    scores = jnp.einsum("qd,pd->qp", queries, passages)
    np.testing.assert_allclose(scores, ict["logits"], rtol=1e-9)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)], ids=["8 data", "2 data x 4 fsdp", "8 fsdp"])
def test_loss_and_gradients_over_eight_devices_equal_one_device(shape):
    rng = np.random.default_rng(0)
    queries, passages = (jnp.array(rng.normal(size=(16, 8)), jnp.float32) for _ in range(2))
    mesh = make_mesh(MeshConfig(*shape))
    sharded = [jax.device_put(x, batch_sharding(mesh)) for x in (queries, passages)]
    over_one = jax.value_and_grad(mean_loss, (0, 1))(queries, passages)
    over_eight = jax.jit(jax.value_and_grad(mean_loss, (0, 1)))(*sharded)
    # float32 sums in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), over_one, over_eight)


def test_each_device_holds_only_the_score_rows_of_its_own_queries():
    mesh = make_mesh(MeshConfig())
    spec = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=batch_sharding(mesh))
    program = jax.jit(jax.value_and_grad(mean_loss, (0, 1))).lower(spec, spec).compile().as_text()
    assert "f32[8,64]" in program  # 64 queries over 8 devices, against all 64 passages
    assert "f32[64,64]" not in program


def test_passages_beyond_the_queries_are_negatives_for_all():
    scores = jnp.array([[1.0, 0.0, 3.0]])
    assert losses.in_batch_softmax(scores).loss[0] == pytest.approx(np.log(np.e + 1 + np.e**3) - 1, rel=1e-6)


def test_temperature_divides_the_scores():
    scores = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    assert losses.in_batch_softmax(scores, temperature=0.5).loss[0] == pytest.approx(np.log1p(np.exp(-4.0)), rel=1e-5)


def test_scores_are_summed_in_float32_when_vectors_are_bfloat16():
    vectors = jnp.full((1, 512), 1.0, jnp.bfloat16).at[0, 0].set(1.0078125)
    assert losses.dot_scores(vectors, jnp.ones((1, 512), jnp.bfloat16))[0, 0] == 512.0078125


def test_masked_lm_counts_only_positions_of_weight_one_over_the_whole_batch():
    logits = jnp.zeros((2, 2, 4)).at[0, 0, 1].set(jnp.log(5.0))
    labels, weights = jnp.array([[1, 0], [2, 0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    result = losses.masked_lm(logits, labels, weights)
    assert result.loss == pytest.approx((np.log(8 / 5) + np.log(4)) / 2, rel=1e-6)
    assert result.accuracy == 0.5  # the first is argmax; of the second's four equal logits, index 0 wins


def test_masked_lm_without_any_masked_position_is_zero_and_has_finite_gradients():
    logits, labels, weights = jnp.ones((1, 2, 4)), jnp.zeros((1, 2), int), jnp.zeros((1, 2))
    loss, gradient = jax.value_and_grad(lambda x: losses.masked_lm(x, labels, weights).loss)(logits)
    assert loss == 0
    assert not gradient.any()


def test_batches_are_split_over_both_axes_of_the_mesh():
    assert batch_sharding(make_mesh(MeshConfig(2, 4))).spec == P(("data", "fsdp"))
