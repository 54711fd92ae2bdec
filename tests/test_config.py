"""The configuration tree: rules, the vocabulary size, and what two runs differ in."""

import pytest

from dense_jax.config import Config, MeshConfig, OptimizerConfig, checked, differences, to_dict, with_vocabulary
from dense_jax.errors import ConfigError
from tests.toys import BagOfTokens, MeanEmbedding


def config(**settings) -> Config:
    return Config(**({"objective": BagOfTokens(), "steps": 10, "batch": 8} | settings))


def test_checked_sees_values_that_were_set_after_construction():
    broken = config()
    broken.optimizer.clip = -1.0
    with pytest.raises(ConfigError, match=r"optimizer.clip=-1.0 must not be negative"):
        checked(broken)


def test_checked_returns_an_equal_tree():
    assert checked(config()) == config()


def test_a_vocabulary_size_of_zero_is_taken_from_the_tokenizer():
    open_size = config(objective=BagOfTokens(encoder=MeanEmbedding(vocab_size=0)))
    assert with_vocabulary(open_size.objective, 123).encoder.vocab_size == 123


def test_a_vocabulary_padded_by_the_user_is_kept():
    padded = BagOfTokens(encoder=MeanEmbedding(vocab_size=128))
    assert with_vocabulary(padded, 123).encoder.vocab_size == 128


def test_a_model_too_small_for_the_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=100 is smaller than the tokenizer's vocabulary of 123; use 0"):
        with_vocabulary(BagOfTokens(encoder=MeanEmbedding(vocab_size=100)), 123)


def test_differences_name_the_settings_and_both_values():
    old = to_dict(config())
    new = to_dict(config(batch=16, optimizer=OptimizerConfig(learning_rate=3e-4)))
    assert list(differences(old, new)) == ["batch: 8 -> 16", "optimizer.learning_rate: 0.0001 -> 0.0003"]


def test_a_saved_config_is_plain_json_and_enums_are_their_values():
    assert to_dict(config())["loader"]["order"] == "locality"
    assert to_dict(config(mesh=MeshConfig(2, 4)))["mesh"] == {"data": 2, "fsdp": 4}
