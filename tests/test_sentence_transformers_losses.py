"""The supervised loss and its gradient against sentence-transformers' losses, on the same vectors, in float64.

Theirs are frozen in golden/sentence_transformers/losses.npz; a slow test compares the file with the installed version.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.arrays import l2_normalize
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.dual_encoder import Pairs
from dense_jax.objectives.supervised import Directions, Distillation, FalseNegatives, Supervised
from dense_jax.types import Tokens
from tests.golden.make_sentence_transformers_losses import (
    BATCH,
    FILE,
    GROUP,
    GUIDE,
    MARGINS,
    PASSAGES,
    QUERIES,
    TEACHER,
    WIDTH,
    results,
)

ENCODER = Encoder(BertConfig(1, WIDTH, 2, 8, vocab_size=9), normalize=True)
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64 on both sides


@pytest.fixture(autouse=True)
def float64(x64):
    pass


@pytest.fixture(scope="module")
def theirs():
    with np.load(FILE) as file:
        return dict(file)


def ours(scale=1.0, group=GROUP, cosine=True, **settings):
    """Loss and gradients of vectors that an encoder then makes as long as 1, or of the vectors themselves: one row."""
    method = Supervised(ENCODER, query_length=4, passage_length=4, negatives=group - 1, **settings)
    texts = jnp.arange(BATCH * group).reshape(BATCH, group)
    guides = jax.tree.map(lambda x: l2_normalize(jnp.asarray(x)), {"guide_query": GUIDE[0], "guide_passages": GUIDE[1]})
    batch = {
        "texts": texts,
        "known": jnp.full((BATCH, 2), -1),
        "scores": jnp.asarray(TEACHER[:, :group]),
        "guide_query": guides["guide_query"],
        "guide_passages": guides["guide_passages"][:, :group],
    } | {name: _blank(shape) for name, shape in (("query", (BATCH,)), ("passages", (BATCH, group)))}

    def loss(vectors):
        made = jax.tree.map(l2_normalize, vectors) if cosine else vectors
        return scale * method.combine({}, made, batch, step=jnp.zeros((), int))[0]

    start = Pairs(jnp.asarray(QUERIES), jnp.asarray(PASSAGES[:, :group]))
    value, gradient = jax.jit(jax.value_and_grad(loss))(start)
    return np.concatenate([np.ravel(x) for x in (value, *gradient)])


def _blank(shape):
    return Tokens(*(jnp.zeros((*shape, 4), kind) for kind in (int, int, bool)))


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.slow
def test_the_installed_sentence_transformers_gives_the_frozen_numbers(theirs):
    pytest.importorskip("sentence_transformers", reason="its losses are compared with those of the file")
    found = results()
    assert found.keys() == theirs.keys()
    for name, numbers in found.items():
        np.testing.assert_allclose(numbers, theirs[name], **EXACT, err_msg=name)


@pytest.mark.parametrize("score_chunk", [0, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("directions", Directions, ids=lambda d: d.value)
def test_multiple_negatives_ranking(theirs, directions, group, score_chunk):
    found = ours(group=group, temperature=0.05, directions=directions, score_chunk=score_chunk)
    assert_same(found, theirs[f"ranking/{directions.value}/{group}"])


@pytest.mark.parametrize("directions", Directions, ids=lambda d: d.value)
def test_its_cached_form(theirs, directions):
    assert_same(ours(temperature=0.05, directions=directions), theirs[f"cached/{directions.value}"])


@pytest.mark.parametrize("score_chunk", [0, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", [FalseNegatives.GUIDE, FalseNegatives.STUDENT], ids=lambda s: s.value)
@pytest.mark.parametrize(("strategy", "margin"), MARGINS)
def test_guided_negatives_of_gist(theirs, strategy, margin, source, score_chunk):
    settings = {"margin": margin, "relative_margin": strategy == "relative", "false_negatives": source}
    found = ours(group=2, temperature=0.05, score_chunk=score_chunk, **settings)
    assert_same(found, theirs[f"gist/{source.value}/{strategy}/{margin}"])
    assert abs(found[0] - ours(group=2, temperature=0.05)[0]) > 0.01  # something was left out


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("cosine", [False, True], ids=["dot", "cosine"])
def test_kl_divergence_from_a_teacher(theirs, temperature, cosine):
    settings = {"distillation": Distillation.KL, "distillation_temperature": temperature, "contrast_weight": 0.0}
    expected = theirs[f"kl/{'cosine' if cosine else 'dot'}/{temperature}"]
    assert_same(ours(cosine=cosine, **settings), expected)
    without_factor = ours(temperature**2, cosine=cosine, distillation_squared=False, **settings)
    assert_same(without_factor, expected)


@pytest.mark.parametrize("group", [2, 3])
def test_margins_of_a_teacher(theirs, group):
    settings = {"distillation": Distillation.MARGIN_MSE, "contrast_weight": 0.0}
    assert_same(ours(group=group, cosine=False, **settings), theirs[f"margins/{group}"])


def test_both_at_once_is_the_weighted_sum():
    contrast, distillation = ours(temperature=0.05), ours(distillation=Distillation.KL, contrast_weight=0.0)
    found = ours(temperature=0.05, contrast_weight=0.5, distillation=Distillation.KL, distillation_weight=3.0)
    assert_same(found, 0.5 * contrast + 3 * distillation)


@pytest.mark.parametrize(("weights", "name"), [((), "equal"), ((1.0, 0.5, 2.0), "weighted")])
def test_matryoshka(theirs, weights, name):
    """Theirs is the sum over widths and ours the mean."""
    found = ours(sum(weights) or 3.0, temperature=0.05, matryoshka=(6, 4, 2), matryoshka_weights=weights)
    assert_same(found, theirs[f"matryoshka/{name}"])
