"""Fine-tuning on queries and what answers them."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from dense_jax.config import Config, LoaderConfig, MeshConfig, OptimizerConfig, PassagesConfig, Unit
from dense_jax.data.pipeline import Examples, host_batches
from dense_jax.errors import ConfigError
from dense_jax.hf import tensors
from dense_jax.hf.config import config_json
from dense_jax.io import write_json
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.layers import Dtype
from dense_jax.objectives.dual_encoder import Pairs
from dense_jax.objectives.mlm import MLM
from dense_jax.objectives.supervised import Directions, Distillation, FalseNegatives, Supervised
from dense_jax.train.gradient_cache import loss_in_chunks
from dense_jax.train.sharding import state_sharding
from dense_jax.train.warm_start import warm_start
from dense_jax.types import Layout, Tokens, TrainingQuery, Vocabulary
from tests.programs import train_workdir
from tests.test_warm_start import params as random_params
from tests.test_warm_start import trained, values
from tests.toys import VOCABULARY, QuestionStore

GOLDEN = Path(__file__).parent / "golden" / "contriever"
BERT = BertConfig(
    layers=1, width=8, heads=2, feed_forward=16, vocab_size=VOCABULARY.size, positions=16,
    dropout=0.0, attention_dropout=0.0, dtype=Dtype.FLOAT64,
)  # fmt: skip
ENCODER = Encoder(BERT, pooling=Pooling.MEAN, normalize=True)
METHOD = Supervised(ENCODER, query_length=6, passage_length=8, layout=Layout.BODY, negatives=2, known=3)
STEP = jnp.zeros((), int)
EVERYTHING = {
    "joint, by a guide": {"directions": Directions.JOINT, "false_negatives": FalseNegatives.GUIDE, "margin": 0.1},
    "both, by itself, smoothed": {
        "directions": Directions.BOTH,
        "false_negatives": FalseNegatives.STUDENT,
        "margin": 0.05,
        "relative_margin": True,
        "label_smoothing": 0.1,
    },
    "distilled at two widths": {
        "distillation": Distillation.KL,
        "matryoshka": (8, 4),
        "matryoshka_weights": (1.0, 0.5),
    },
    "two encoders, margins": {"shared": False, "distillation": Distillation.MARGIN_MSE},
}


def batch_of(method, size=16):
    examples = Examples(QuestionStore(), method, VOCABULARY, LoaderConfig(), seed=0, length=size, batch=size)
    batch = next(host_batches(examples, size, start=0)).inputs
    return jax.tree.map(jnp.asarray, batch)


def start(method):
    params = jax.jit(method.init)(jax.random.key(0))
    return jax.tree.map(lambda x: x.astype(jnp.float64), params)


def gradients(method, batch, **how):
    """params -> loss, metrics and gradients."""
    loss = functools.partial(loss_in_chunks, method, **how) if how else method.loss
    call = lambda params, batch: loss(params, {}, batch, rng=jax.random.key(1), step=STEP)  # noqa: E731
    return jax.jit(jax.value_and_grad(call, has_aux=True))


def assert_same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12), found[0][1], expected[0][1])
    exact = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)  # noqa: E731  # float64
    jax.tree.map(exact, (found[0][0], found[1]), (expected[0][0], expected[1]))


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERYTHING)
def test_chunks_of_examples_and_of_scores_and_devices_change_nothing(x64, case):
    method = dataclasses.replace(METHOD, temperature=0.1, **EVERYTHING[case])
    batch, params = batch_of(method), start(method)
    whole = gradients(method, batch)(params, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))
    tiled = dataclasses.replace(method, score_chunk=5)
    mesh = make_mesh(MeshConfig(2, 4))
    spread = jax.device_put(params, state_sharding(params, mesh)), jax.device_put(batch, batch_sharding(mesh))
    assert_same(gradients(tiled, batch, chunks=2)(*spread), whole)


def test_an_example_holds_no_array_that_is_not_used():
    question, rng = QuestionStore().sample(3, 0, None), np.random.default_rng(0)
    example = lambda **settings: set(dataclasses.replace(METHOD, **settings).example(question, VOCABULARY, rng))  # noqa: E731
    plain = {"query", "passages", "texts", "known"}
    assert example() == plain
    assert example(distillation=Distillation.KL) == plain | {"scores"}
    guide = {"guide_query", "guide_passages"}
    assert example(false_negatives=FalseNegatives.GUIDE) == plain | guide


def test_a_guide_that_is_not_there_is_asked_for_by_name():
    question = dataclasses.replace(QuestionStore().sample(3, 0, None), guide=None)
    method = dataclasses.replace(METHOD, false_negatives=FalseNegatives.GUIDE)
    with pytest.raises(ConfigError, match=r"objective\.false_negatives=guide needs a guide's vectors"):
        method.example(question, VOCABULARY, np.random.default_rng(0))


def test_texts_are_those_of_the_example():
    question = QuestionStore().sample(3, 0, None)
    example = METHOD.example(question, VOCABULARY, np.random.default_rng(0))
    assert [*METHOD.texts(question)] == example["texts"].tolist()
    assert METHOD.learns_from is TrainingQuery


def test_prompts_are_asked_for_laid_out_and_carried_by_the_towers(x64):
    method = dataclasses.replace(METHOD, query_prompt="q: ", passage_prompt="p: ")
    assert [*method.prompts()] == ["q: ", "p: "]
    assert [*METHOD.prompts()] == []
    ids = {"q: ": np.array([40]), "p: ": np.array([41])}
    vocabulary: Vocabulary = dataclasses.replace(VOCABULARY, prompts=ids)
    example = method.example(QuestionStore().sample(3, 0, None), vocabulary, np.random.default_rng(0))
    assert (example["query"].ids[1], example["passages"].ids[0, 1]) == (40, 41)
    towers = method.towers(random_params(method))
    assert (towers.query.prompt, towers.passage.prompt) == ("q: ", "p: ")


def by_hand(queries, passages, texts, known, **settings):
    """Loss and metrics of given vectors."""
    texts, known = jnp.array(texts), jnp.array(known)
    method = dataclasses.replace(METHOD, negatives=texts.shape[1] - 1, **settings)
    blank = lambda *shape: Tokens(*(jnp.zeros((*shape, 4), kind) for kind in (int, int, bool)))  # noqa: E731
    batch = {"texts": texts, "known": known, "query": blank(len(texts)), "passages": blank(*texts.shape)}
    loss, (metrics, _) = method.combine({}, Pairs(queries, passages), batch, step=STEP)
    return loss, metrics


@pytest.mark.slow
def test_absent_passages_and_further_answers_are_no_negatives():
    """Query 0 scores its answer 2, and of the others only the answer of query 1, at 1, is a candidate."""
    queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    passages = jnp.array([[[2.0, 0.0], [9.0, 0.0]], [[1.0, 3.0], [7.0, 0.0]]])
    loss, metrics = by_hand(queries, passages, [[4, -1], [5, 6]], [[4, 6], [5, -1]])
    first = np.log1p(np.exp(-1.0))  # 2 against 1
    second = np.log(np.exp(3.0) + 1 + 1) - 3  # 3 against 0 and 0
    assert loss == pytest.approx((first + second) / 2, rel=1e-6)
    assert metrics["accuracy"] == metrics["mrr"] == 1
    assert metrics["candidates"] == 2.5
    assert metrics["masked_share"] == pytest.approx(1 - (1 / 2 + 2 / 2) / 2)  # of two others that are there


@pytest.mark.slow
def test_the_same_text_as_the_own_answer_is_no_negative_though_it_is_not_among_those_known():
    """Both queries have text 4 as their answer, so nothing is left to tell it from."""
    queries, passages = jnp.array([[1.0], [1.0]]), jnp.array([[[2.0]], [[2.0]]])
    loss, metrics = by_hand(queries, passages, [[4], [4]], [[9], [9]])
    assert loss == 0
    assert metrics["candidates"] == 1


def test_the_mean_reciprocal_rank_is_among_all_candidates():
    """Ranks 3 of 4 and 1 of 4."""
    queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    passages = jnp.array([[[2.0, 0.0], [3.0, 0.0]], [[1.0, 3.0], [7.0, 0.0]]])
    _, metrics = by_hand(queries, passages, [[1, 2], [3, 4]], [[1], [3]])
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1) / 2)
    assert metrics["accuracy"] == 0.5
    assert metrics["masked_share"] == 0


@pytest.mark.slow
def test_queries_without_a_teachers_scores_add_nothing_and_are_counted(x64):
    method = dataclasses.replace(METHOD, distillation=Distillation.MARGIN_MSE, contrast_weight=0.0)
    batch, params = batch_of(method), start(method)
    learnable = ~np.isnan(np.asarray(batch["scores"]))[:, :2].any(1)
    assert 0 < learnable.sum() < 16
    (loss, (metrics, _)), _ = gradients(method, batch)(params, batch)
    assert metrics["with_scores"] == pytest.approx(learnable.mean())
    alone = jax.tree.map(lambda x: x[learnable], batch)
    assert loss == pytest.approx(float(gradients(method, alone)(params, alone)[0][0]) * learnable.mean(), rel=1e-12)
    none = batch | {"scores": jnp.full_like(batch["scores"], jnp.nan)}
    (loss, (metrics, _)), gradient = gradients(method, none)(params, none)
    assert (loss, metrics["with_scores"]) == (0, 0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_signs_of_collapse_are_those_of_queries_and_their_answers(x64):
    batch, params = batch_of(METHOD), start(METHOD)
    vectors = METHOD.encode(params, {}, batch, rng=None)
    aligned = jnp.mean(jnp.sum(jnp.square(vectors.queries - vectors.passages[:, 0]), axis=1))
    assert METHOD.collapse_metrics(params, {}, batch)["alignment"] == pytest.approx(float(aligned), rel=1e-12)


@pytest.mark.slow
def test_a_run_learns_to_find_answers(x64, tmp_path):
    """Queries of random tokens about passages of random tokens: they can be learned by heart alone."""
    config = Config(
        dataclasses.replace(METHOD, temperature=0.1),
        steps=10,
        batch=32,
        chunk=16,
        log_every=1,
        optimizer=OptimizerConfig(0.02),
        passages=PassagesConfig(unit=Unit.QUERIES),
    )
    train_workdir(config, QuestionStore(), VOCABULARY, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "mrr" in row]
    assert logged[-1]["mrr"] > 0.8 > 2 * logged[0]["mrr"]
    assert logged[-1]["loss"] < 0.6 * logged[0]["loss"]


TWO = dataclasses.replace(METHOD, shared=False)


def test_one_encoder_of_another_run_fills_both_towers(x64, tmp_path):
    workdir = trained(tmp_path / "mlm", MLM(ENCODER, passage_length=8, query_length=6), 3)
    found, report = warm_start(random_params(TWO), workdir, TWO)
    assert values(found["query"]) == values(found["passage"]) == {3.0}
    assert report.initialised == []


def test_a_published_bert_fills_both_towers(x64, tmp_path):
    one = random_params(METHOD)["encoder"]
    tensors.save_params(one, BERT, tmp_path, pad=0)
    found, report = warm_start(random_params(TWO, 0.0), str(tmp_path), TWO)
    for side in ("query", "passage"):
        jax.tree.map(np.testing.assert_array_equal, found[side], one)
    assert report.initialised == []


NO_EFFECT = {
    "margin": {"margin": 0.1},
    "relative_margin": {"relative_margin": True},
    "distillation_weight": {"distillation_weight": 2.0},
    "distillation_temperature": {"distillation_temperature": 2.0, "distillation": Distillation.MARGIN_MSE},
    "distillation_squared": {"distillation_squared": False},
    "matryoshka_weights": {"matryoshka_weights": (1.0,)},
    "label_smoothing": {"label_smoothing": 0.1, "directions": Directions.JOINT},
    "temperature": {"temperature": 0.1, "contrast_weight": 0.0, "distillation": Distillation.KL},
    "directions": {"directions": Directions.BOTH, "contrast_weight": 0.0, "distillation": Distillation.KL},
}
BROKEN = {
    "leave nothing to be learned": {"contrast_weight": 0.0},
    "turns objective.distillation=kl off": {"distillation": Distillation.KL, "distillation_weight": 0.0},
    "negatives=0 leaves it one": {"distillation": Distillation.KL, "negatives": 0},
    "must be different widths from 1 up to the whole, 8": {"matryoshka": (4, 2)},
    "is not one positive number for each": {"matryoshka": (8, 4), "matryoshka_weights": (1.0,)},
    "normalize=true": {"matryoshka": (8,), "encoder": Encoder(BERT)},
    "passage_length=17 exceeds": {"passage_length": 17},
}


@pytest.mark.parametrize("name", NO_EFFECT)
def test_a_setting_without_effect_is_refused(name):
    with pytest.raises(ConfigError, match=rf"objective\.{name}=.* has no effect with"):
        dataclasses.replace(METHOD, **NO_EFFECT[name])


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_rule_is_named(message):
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(METHOD, **BROKEN[message])
    assert message in str(error.value)


IN_BATCH = {
    "T2": {"temperature": 2.0},
    "T2_ls0.1": {"temperature": 2.0, "label_smoothing": 0.1},
    "T0.05_norm": {"temperature": 0.05, "normalize": True},
    "T0.05_raw": {"temperature": 0.05},
    "symmetric_noneg": {"temperature": 2.0, "directions": Directions.BOTH},
}


@pytest.fixture
def published(x64, tmp_path):
    """(settings) -> method and parameters of the reference's model."""
    bert = dataclasses.replace(BERT, layers=2, width=32, feed_forward=64, vocab_size=128, positions=64)
    save_file(load_file(GOLDEN / "bert_tiny.safetensors"), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", config_json(bert, "BertModel", pad=0))

    def load(normalize=False, **settings):
        encoder = Encoder(bert, pooling=Pooling.MEAN, normalize=normalize)
        method = Supervised(encoder, query_length=64, passage_length=64, **settings)
        params, _ = tensors.load_params(method.init(jax.random.key(0)), tmp_path, method)
        return method, jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)

    return load


@pytest.mark.slow
@pytest.mark.parametrize("score_chunk", [0, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("case", "group"), [(case, group) for case in IN_BATCH for group in (1, 2)][:-1])
def test_loss_gradient_and_accuracy_equal_contrievers_reference(published, case, group, score_chunk):
    """Of its 16 keys the first 8 are the answers, the others a negative of each; symmetric, there are no others."""
    method, params = published(negatives=group - 1, score_chunk=score_chunk, **IN_BATCH[case])
    golden, inputs = (np.load(GOLDEN / f"{file}.npz") for file in ("inbatch", "inbatch_inputs"))
    in_groups = lambda x: jnp.asarray(x[: 8 * group].reshape(group, 8, -1).swapaxes(0, 1))  # noqa: E731
    ids, mask = in_groups(inputs["k_tokens"]), in_groups(inputs["k_mask"])
    query = jnp.asarray(inputs["q_tokens"])
    batch = {
        "query": Tokens(query, jnp.zeros_like(query), jnp.asarray(inputs["q_mask"])),
        "passages": Tokens(ids, jnp.zeros_like(ids), mask),
        "texts": jnp.arange(8 * group).reshape(8, group),
        "known": jnp.full((8, 2), -1),
    }
    (value, (metrics, _)), gradient = gradients(method, batch)(params, batch)
    name = case if case.startswith("symmetric") else f"{case}.{'noneg' if group == 1 else 'neg'}"
    np.testing.assert_allclose(value, golden[f"{name}.loss"], rtol=2e-6)  # the reference computed these in float32
    np.testing.assert_allclose(optax.tree.norm(gradient), golden[f"{name}.grad_norm"], rtol=1e-5)
    if f"{name}.accuracy" in golden:
        assert 100 * metrics["accuracy"] == golden[f"{name}.accuracy"]
