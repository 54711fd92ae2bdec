"""The supervised loss and its gradient against sentence-transformers' losses, on the same vectors, in float64."""

import importlib

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

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="the judge of the losses")
pytest.importorskip("sentence_transformers", reason="the judge of the losses")
reference = importlib.import_module("sentence_transformers.sentence_transformer.losses")
gist_embed = importlib.import_module("sentence_transformers.sentence_transformer.losses.gist_embed")
util = importlib.import_module("sentence_transformers.util")

BATCH, GROUP, WIDTH = 5, 3, 6
ENCODER = Encoder(BertConfig(1, WIDTH, 2, 8, vocab_size=9), normalize=True)
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64 on both sides


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


QUERIES, PASSAGES = numbers(0, BATCH, WIDTH), numbers(1, BATCH, GROUP, WIDTH)
GUIDE = numbers(2, BATCH, 4), numbers(3, BATCH, GROUP, 4)
TEACHER = numbers(4, BATCH, GROUP)


@pytest.fixture(autouse=True)
def float64(x64):
    pass


def ours(scale=1.0, group=GROUP, cosine=True, **settings):
    """Loss and gradients of vectors that an encoder then makes as long as 1, or of the vectors themselves."""
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

    value, gradient = jax.value_and_grad(loss)(Pairs(jnp.asarray(QUERIES), jnp.asarray(PASSAGES[:, :group])))
    return value, *gradient


def _blank(shape):
    return Tokens(*(jnp.zeros((*shape, 4), kind) for kind in (int, int, bool)))


def theirs(loss, group=GROUP):
    """Loss and gradients of `loss(columns)`: queries, answers, first negatives, second negatives."""
    columns = [torch.tensor(x, requires_grad=True) for x in (QUERIES, *PASSAGES[:, :group].swapaxes(0, 1))]
    value = loss(columns)
    value.backward()
    return value.item(), columns[0].grad.numpy(), np.stack([c.grad.numpy() for c in columns[1:]], axis=1)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **EXACT)


DIRECTIONS = {
    Directions.PASSAGES: {},
    Directions.BOTH: {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    Directions.JOINT: {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
}


@pytest.mark.parametrize("score_chunk", [0, 4])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("directions", Directions, ids=lambda d: d.value)
def test_multiple_negatives_ranking(directions, group, score_chunk):
    loss = reference.MultipleNegativesRankingLoss(None, scale=20.0, **DIRECTIONS[directions])
    found = ours(group=group, temperature=0.05, directions=directions, score_chunk=score_chunk)
    assert_same(found, theirs(lambda columns: loss.compute_loss_from_embeddings(columns, None), group))


@pytest.mark.parametrize("directions", Directions, ids=lambda d: d.value)
def test_its_cached_form(directions):
    model = torch.nn.Sequential(Given())
    loss = reference.CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=2, **DIRECTIONS[directions])
    found = ours(temperature=0.05, directions=directions)
    assert_same(found, theirs(lambda columns: loss.calculate_loss([[column] for column in columns])))


def gist(monkeypatch, margin, strategy, guided):
    """GISTEmbedLoss on given vectors; without a guide the student's own, detached, stand in for the guide's."""
    loss = gist_embed.GISTEmbedLoss.__new__(gist_embed.GISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.guide, loss.must_retokenize = "student", "guide", False
    loss.temperature, loss.margin, loss.margin_strategy = 0.05, margin, strategy
    loss.contrast_anchors = loss.contrast_positives = loss.gather_across_devices = False
    loss.similarity_fct, loss.cross_entropy_loss = torch.nn.CosineSimilarity(dim=-1), torch.nn.CrossEntropyLoss()
    monkeypatch.setattr(gist_embed, "embed_columns", lambda name, columns: [column[name] for column in columns])
    guides = [torch.tensor(x) for x in (GUIDE[0], *GUIDE[1].swapaxes(0, 1))]

    def call(columns):
        others = guides[: len(columns)] if guided else [column.detach() for column in columns]
        return loss([{"student": c, "guide": g} for c, g in zip(columns, others, strict=True)], None)

    return call


@pytest.mark.parametrize("score_chunk", [0, 4])
@pytest.mark.parametrize("source", [FalseNegatives.GUIDE, FalseNegatives.STUDENT], ids=lambda s: s.value)
@pytest.mark.parametrize(("strategy", "margin"), [("absolute", 0.0), ("absolute", 0.2), ("relative", 0.3)])
def test_guided_negatives_of_gist(monkeypatch, strategy, margin, source, score_chunk):
    settings = {"margin": margin, "relative_margin": strategy == "relative", "false_negatives": source}
    found = ours(group=2, temperature=0.05, score_chunk=score_chunk, **settings)
    reference_loss = gist(monkeypatch, margin, strategy, guided=source is FalseNegatives.GUIDE)
    assert_same(found, theirs(reference_loss, group=2))
    assert abs(found[0] - ours(group=2, temperature=0.05)[0]) > 0.01  # something was left out


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("cosine", [False, True], ids=["dot", "cosine"])
def test_kl_divergence_from_a_teacher(temperature, cosine):
    similarity = util.pairwise_cos_sim if cosine else util.pairwise_dot_score
    loss = reference.DistillKLDivLoss(None, similarity_fct=similarity, temperature=temperature)
    settings = {"distillation": Distillation.KL, "distillation_temperature": temperature, "contrast_weight": 0.0}
    expected = theirs(lambda columns: loss.compute_loss_from_embeddings(columns, torch.tensor(TEACHER)))
    assert_same(ours(cosine=cosine, **settings), expected)
    without_factor = ours(temperature**2, cosine=cosine, distillation_squared=False, **settings)
    assert_same(without_factor, expected)


@pytest.mark.parametrize("group", [2, 3])
def test_margins_of_a_teacher(group):
    loss = reference.MarginMSELoss(None)
    settings = {"distillation": Distillation.MARGIN_MSE, "contrast_weight": 0.0}
    labels = torch.tensor(TEACHER[:, :group])
    expected = theirs(lambda columns: loss.compute_loss_from_embeddings(columns, labels), group)
    assert_same(ours(group=group, cosine=False, **settings), expected)


def test_both_at_once_is_the_weighted_sum():
    contrast, distillation = ours(temperature=0.05), ours(distillation=Distillation.KL, contrast_weight=0.0)
    found = ours(temperature=0.05, contrast_weight=0.5, distillation=Distillation.KL, distillation_weight=3.0)
    assert_same(found, [0.5 * a + 3 * b for a, b in zip(contrast, distillation, strict=True)])


class Given(torch.nn.Module):
    """A model whose vectors are its features."""

    def forward(self, features):
        return {"sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self):
        return WIDTH


@pytest.mark.parametrize("weights", [(), (1.0, 0.5, 2.0)])
def test_matryoshka(weights):
    """Theirs is the sum over widths and ours the mean."""
    model, widths = Given(), (6, 4, 2)
    inner = reference.MultipleNegativesRankingLoss(model, scale=20.0)
    loss = reference.MatryoshkaLoss(model, inner, list(widths), list(weights) or None)
    found = ours(sum(weights) or 3.0, temperature=0.05, matryoshka=widths, matryoshka_weights=weights)
    assert_same(found, theirs(lambda columns: loss([{"vectors": column} for column in columns], None)))
