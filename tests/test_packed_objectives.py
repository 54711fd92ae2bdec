"""Packed texts in training: every method has the loss and the gradient that padded texts give it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import LoaderConfig, MeshConfig
from dense_jax.data.packing import pack
from dense_jax.data.pipeline import Examples, host_batches
from dense_jax.errors import ConfigError
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.bert import BertConfig, Family
from dense_jax.models.distilbert import DistilBertConfig
from dense_jax.models.encoder import Encoder, MultiViewEncoder, Pooling
from dense_jax.models.layers import Dtype, apply_module
from dense_jax.models.modernbert import ModernBertConfig
from dense_jax.models.nomic_bert import NomicBertConfig
from dense_jax.objectives.cocondenser import CoCondenser
from dense_jax.objectives.condenser import Condenser
from dense_jax.objectives.contriever import Contriever, Negatives
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.objectives.mvr import MVR
from dense_jax.objectives.orqa import Orqa
from dense_jax.objectives.realm import Realm
from dense_jax.objectives.retromae import RetroMAE
from dense_jax.objectives.supervised import Supervised
from dense_jax.train.gradient_cache import loss_in_chunks
from dense_jax.train.step import count_cut_tokens
from dense_jax.types import Layout, PackedTokens, Passage, Tokens
from tests.toys import VOCABULARY, MemoryStore, QuestionStore

SIZES = {
    "layers": 2, "width": 16, "heads": 2, "feed_forward": 16, "vocab_size": VOCABULARY.size, "positions": 24,
    "dropout": 0.0, "attention_dropout": 0.0, "dtype": Dtype.FLOAT64,
}  # fmt: skip
BERT = BertConfig(**SIZES)
FAMILIES = {
    "bert": BERT,
    "roberta": BertConfig(**SIZES, family=Family.ROBERTA),
    "xlm_roberta": BertConfig(**SIZES, family=Family.XLM_ROBERTA, types=1),
    "distilbert": DistilBertConfig(**SIZES),
    "modernbert": ModernBertConfig(**SIZES, window=4),
    "nomic_bert": NomicBertConfig(**SIZES),
}
LENGTHS = {"query_length": 10, "passage_length": 16}
METHODS = {
    "supervised": lambda e: Supervised(e, **LENGTHS, negatives=3),
    "two encoders": lambda e: Supervised(e, **LENGTHS, negatives=1, shared=False),
    "ict": lambda e: ICT(e, **LENGTHS, layout=Layout.JOINED),
    "contriever": lambda e: Contriever(e, **LENGTHS, view_length=16, negatives=Negatives.IN_BATCH, temperature=1.0),
    "mlm": lambda e: MLM(e, **LENGTHS),
    "condenser": lambda e: Condenser(e, **LENGTHS, skip_from=1),
    "cocondenser": lambda e: CoCondenser(e, **LENGTHS, skip_from=1),
    "retromae": lambda e: RetroMAE(e, **LENGTHS),
}
BATCH = 16
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64 sums in another order
STEP = {"rng": jax.random.key(0), "step": jnp.zeros((), jnp.int32)}


class Sentences(MemoryStore):
    """Passages of a title and two to five sentences of two to five tokens."""

    def __init__(self):
        super().__init__(passages=BATCH)
        rng = np.random.default_rng(1)
        self.bounds = [np.cumsum([0, *rng.integers(2, 6, size=rng.integers(2, 6))]) for _ in range(BATCH)]

    def __getitem__(self, row):
        bounds = self.bounds[row].astype(np.int32)
        tokens = np.random.default_rng(row).integers(5, VOCABULARY.size, size=bounds[-1])
        return Passage(row, np.array([7]), tokens, bounds[:-1])


def examples_of(method):
    store = QuestionStore(BATCH) if isinstance(method, Supervised) else Sentences()
    made = Examples(store, method, VOCABULARY, LoaderConfig(), seed=0, length=BATCH, batch=BATCH)
    return next(host_batches(made, BATCH)).inputs


def pair_of(name, model=BERT, pooling=Pooling.MEAN, packing=0.8):
    """The method with padded texts and with packed ones."""
    padded = METHODS[name](Encoder(model, pooling))
    return padded, replace(padded, packing=packing)


def params_of(method):
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape)), shapes)


def gradient(method, batch, chunks=1):
    """Loss and gradient."""

    def loss(params, batch):
        if chunks > 1:
            return loss_in_chunks(method, params, {}, batch, **STEP, chunks=chunks)[0]
        return method.loss(params, {}, batch, **STEP)[0]

    return jax.jit(jax.value_and_grad(loss))(params_of(method), batch)


def batch_of(method):
    return jax.tree.map(jnp.asarray, method.collate(examples_of(method), np.arange(BATCH)))


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), found, expected)


def assert_packing_changes_nothing(padded, packed):
    batch = batch_of(packed)
    assert any(isinstance(value, PackedTokens) for value in batch.values())
    assert count_cut_tokens(batch)["cut"] == 0
    assert_equal(gradient(packed, batch), gradient(padded, batch_of(padded)))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_changes_neither_loss_nor_gradient_in_any_family(x64, family):
    assert_packing_changes_nothing(*pair_of("supervised", FAMILIES[family]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["condenser", "retromae"])
@pytest.mark.parametrize("family", ["roberta", "modernbert", "nomic_bert"])
def test_packing_changes_neither_loss_nor_gradient_of_a_head_in_any_family(x64, name, family):
    assert_packing_changes_nothing(*pair_of(name, FAMILIES[family]))


def test_each_packed_text_of_roberta_begins_at_the_position_after_that_of_padding():
    """The rows of the position table hold their own numbers."""
    roberta = replace(FAMILIES["roberta"], layers=1, dtype=Dtype.FLOAT32)
    texts = Tokens(np.full((2, 5), 9, np.int32), np.zeros((2, 5), np.int32), np.arange(5) < np.array([[3], [2]]))
    packed = pack(texts, np.arange(2), packing=0.8)
    assert packed.tokens.mask.tolist() == [[True] * 5 + [False] * 3]
    numbers = jnp.broadcast_to(jnp.arange(24.0)[:, None], (24, 16))
    params = Encoder(roberta).init(jax.random.key(0))["bert"] | {"position": {"embedding": numbers}}
    zeros = jnp.zeros((1, 8, 16))
    found = apply_module(roberta.model(), params, zeros, None, jnp.asarray(packed.positions), method="summed")
    assert found[0, :5, 0].tolist() == [2, 3, 4, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_packing_changes_neither_loss_nor_gradient_of_any_method(x64, name):
    assert_packing_changes_nothing(*pair_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", [Pooling.CLS, Pooling.POOLER])
def test_packing_changes_neither_loss_nor_gradient_with_other_pooling(x64, pooling):
    assert_packing_changes_nothing(*pair_of("supervised", pooling=pooling))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_packed_texts_give_the_same_gradient_in_chunks_and_over_eight_devices(x64, name):
    _, method = pair_of(name)
    batch = batch_of(method)
    expected = gradient(method, batch)
    assert_equal(gradient(method, batch, chunks=2), expected)
    assert_equal(gradient(method, jax.device_put(batch, batch_sharding(make_mesh(MeshConfig())))), expected)


@pytest.mark.parametrize(
    "method",
    [
        lambda: MVR(MultiViewEncoder(BERT), **LENGTHS, packing=0.5),
        lambda: Orqa(Encoder(BERT), **LENGTHS, reader_length=24, packing=0.5),
        lambda: Realm(Encoder(replace(BERT, positions=26)), **LENGTHS, packing=0.5),
    ],
    ids=["mvr", "orqa", "realm"],
)
def test_methods_that_pad_their_texts_refuse_to_pack_them(method):
    with pytest.raises(ConfigError, match=r"objective\.packing=0\.5 is below 1, but .* pads its texts"):
        method()


def test_the_bag_of_words_of_packed_texts_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.bag_of_words=0\.1 takes the best score"):
        RetroMAE(Encoder(BERT), **LENGTHS, bag_of_words=0.1, packing=0.5)


def test_tokens_that_do_not_fit_are_cut_and_counted():
    method = pair_of("ict", packing=0.2)[1]
    examples = examples_of(method)
    batch = method.collate(examples, np.arange(BATCH))
    cut = sum(int(examples[side].mask.sum() - batch[side].mask.sum()) for side in ("query", "passage"))
    assert cut > 0
    assert count_cut_tokens(batch)["cut"] == cut
    assert (batch["passage"].starts > 0).sum() > 0
