"""Hugging Face's config.json."""

import pytest

from dense_jax.errors import ConfigError, StorageError
from dense_jax.models.hf_config import read_config
from dense_jax.models.layers import Gelu
from tests.bert_folders import SMALL, write_config


def test_config_json_is_read_as_it_is_written(tmp_path):
    assert read_config(write_config(tmp_path)) == SMALL


@pytest.mark.parametrize(
    ("name", "gelu"), [("gelu", Gelu.ERF), ("gelu_new", Gelu.TANH), ("gelu_pytorch_tanh", Gelu.TANH)]
)
def test_both_forms_of_gelu_have_their_names(name, gelu, tmp_path):
    assert read_config(write_config(tmp_path, hidden_act=name)).gelu is gelu


def test_what_old_files_leave_out_has_berts_values(tmp_path):
    found = read_config(write_config(tmp_path, layer_norm_eps=None, type_vocab_size=None, hidden_act=None))
    assert (found.epsilon, found.types, found.gelu) == (1e-12, 2, Gelu.ERF)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_type": "t5"}, ConfigError, "model_type is 't5'; only bert, roberta, xlm-roberta can be read"),
        (
            {"hidden_act": "relu"},
            ConfigError,
            "hidden_act is 'relu'; only gelu, gelu_new, gelu_py",
        ),
        (
            {"position_embedding_type": "relative_key"},
            ConfigError,
            "type is 'relative_key'; only 'absolute' can be",
        ),
        ({"is_decoder": True}, ConfigError, "is_decoder is True; only False can be read"),
        ({"hidden_size": None, "vocab_size": None}, StorageError, "has no hidden_size, vocab_size"),
    ],
)
def test_another_kind_of_model_is_refused(change, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        read_config(write_config(tmp_path, **change))
