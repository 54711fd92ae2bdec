"""An encoder's head as sentence-transformers modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.errors import StorageError
from dense_jax.hf.modules import (
    DenseModule,
    NormalizeModule,
    PoolingModule,
    apply_modules,
    encoder_modules,
    read_modules,
    write_modules,
)
from dense_jax.io import read_json, write_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.types import Tokens

BERT = BertConfig(layers=1, width=8, heads=1, feed_forward=8, vocab_size=5)
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(3, 4, 8)).astype(np.float32)
MASK = np.arange(4)[None] < np.array([[4], [2], [0]])
IDS = np.zeros_like(MASK, np.int32)


def random_params(encoder):
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), shapes)


ENCODERS = {
    "cls": Encoder(BERT),
    "mean, normalised": Encoder(BERT, Pooling.MEAN, normalize=True),
    "pooler": Encoder(BERT, Pooling.POOLER),
    "pooler and projection": Encoder(BERT, Pooling.POOLER, projection=5),
    "mean, projection, normalised": Encoder(BERT, Pooling.MEAN, projection=5, normalize=True),
}


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_the_modules_make_the_same_vectors(encoder, tmp_path):
    params = random_params(encoder)
    modules = encoder_modules(encoder, params)
    expected = encoder.pool(params, jnp.asarray(HIDDEN), Tokens(IDS, IDS, MASK))
    np.testing.assert_allclose(apply_modules(modules, HIDDEN, MASK), expected, rtol=1e-5, atol=1e-5)
    write_modules(modules, tmp_path)
    np.testing.assert_allclose(apply_modules(read_modules(tmp_path), HIDDEN, MASK), expected, rtol=1e-5, atol=1e-5)


def test_layer_normalisation_is_a_normalisation_between_two_affine_layers():
    encoder = Encoder(BERT, Pooling.CLS, projection=2)
    params = {
        "projection": {
            "dense": {"kernel": np.eye(8, 2), "bias": np.zeros(2)},
            "norm": {"scale": np.ones(2), "bias": np.zeros(2)},
        }
    }
    _, first, normalize, second = encoder_modules(encoder, params)
    # (5, 1) has mean 3; the third number is sqrt(2 * 1e-3)
    np.testing.assert_allclose(np.array([5, 1, 0, 0, 0, 0, 0, 0]) @ first.kernel + first.bias, [2, -2, 0.002**0.5])
    assert normalize == NormalizeModule()
    np.testing.assert_allclose(second.kernel, [[2**0.5, 0], [0, 2**0.5], [0, 0]], rtol=1e-6)


def affine(inputs, outputs):
    return DenseModule(np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32))


def test_modules_are_spelt_as_in_sentence_transformers_3(tmp_path):
    write_modules([PoolingModule(Pooling.MEAN, 8), affine(8, 2), NormalizeModule()], tmp_path)
    chain = read_json(tmp_path / "modules.json")
    assert [entry["type"].removeprefix("sentence_transformers.models.") for entry in chain] == [
        "Transformer", "Pooling", "Dense", "Normalize"
    ]  # fmt: skip
    assert [entry["path"] for entry in chain] == ["", "1_Pooling", "2_Dense", "3_Normalize"]
    pooling = read_json(tmp_path / "1_Pooling/config.json")
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_cls_token"]
    assert read_json(tmp_path / "2_Dense/config.json") == {
        "in_features": 8, "out_features": 2, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"
    }  # fmt: skip


def test_a_dense_module_of_another_shape_than_it_says_is_refused(tmp_path):
    write_modules([PoolingModule(Pooling.CLS, 8), affine(8, 2)], tmp_path)
    path = tmp_path / "2_Dense/config.json"
    write_json(path, read_json(path) | {"out_features": 3})
    with pytest.raises(StorageError, match=r"2_Dense: config\.json and model\.safetensors disagree on the shape"):
        read_modules(tmp_path)
