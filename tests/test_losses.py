"""The losses against reference numbers, and against numbers worked out by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import weighted_mean
from dense_jax.config import MeshConfig
from dense_jax.losses.contrastive import contrastive_loss, in_batch_softmax
from dense_jax.losses.language import bag_of_words_loss, masked_lm_loss
from dense_jax.losses.similarity import NegativeMask, TextIds, dot_scores
from dense_jax.mesh import batch_sharding, make_mesh

GOLDEN = Path(__file__).parent / "golden" / "realm"


@pytest.fixture(scope="module")
def ict():
    return dict(np.load(GOLDEN / "ict_small.npz"))


def mean_loss(queries, passages):
    return in_batch_softmax(dot_scores(queries, passages)).loss.mean()


def test_in_batch_softmax_equals_the_reference_in_loss_and_accuracy(ict):
    scores = dot_scores(jnp.array(ict["query_emb"]), jnp.array(ict["block_emb"]))
    result = in_batch_softmax(scores)
    np.testing.assert_allclose(scores, ict["logits"], rtol=1e-5, atol=1e-5)  # float32 sums of 16 products
    np.testing.assert_allclose(result.loss, ict["per_example_loss"], rtol=1e-5, atol=1e-5)
    masked = jnp.array(ict["mask_query"])
    assert weighted_mean(result.correct, masked) == pytest.approx(float(ict["masked_accuracy"]))
    assert weighted_mean(result.correct, ~masked) == pytest.approx(float(ict["unmasked_accuracy"]))


def test_in_batch_softmax_gradients_equal_the_reference(ict):
    gradients = jax.jit(jax.grad(mean_loss, (0, 1)))(jnp.array(ict["query_emb"]), jnp.array(ict["block_emb"]))
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
    over_one = jax.jit(jax.value_and_grad(mean_loss, (0, 1)))(queries, passages)
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
    assert in_batch_softmax(scores).loss[0] == pytest.approx(np.log(np.e + 1 + np.e**3) - 1, rel=1e-6)


def test_temperature_divides_the_scores():
    scores = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    assert in_batch_softmax(scores, temperature=0.5).loss[0] == pytest.approx(np.log1p(np.exp(-4.0)), rel=1e-5)


def test_scores_are_summed_in_float32_when_vectors_are_bfloat16():
    vectors = jnp.full((1, 512), 1.0, jnp.bfloat16).at[0, 0].set(1.0078125)
    assert dot_scores(vectors, jnp.ones((1, 512), jnp.bfloat16))[0, 0] == 512.0078125


def test_masked_lm_counts_only_positions_of_weight_one_over_the_whole_batch():
    logits = jnp.zeros((2, 2, 4)).at[0, 0, 1].set(jnp.log(5.0))
    labels, weights = jnp.array([[1, 0], [2, 0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    result = masked_lm_loss(logits, labels, weights)
    assert result.loss == pytest.approx((np.log(8 / 5) + np.log(4)) / 2, rel=1e-6)
    assert result.accuracy == 0.5  # the first is argmax; of the second's four equal logits, index 0 wins


def test_masked_lm_without_any_masked_position_is_zero_and_has_finite_gradients():
    logits, labels, weights = jnp.ones((1, 2, 4)), jnp.zeros((1, 2), int), jnp.zeros((1, 2))
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: masked_lm_loss(x, labels, weights).loss))(logits)
    assert loss == 0
    assert not gradient.any()


def test_batches_are_split_over_all_axes_of_the_mesh_but_tensor():
    assert batch_sharding(make_mesh(MeshConfig(2, 4))).spec == P(("dcn", "data", "update", "fsdp"))


# The softmax in chunks


def vectors(queries=12, passages=12, largest=3.0, dtype=jnp.float64):
    """Random vectors of width 4 whose scores reach from -`largest` to about `largest`."""
    rng = np.random.default_rng(1)
    both = [rng.normal(size=(n, 4)) for n in (queries, passages)]
    scale = np.sqrt(largest / np.abs(both[0] @ both[1].T).max())
    return [jnp.array(scale * x, dtype) for x in both]


def outcome(queries, passages, **settings):
    """Losses, what was correct, and the gradients of a sum in which each query weighs differently."""
    weights = jnp.linspace(0.5, 2.0, len(queries))

    def total(queries, passages):
        result = contrastive_loss(queries, passages, **settings)
        return jnp.sum(weights * result.loss), result

    (_, result), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(queries, passages)
    return result, gradients


def leaving_out(queries, passages):
    """Hides from each of `queries` the passage of that number."""
    return NegativeMask(TextIds(queries[:, None]), TextIds(jnp.arange(passages)[:, None]))


def assert_equal(found, expected, rtol=1e-12, atol=1e-12):  # float64, sums in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


@pytest.mark.parametrize("chunk", [1, 4, 5, 12, 50])
def test_the_softmax_in_chunks_equals_the_dense_one_in_loss_accuracy_and_gradients(x64, chunk):
    whole = outcome(*vectors(), temperature=0.5)
    assert 0 < whole[0].correct.sum() < 12
    assert_equal(outcome(*vectors(), temperature=0.5, chunk=chunk), whole)


@pytest.mark.parametrize("chunk", [1, 5])
def test_in_chunks_too_each_query_has_its_own_positive_and_excludes_another(x64, chunk):
    inputs = {"positives": jnp.array([3, 0, 11, 3, 7]), "negative_mask": leaving_out(jnp.array([0, 3, 4, 11, -1]), 12)}
    whole = outcome(*vectors(queries=5), **inputs)
    assert_equal(outcome(*vectors(queries=5), **inputs, chunk=chunk), whole)


@pytest.mark.slow
def test_a_hidden_passage_has_no_part_in_the_loss_and_gets_no_gradient():
    """Of three passages that score 1, 2 and 3, without the last: log(e^1 + e^2) - 1."""
    inputs = {"positives": jnp.array([0]), "negative_mask": leaving_out(jnp.array([2]), 3)}
    for chunk in (0, 1, 2):
        result, (_, gradient) = outcome(jnp.ones((1, 1)), jnp.array([[1.0], [2.0], [3.0]]), **inputs, chunk=chunk)
        assert result.loss[0] == pytest.approx(np.log1p(np.e), rel=1e-6)
        assert gradient[2, 0] == 0


@pytest.mark.parametrize("chunk", [1, 5])
def test_in_chunks_scores_of_five_hundred_neither_overflow_nor_cost_digits(x64, chunk):
    assert_equal(outcome(*vectors(largest=500.0), chunk=chunk), outcome(*vectors(largest=500.0)))


def test_in_float32_too_scores_of_five_hundred_stay_finite():
    pair = vectors(largest=500.0, dtype=jnp.float32)
    found = outcome(*pair, chunk=5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    # scores of 500 have an absolute rounding of 3e-5 in float32, which is what their exponentials are off by
    assert_equal(found, outcome(*pair), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chunk", [8, 5])
def test_the_softmax_in_chunks_is_the_same_on_eight_devices(x64, chunk):
    inputs = {"positives": jnp.arange(16) ^ 1, "negative_mask": leaving_out(jnp.arange(16), 16), "chunk": chunk}
    pair = vectors(16, 16)
    sharding = batch_sharding(make_mesh(MeshConfig()))
    assert_equal(outcome(*(jax.device_put(x, sharding) for x in pair), **inputs), outcome(*pair, **inputs))


def test_in_chunks_a_device_never_holds_more_than_its_queries_scores_of_one_chunk():
    spec = jax.ShapeDtypeStruct((64, 4), jnp.float32, sharding=batch_sharding(make_mesh(MeshConfig())))

    def loss(queries, passages):
        return contrastive_loss(queries, passages, chunk=16).loss.mean()

    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(spec, spec).compile().as_text()
    assert "f32[8,16]" in program  # 64 queries over 8 devices, against a chunk of 16 passages
    assert all(f"f32[{q},{p}]" not in program for q in (8, 64) for p in (16, 64) if (q, p) != (8, 16))


@pytest.mark.parametrize("chunk", [0, 1, 2, 3, 4])
def test_of_equal_scores_the_first_passage_wins(chunk):
    queries = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    passages = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # scores 0 1 1; 0 1 1; 0 0 0
    result = contrastive_loss(queries, passages, positives=jnp.array([1, 2, 0]), chunk=chunk)
    assert result.correct.tolist() == [True, False, True]


# Parts of a batch


def test_rows_of_masked_lm_computed_apart_and_put_together_give_the_mean_over_all_positions():
    rng = np.random.default_rng(0)
    logits, labels = jnp.array(rng.normal(size=(3, 2, 4)), jnp.float32), jnp.array([[1, 0], [2, 3], [0, 0]])
    weights = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # so that a mean of means would be another number
    whole = masked_lm_loss(logits, labels, weights)
    parts = [masked_lm_loss(logits[i : i + 1], labels[i : i + 1], weights[i : i + 1]) for i in range(3)]
    together = jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
    assert together.positions.tolist() == [2, 1, 0]
    assert together.loss == pytest.approx(float(whole.loss), rel=1e-6)  # float32 sums
    assert together.accuracy == pytest.approx(float(whole.accuracy), rel=1e-6)
    assert np.mean([float(part.loss) for part in parts]) != pytest.approx(float(whole.loss), rel=0.1)


def test_the_bag_of_words_takes_each_tokens_highest_score_among_the_pooled_positions():
    """Highest scores log 1, log 4, log 1, log 2, so probabilities 1/8, 4/8, 1/8, 2/8; the words are 1, 3 and 1."""
    scores = np.log([[[1, 4, 1, 1], [1, 1, 1, 2], [1, 1, 1, 1], [99, 99, 99, 99]]])
    pooled = jnp.array([[True, True, True, False]])
    words = jnp.array([[True, True, True, False]])
    loss = bag_of_words_loss(jnp.array(scores, jnp.float32), pooled, jnp.array([[1, 3, 1, 2]]), words)
    assert loss[0] == pytest.approx((np.log(2) + np.log(4)) / 3, rel=1e-6)


def test_the_bag_of_words_of_a_row_without_words_is_zero_with_a_finite_gradient():
    nothing, ids = jnp.zeros((1, 2), bool), jnp.zeros((1, 2), int)
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: bag_of_words_loss(x, nothing, ids, nothing)[0]))(
        jnp.ones((1, 2, 3))
    )
    assert loss == 0
    assert not gradient.any()
