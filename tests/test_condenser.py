"""What Condenser and RetroMAE claim of their architecture, shown by gradients, and what their examples hold."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.errors import ConfigError
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import apply_condenser, apply_decoder, init_condenser, init_decoder
from dense_jax.objectives.cocondenser import CoCondenser
from dense_jax.objectives.condenser import Condenser
from dense_jax.objectives.retromae import RetroMAE
from dense_jax.types import Layout, Passage, Tokens
from tests.toys import VOCABULARY

BERT = BertConfig(2, 8, 2, 16, vocab_size=VOCABULARY.size, positions=16, dropout=0.0, attention_dropout=0.0)
ENCODER = Encoder(BERT)
LENGTH = 5


@pytest.fixture(scope="module")
def head_jacobians():
    """Of the head's output with respect to the late and the early states, as norms [l of output, l of input]."""
    params = {"condenser": init_condenser(BERT, 2, jax.random.key(0))}
    late, early = jax.random.normal(jax.random.key(1), (2, 1, LENGTH, BERT.width))
    mask = jnp.ones((1, LENGTH), bool)
    found = jax.jit(jax.jacobian(lambda a, b: apply_condenser(BERT, params, a, b, mask)[0], (0, 1)))(late, early)
    return [np.abs(np.asarray(x)).sum((1, 2, 4)) for x in found]


def test_late_states_reach_condensers_head_through_the_first_token_only(head_jacobians):
    late, _ = head_jacobians
    assert np.all(late[:, 0] > 0)
    assert not late[:, 1:].any()


def test_early_states_reach_condensers_head_from_every_token_but_the_first(head_jacobians):
    _, early = head_jacobians
    assert not early[:, 0].any()
    assert np.all(early[:, 1:] > 0)


def decoder_gradients(visible, place):
    """Of RetroMAE's decoder at `place` with respect to the vector [d] and to each position's embedding [l]."""
    encoder, decoder = jax.jit(ENCODER.init), jax.jit(functools.partial(init_decoder, BERT))
    params = {"encoder": encoder(jax.random.key(0)), "decoder": decoder(jax.random.key(1))}
    ids = jnp.arange(10, 10 + LENGTH)[None]
    tokens = Tokens(ids, jnp.zeros_like(ids), jnp.ones(ids.shape, bool))

    def output(vector, words):
        bert = params["encoder"]["bert"]
        changed = bert | {"word": {"embedding": bert["word"]["embedding"].at[ids[0]].set(words)}}
        both = {"encoder": {"bert": changed}, "decoder": params["decoder"]}
        direction = jnp.linspace(-1.0, 1.0, BERT.width)  # the sum of a normalised state would be constant
        return apply_decoder(BERT, both, vector[None], tokens, visible[None])[0, place] @ direction

    vector, words = (
        jax.random.normal(jax.random.key(2), (BERT.width,)),
        params["encoder"]["bert"]["word"]["embedding"][ids[0]],
    )
    of_vector, of_words = jax.jit(jax.grad(output, (0, 1)))(vector, words)
    return np.abs(of_vector).sum(), np.abs(of_words).sum(1)


@pytest.mark.slow
def test_a_position_of_retromaes_decoder_sees_the_vector_and_only_the_words_that_its_row_shows():
    visible = jnp.zeros((LENGTH, LENGTH), bool).at[2, jnp.array([0, 4])].set(True)
    of_vector, of_words = decoder_gradients(visible, place=2)
    assert of_vector > 0
    assert (of_words > 0).tolist() == [False, False, False, False, True]  # the vector stands in the first one's place


@pytest.mark.slow
def test_a_row_that_shows_only_the_first_position_sees_the_vector_alone():
    visible = jnp.zeros((LENGTH, LENGTH), bool).at[3, 0].set(True)
    of_vector, of_words = decoder_gradients(visible, place=3)
    assert of_vector > 0
    assert not of_words.any()


def document(spans: int) -> Passage:
    """A document of spans of three tokens: 10 10 10, 11 11 11, ..."""
    tokens = np.repeat(np.arange(10, 10 + spans), 3).astype(np.int32)
    return Passage(0, np.array([7], np.int32), tokens, np.arange(0, 3 * spans, 3, dtype=np.int32))


def test_a_cocondenser_example_is_two_different_spans_of_the_document():
    method = CoCondenser(ENCODER, head_layers=1, skip_from=1, passage_length=6, query_length=8)
    seen = set()
    for seed in range(60):
        found = method.example(document(3), VOCABULARY, np.random.default_rng(seed))
        assert found["tokens"].ids.shape == (2, 6)
        labels = found["labels"][found["weights"] == 1]
        assert labels[0] != labels[1]  # one token of each span is hidden, and each span has its own
        seen.add(tuple(labels.tolist()))
    assert len(seen) == 6  # both orders of each pair


def test_a_document_of_one_span_gives_no_example():
    method = CoCondenser(ENCODER, head_layers=1, skip_from=1, passage_length=6, query_length=8)
    assert method.example(document(1), VOCABULARY, np.random.default_rng(0)) is None


def test_a_retromae_example_shows_the_decoder_the_words_that_the_encoder_does_not_see():
    method = RetroMAE(ENCODER, passage_length=12, query_length=8)
    found = method.example(document(3), VOCABULARY, np.random.default_rng(0))
    text = [VOCABULARY.cls, *document(3).tokens.tolist(), VOCABULARY.sep]
    assert found["ids"][:11].tolist() == text
    assert found["weights"].sum() == 3  # 30 % of eleven tokens, the special ones counted
    hidden = found["positions"][found["weights"] == 1]
    assert found["labels"][found["weights"] == 1].tolist() == [text[i] for i in hidden]
    assert found["decoder_view"].shape == (12, 12)


def test_a_title_is_left_out_unless_the_layout_asks_for_it():
    plain = Condenser(ENCODER, head_layers=1, skip_from=1, passage_length=12, query_length=8, mask_rate=0.01)
    titled = replace(plain, layout=Layout.JOINED)
    lengths = [
        int(m.example(document(2), VOCABULARY, np.random.default_rng(0))["tokens"].mask.sum()) for m in (plain, titled)
    ]
    assert lengths == [8, 9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_from": 3}, "objective.skip_from=3 is not one of the encoder's layers, 0 to 2"),
        (
            {"skip_from": 1, "passage_length": 17},
            "objective.passage_length=17 exceeds objective.encoder.bert.positions=16",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        Condenser(ENCODER, **({"passage_length": 12, "query_length": 8} | settings))
