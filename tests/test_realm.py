"""REALM: what an example is, which passages are its candidates, and where gradients go."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dense_jax.data.masking import mask_span
from dense_jax.errors import ConfigError
from dense_jax.losses.collapse import alignment
from dense_jax.losses.marginal import MarginalLikelihood
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objective import HostBatch
from dense_jax.objectives.realm import Realm
from dense_jax.train.gradient_cache import loss_in_chunks
from dense_jax.types import Passage, SearchResult, Tokens
from tests.toys import VOCABULARY, MemoryStore

CLS, SEP, MASK, PAD = VOCABULARY.cls, VOCABULARY.sep, VOCABULARY.mask, VOCABULARY.pad
BERT = BertConfig(
    vocab_size=50,
    layers=1,
    width=16,
    heads=2,
    feed_forward=32,
    positions=64,
    initializer=0.3,
    dropout=0.0,
    attention_dropout=0.0,
)


def realm(**settings) -> Realm:
    small = {"encoder": Encoder(BERT), "query_length": 8, "passage_length": 12, "candidates": 4, "most_masked": 3}
    return Realm(**small | settings)


def passage(row: int, tokens: list[int], sentences=(0,), spans=(), title=()) -> Passage:
    whole = np.array(spans, np.int32).reshape(-1, 2)
    return Passage(row, np.array(title, np.int32), np.array(tokens, np.int32), np.array(sentences, np.int32), whole)


class Texts(MemoryStore):
    """These passages and no others."""

    def __init__(self, *of: Passage):
        super().__init__(1)
        self.given = of

    def __len__(self):
        return len(self.given)

    def __getitem__(self, row):
        return self.given[row]


STORE = Texts(
    passage(0, [10, 11, 12, 13, 14, 15], sentences=(0, 3), spans=[(1, 2), (3, 5)], title=[9]),
    passage(1, [20, 21, 22]),
    passage(2, [20, 21, 22]),  # the same text once more
    passage(3, [30, 31], title=[8]),
    passage(4, [10, 11, 12, 13, 14, 15], title=[9]),  # the source once more
    passage(5, [40, 41]),
)


def example(row: int = 0, draw: int = 1, length: int = 8, slots: int = 3):
    return mask_span(STORE[row], length, slots, VOCABULARY, Drawing(draw))


class Drawing(np.random.Generator):
    """A generator that draws what it is told."""

    def __init__(self, number: int):
        super().__init__(np.random.PCG64())
        self.number = number

    def integers(self, high):
        assert self.number < high
        return np.int64(self.number)


def batch(method: Realm, rows: list[int], found: list[list[int]], vectors: float = 0.0):
    """Examples of passage 0 and what was found for them, joined."""
    stacked = jax.tree.map(lambda *of_each: np.stack(of_each), *(example() for _ in rows))
    padded = np.array([row + [-1] * (method.depth - len(row)) for row in found])
    found_here = SearchResult(padded, np.full((*padded.shape, 16), vectors, np.float32))
    return jax.tree.map(
        jnp.asarray, method.join(HostBatch(stacked, np.array(rows, np.int32)), found_here, STORE, VOCABULARY)
    )


def start(method: Realm):
    """Parameters before training."""
    return method.init(jax.random.key(0))


def encoded(method: Realm, params, joined):
    return jax.jit(functools.partial(method.encode, rng=None))(params, {}, joined)


def loss_and_gradients(method: Realm):
    """(params, joined) -> loss and gradients: one function for a method, so that it is compiled once."""

    def loss(params, joined):
        return method.loss(params, {}, joined, rng=jax.random.key(1), step=jnp.int32(0))[0]

    return jax.jit(jax.value_and_grad(loss))


def ids(tokens: Tokens) -> list[int]:
    return np.asarray(tokens.ids)[np.asarray(tokens.mask)].tolist()


def of(tokens: Tokens, *place: int) -> Tokens:
    return Tokens(*(np.asarray(part)[place] for part in tokens))


def test_an_example_is_the_sentence_of_a_span_with_all_of_the_span_masked():
    made = example()  # the second span, in the second sentence
    assert ids(made["query"]) == [CLS, MASK, MASK, 15, SEP]
    assert made["positions"].tolist() == [1, 2, 0]
    assert made["labels"].tolist() == [13, 14, 0]
    assert made["weights"].tolist() == [1, 1, 0]


def test_tokens_of_a_span_beyond_the_counted_ones_are_masked_too():
    made = example(slots=1)
    assert ids(made["query"]) == [CLS, MASK, MASK, 15, SEP]
    assert made["labels"].tolist() == [13]


def test_a_passage_without_spans_and_a_span_that_is_cut_off_give_no_example():
    assert example(row=1) is None
    assert example(length=3) is None  # [CLS], one token, [SEP]: the span has two
    assert example(length=4) is not None


def test_the_null_document_comes_first_and_the_source_and_duplicates_never():
    joined = batch(realm(), [0], [[0, 4, 1, 2, 3, 5]])
    assert [ids(of(joined["passages"], 0, i)) for i in range(4)] == [
        [CLS, SEP, SEP],
        [CLS, SEP, 20, 21, 22, SEP],
        [CLS, 8, SEP, 30, 31, SEP],
        [CLS, SEP, 40, 41, SEP],
    ]
    assert joined["there"].tolist() == [[True] * 4]
    assert joined["source_found"].tolist() == [True]
    assert joined["repeats_found"].tolist() == pytest.approx([2 / 6])  # of the source, and of the first one


def test_a_copy_of_the_source_counts_as_the_source_that_was_found():
    assert batch(realm(), [0], [[1, 4, 3]])["source_found"].tolist() == [True]
    assert batch(realm(), [0], [[1, 3, 5]])["source_found"].tolist() == [False]


def test_the_reader_sees_sentence_and_body_without_a_title_in_two_segments():
    joined = batch(realm(), [0], [[3]])
    assert ids(of(joined["read"], 0, 0)) == [CLS, MASK, MASK, 15, SEP, SEP]
    assert ids(of(joined["read"], 0, 1)) == [CLS, MASK, MASK, 15, SEP, 30, 31, SEP]
    assert joined["read"].types[0, 1].tolist()[:9] == [0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_the_body_is_cut_to_the_passage_length_for_the_reader():
    joined = batch(realm(passage_length=4), [0], [[1]])
    assert ids(of(joined["read"], 0, 1)) == [CLS, MASK, MASK, 15, SEP, 20, 21, SEP]


def test_without_exclusion_the_source_is_a_candidate():
    joined = batch(realm(exclude_source=False), [0], [[0, 4, 1]])
    assert ids(of(joined["passages"], 0, 1)) == [CLS, 9, SEP, 10, 11, 12, 13, 14, 15, SEP]
    assert ids(of(joined["passages"], 0, 2)) == [CLS, SEP, 20, 21, 22, SEP]  # 4 is the same text


@pytest.mark.slow
def test_candidates_that_are_missing_weigh_nothing():
    method = realm()
    params = start(method)
    few = batch(method, [0, 0], [[1], [1, 3]])
    assert few["there"].tolist() == [[True, True, False, False], [True, True, True, False]]
    result = encoded(method, params, few)
    assert np.exp(result.log_priors).sum(1) == pytest.approx([1, 1], abs=1e-6)
    assert np.exp(result.log_priors)[0, 2:].tolist() == [0, 0]


@pytest.mark.slow
def test_the_loss_depends_on_which_passages_were_found_and_not_on_the_scores_of_the_index():
    """The index may be stale: what is learned from is scored anew, so its vectors must leave no trace at all."""
    method = realm()
    params, learn = start(method), loss_and_gradients(method)
    found = (learn(params, batch(method, [0, 0], [[1, 3], [5, 3]], vectors)) for vectors in (0.0, 123.0))
    jax.tree.map(np.testing.assert_array_equal, *found)


@dataclass
class Shifted(Encoder):
    """An encoder that adds a shift of its own to each vector of the passages, to see each one's gradient."""

    def init(self, rng):
        return {**super().init(rng), "shift": jnp.zeros((8, 16))}

    def apply(self, params, tokens, *, rng=None):
        vectors = super().apply(params, tokens, rng=rng)
        return vectors + params["shift"] if len(vectors) == 8 else vectors


@pytest.mark.slow
@pytest.mark.parametrize("marginal", MarginalLikelihood)
def test_gradients_reach_the_tower_of_every_candidate_the_null_document_too(marginal):
    method = realm(encoder=Shifted(BERT), shared=False, marginal=marginal)
    params = start(method)
    joined = batch(method, [0, 0], [[1, 3, 5], [5, 3, 1]])
    _, gradients = loss_and_gradients(method)(params, joined)
    assert (jnp.abs(gradients["passage"]["shift"]).max(1) > 1e-7).all()  # two examples of four candidates
    for part in ("query", "passage", "reader"):
        assert optax.tree.norm(gradients[part]) > 1e-5


@pytest.mark.slow
def test_a_passage_that_explains_the_words_gets_the_gradient_of_supervision():
    """d log p(y | x) / d score = posterior - prior, and sums to 0 (appendix A of the paper)."""
    method = realm(encoder=Shifted(BERT), shared=False)
    params = start(method)
    joined = batch(method, [0, 0], [[1, 3, 5], [5, 3, 1]])
    result = encoded(method, params, joined)
    queries = jax.jit(method.encoder.apply)(params["query"], joined["query"])
    _, gradients = loss_and_gradients(method)(params, joined)
    posteriors = jax.nn.softmax(result.log_priors + result.log_likelihoods, axis=1)
    expected = -(posteriors - jnp.exp(result.log_priors))[..., None] * queries[:, None] / 2  # the mean of two
    np.testing.assert_allclose(gradients["passage"]["shift"].reshape(2, 4, 16), expected, rtol=1e-4, atol=1e-7)


def test_one_encoder_serves_both_towers_unless_two_are_asked_for():
    one, two = realm(), realm(shared=False)
    shapes = [jax.eval_shape(method.init, jax.random.key(0)) for method in (one, two)]
    assert set(shapes[0]) == {"encoder", "reader"}
    assert set(shapes[1]) == {"query", "passage", "reader"}
    towers = two.towers(shapes[1])
    assert (towers.query.length, towers.passage.length) == (8, 12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passage_length": 60}, "objective.query_length \\+ passage_length=68 exceeds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        realm(**settings)


@pytest.mark.slow
def test_the_diagnosis_compares_each_query_with_the_best_passage_found_for_it():
    method = realm(shared=False)
    params = start(method)
    joined = batch(method, [0, 0], [[1, 3], [5, 3]])
    queries = jax.jit(method.encoder.apply)(params["query"], joined["query"])
    best = Tokens(*(part[:, 1] for part in joined["passages"]))  # after the null document
    passages = jax.jit(method.encoder.apply)(params["passage"], best)
    signs = jax.jit(method.collapse_metrics)(params, {}, joined)
    assert signs["alignment"] > 0.01
    assert signs["alignment"] == pytest.approx(float(alignment(queries, passages)), rel=1e-5)
    assert signs["passage_norm"] == pytest.approx(float(jnp.linalg.norm(passages, axis=1).mean()), rel=1e-5)


@pytest.mark.slow
def test_in_chunks_the_loss_is_that_of_the_whole_batch():
    method = realm()
    params = start(method)
    joined = batch(method, [0, 0, 0, 0], [[1, 3], [5, 3], [1], [3, 5, 1]])
    settings = {"chunks": 2, "rng": jax.random.key(1), "step": jnp.int32(0)}
    parts, _ = jax.jit(functools.partial(loss_in_chunks, method, **settings))(params, {}, joined)
    whole, _ = loss_and_gradients(method)(params, joined)
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)
