"""Model FLOPs, counted in what is differentiated, against the formulas written out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.contriever import Contriever
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.train.flops import matmul_flops, model_flops
from dense_jax.types import Tokens

BERT = BertConfig(layers=3, width=16, heads=2, feed_forward=32, vocab_size=50, positions=8)
ROWS, LENGTH = 4, 8
# a token and a layer, forward: 2 (4 D^2 + 2 D F) + 4 S D, with D = 16, F = 32, S = 8
ENCODE = ROWS * LENGTH * 3 * (2 * (4 * 256 + 2 * 512) + 4 * 8 * 16)


def tokens():
    ids = np.ones((ROWS, LENGTH), np.int32)
    return Tokens(ids, np.zeros_like(ids), np.ones_like(ids, bool))


def counted(objective, batch):
    params = jax.eval_shape(objective.init, jax.random.key(0))
    carry = jax.eval_shape(lambda p: objective.init_carry(p, ROWS, jax.random.key(0)), params)
    return model_flops(objective, params, carry, batch)


def masked():
    places = np.ones((ROWS, 2), np.int32)
    return {"tokens": tokens(), "positions": places, "labels": places, "weights": np.ones((ROWS, 2), np.float32)}


@pytest.mark.parametrize("options", [{}, {"remat": True}, {"scan": True}, {"scan": True, "remat": True}])
def test_masked_language_modelling_is_three_times_its_forward_pass_however_it_is_computed(options):
    head = ROWS * 2 * (2 * 16 * 16 + 2 * 16 * 50)  # of the masked positions alone
    method = MLM(Encoder(replace(BERT, **options)), passage_length=LENGTH, query_length=LENGTH)
    assert counted(method, masked()) == 3 * (ENCODE + head)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 2])
def test_scores_in_chunks_are_counted_once(chunk):
    method = ICT(Encoder(BERT, pooling=Pooling.MEAN), query_length=8, passage_length=8, score_chunk=chunk)
    pairs = {"query": tokens(), "passage": tokens(), "removed": np.ones(ROWS, bool)}
    scores = 2 * ROWS * ROWS * 16
    assert counted(method, pairs) == pytest.approx(3 * (2 * ENCODE + scores), rel=0.002)  # and each with its own


@pytest.mark.slow
def test_the_momentum_encoder_is_not_differentiated():
    method = Contriever(Encoder(BERT, pooling=Pooling.MEAN), view_length=8, query_length=8, passage_length=8, queue=8)
    views = {"query": tokens(), "key": tokens()}
    small = 4 * ROWS * 3 * 16 * ROWS  # of the queue of 8 and the batch
    assert counted(method, views) == pytest.approx(3 * ENCODE + ENCODE, abs=4 * small)


def test_a_branch_counts_as_the_larger_one():
    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    assert matmul_flops(jax.make_jaxpr(either)(jnp.ones((2, 2))).jaxpr) == 2 * (2 * 2 * 2 * 2)
