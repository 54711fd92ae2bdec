"""Several vectors a passage: stored, found once each, mined with, and read from BERT as the paper says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import IndexConfig, IndexKind, MeshConfig, MineConfig
from dense_jax.errors import ConfigError, DataError
from dense_jax.mesh import make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, MultiViewEncoder
from dense_jax.objectives.mvr import MVR
from dense_jax.objectives.supervised import Supervised
from dense_jax.retrieval import index
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.mine import DenseRetriever, check_guide
from dense_jax.types import Tokens
from tests import fake_tower
from tests.test_embed import Passages
from tests.test_objectives import batch_of
from tests.toys import VOCABULARY

VIEWS, COUNT = 3, 45
BERT = BertConfig(
    layers=2, width=8, heads=2, feed_forward=16, vocab_size=VOCABULARY.size, positions=12,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
ENCODER = MultiViewEncoder(BERT, views=VIEWS)
EXACT = IndexConfig(kind=IndexKind.EXACT, sample=0)


# The encoder


def params_of(encoder, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


def tokens(length=12, used=9, seed=0):
    ids = np.random.default_rng(seed).integers(5, 50, size=(2, length)).astype(np.int32)
    ids[:, 0] = VOCABULARY.cls
    return Tokens(ids, np.zeros_like(ids), np.broadcast_to(np.arange(length) < used, ids.shape))


@pytest.mark.slow
def test_viewers_stand_in_the_place_of_cls_at_position_0_and_the_text_from_position_1():
    params, text = params_of(ENCODER), tokens()
    table = np.asarray(params["bert"]["word"]["embedding"])
    known = {**params["bert"], "word": {"embedding": np.concatenate([table, params["view_tokens"]["embedding"]])}}
    plain = Encoder(dataclasses.replace(BERT, vocab_size=VOCABULARY.size + VIEWS))
    viewers = np.broadcast_to(VOCABULARY.size + np.arange(VIEWS), (2, VIEWS))
    opened = Tokens(
        np.concatenate([viewers, text.ids[:, 1:]], axis=1),
        np.zeros((2, VIEWS + 11), np.int32),
        np.concatenate([np.ones((2, VIEWS), bool), text.mask[:, 1:]], axis=1),
    )
    positions = jnp.asarray([[0] * VIEWS + list(range(1, 12))] * 2)
    hidden = plain.hidden_states({"bert": known}, opened, positions=positions)
    np.testing.assert_allclose(ENCODER.apply(params, text), hidden[:, :VIEWS], atol=1e-5)


@pytest.mark.slow
def test_the_longest_text_fits_whatever_the_number_of_viewers():
    assert ENCODER.apply(params_of(ENCODER), tokens(length=12, used=12)).shape == (2, VIEWS, 8)


@pytest.mark.slow
def test_one_view_in_the_place_of_cls_is_a_model_of_one_vector():
    params = params_of(dataclasses.replace(ENCODER, views=1))
    table = np.asarray(params["bert"]["word"]["embedding"]).copy()
    table[VOCABULARY.cls] = params["view_tokens"]["embedding"][0]
    plain = Encoder(BERT).apply({"bert": {**params["bert"], "word": {"embedding": table}}}, tokens())
    np.testing.assert_allclose(dataclasses.replace(ENCODER, views=1).apply(params, tokens()), plain, atol=1e-5)


@pytest.mark.slow
def test_views_differ_from_the_start_and_have_length_1_where_that_is_asked():
    encoder = dataclasses.replace(ENCODER, normalize=True)
    vectors = encoder.apply(encoder.init(jax.random.key(0)), tokens())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
    assert np.abs(vectors[:, 0] - vectors[:, 1]).max() > 1e-3


# The objective

METHOD = {"query_length": 6, "passage_length": 8, "negatives": 2, "known": 3}
CALL = {"rng": jax.random.key(1), "step": jnp.zeros((), int)}


@pytest.mark.slow
def test_with_one_view_it_is_the_usual_fine_tuning():
    one = MVR(dataclasses.replace(ENCODER, views=1), **METHOD)
    plain = Supervised(Encoder(BERT), **METHOD, shared=False)
    params, batch = one.init(jax.random.key(0)), batch_of(one)
    alike = {}
    for side in ("query", "passage"):
        table = (
            params[side]["bert"]["word"]["embedding"]
            .at[VOCABULARY.cls]
            .set(params[side]["view_tokens"]["embedding"][0])
        )
        alike[side] = {"bert": {**params[side]["bert"], "word": {"embedding": table}}}
    ours, (metrics, _) = one.loss(params, {}, batch, **CALL)
    theirs, (others, _) = plain.loss(alike, {}, batch, **CALL)
    assert ours == pytest.approx(float(theirs), rel=1e-5)
    assert metrics["loss_local"] == pytest.approx(0, abs=1e-6)
    assert {name: metrics[name] for name in ("accuracy", "candidates", "masked_share")} == {
        name: others[name] for name in ("accuracy", "candidates", "masked_share")
    }


@pytest.mark.slow
def test_the_temperature_is_that_of_each_querys_epoch():
    method = MVR(ENCODER, **METHOD)
    params, batch = method.init(jax.random.key(0)), batch_of(method)
    assert batch["epoch"].tolist() == [0] * len(batch["epoch"])
    temperature = lambda epoch: method.loss(params, {}, batch | {"epoch": epoch}, **CALL)[1][0]["temperature"]  # noqa: E731
    epochs = jnp.zeros(len(batch["epoch"]), int)
    assert temperature(epochs) == 1
    assert temperature(epochs.at[:8].set(100)) == pytest.approx((1 + 0.3) / 2)


@pytest.mark.slow
def test_the_weight_of_the_local_loss_is_a_setting():
    light, heavy = (MVR(ENCODER, **METHOD, local_weight=weight) for weight in (0.0, 2.0))
    params, batch = light.init(jax.random.key(0)), batch_of(light)
    (low, (metrics, _)), (high, _) = (method.loss(params, {}, batch, **CALL) for method in (light, heavy))
    assert 0 < metrics["loss_local"] <= np.log(VIEWS)
    assert high - low == pytest.approx(2 * float(metrics["loss_local"]), rel=1e-4)


@pytest.mark.slow
def test_shared_encoders_read_queries_by_the_first_viewer():
    method = MVR(ENCODER, **METHOD, shared=True)
    params = method.init(jax.random.key(0))
    towers = method.towers(params)
    query, passage = (tower.encoder.apply(tower.params, tokens(length=6)) for tower in (towers.query, towers.passage))
    assert (query.shape, passage.shape) == ((2, 8), (2, VIEWS, 8))


@pytest.mark.slow
def test_it_tells_how_far_views_differ():
    method = MVR(ENCODER, **METHOD)
    found = method.collapse_metrics(method.init(jax.random.key(0)), {}, batch_of(method))
    assert 1 <= found["view_perplexity"] <= VIEWS
    assert found["local_variation"] > 0
    assert "rank_me" in found


# Embedding, index, mining


@dataclasses.dataclass
class Turned(fake_tower.MeanOfTable):
    """The mean of a text's rows, and the same with its numbers in other orders."""

    views: int = VIEWS

    def apply(self, params, tokens, *, rng=None):
        mean = super().apply(params, tokens, rng=rng)
        return jnp.stack([jnp.roll(mean, i, axis=1) for i in range(VIEWS)], axis=1)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


@pytest.fixture
def vectors(tmp_path, mesh):
    side, plan = fake_tower.tower(encoder=Turned()), {"batch": 8, "shard_size": 20, "made_by": {"step": 7}}
    return embed(Passages(COUNT), side, fake_tower.WordNumbers(), mesh, tmp_path / "embeddings", **plan)


@pytest.fixture
def built(vectors, mesh, tmp_path):
    return index.build_index(vectors, EXACT, tmp_path / "index", mesh)


def test_the_views_of_a_passage_lie_one_after_another(vectors):
    means = [fake_tower.mean_of(1, *body[: fake_tower.LENGTH - 2], 2) for body in Passages(COUNT).bodies]
    expected = np.stack([np.roll(means, i, axis=1) for i in range(VIEWS)], axis=1).reshape(-1, fake_tower.WIDTH)
    np.testing.assert_allclose(vectors.array(), expected, **fake_tower.CLOSE)
    assert (len(vectors), vectors.passages, vectors.views, len(vectors.ids)) == (COUNT * VIEWS, COUNT, VIEWS, COUNT)
    assert [len(block) for block in vectors.blocks()] == [60, 60, 15]


@pytest.mark.parametrize("k", [1, 7, COUNT])
def test_each_passage_is_found_once_by_its_best_view(built, k):
    queries = np.random.default_rng(0).normal(size=(20, fake_tower.WIDTH)).astype(np.float32)
    views = np.asarray(built.vectors.array()).reshape(COUNT, VIEWS, -1)
    best = np.einsum("qd,pnd->qpn", queries, views).max(2)
    found = built.search(queries, k)
    np.testing.assert_array_equal(found.rows, np.argsort(-best, axis=1, kind="stable")[:, :k])
    np.testing.assert_allclose(found.scores, np.take_along_axis(best, found.rows, 1), atol=1e-5)


def test_no_more_passages_can_be_asked_for_than_there_are(built):
    with pytest.raises(ConfigError, match="k=46 is not from 1 to 45, the passages of the index; use at most 45"):
        built.search(np.ones((1, fake_tower.WIDTH), np.float32), COUNT + 1)


def test_scann_finds_each_passage_once_too(vectors, mesh, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_FEWEST", 1)
    everything = IndexConfig(kind=IndexKind.SCANN, leaves=4, leaves_searched=4, reorder=COUNT * VIEWS, sample=0)
    scann = index.build_index(vectors, everything, tmp_path / "scann", mesh)
    exact = index.build_index(vectors, EXACT, tmp_path / "exact", mesh)
    queries = np.random.default_rng(0).normal(size=(5, fake_tower.WIDTH)).astype(np.float32)
    np.testing.assert_array_equal(scann.search(queries, 10).rows, exact.search(queries, 10).rows)


def test_vectors_that_are_not_finite_name_their_document(tmp_path, mesh):
    broken = fake_tower.table()
    broken["table"][Passages(COUNT).bodies[21][0]] = np.nan
    side = fake_tower.tower(encoder=Turned(), params=broken)
    bad = [i for i, body in enumerate(Passages(COUNT).bodies) if Passages(COUNT).bodies[21][0] in body[:38]]
    with pytest.raises(
        DataError, match=f"^{len(bad)} documents became vectors with NaN or infinity, first 'doc{bad[0]}'"
    ):
        embed(Passages(COUNT), side, fake_tower.WordNumbers(), mesh, tmp_path, batch=8, shard_size=99, made_by={})


def test_an_answer_scores_by_its_best_view_in_mining(built):
    meaning = DenseRetriever(built, fake_tower.tower(), fake_tower.WordNumbers())
    (found,) = meaning.find(["7 9"], [np.arange(10)], 5)
    views = np.asarray(built.vectors.array()).reshape(COUNT, VIEWS, -1)
    query = fake_tower.mean_of(1, 7, 9, 2)
    np.testing.assert_allclose(found.positives, (views[:10] @ query).max(1), **fake_tower.CLOSE)
    assert len(set(found.rows.tolist())) == 5


def test_a_guide_of_several_vectors_is_refused():
    with pytest.raises(ConfigError, match=r"mine.guide=True needs one vector a passage, and this model has 3"):
        check_guide(MineConfig(guide=True), VIEWS)
