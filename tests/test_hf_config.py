"""Hugging Face's config.json."""

import json

import pytest

from dense_jax.errors import ConfigError
from dense_jax.hf.config import read_config
from dense_jax.models.bert import BertConfig
from dense_jax.models.layers import Gelu
from tests.bert_folders import SMALL, write_config


def test_config_json_is_read_as_it_is_written(tmp_path):
    assert read_config(write_config(tmp_path)) == SMALL


@pytest.mark.parametrize(
    ("name", "gelu"),
    [
        ("gelu", Gelu.ERF),
        ("gelu_python", Gelu.ERF),
        ("gelu_new", Gelu.TANH),
        ("gelu_fast", Gelu.TANH),
        ("gelu_accurate", Gelu.TANH),
        ("gelu_pytorch_tanh", Gelu.TANH),
    ],
)
def test_both_forms_of_gelu_have_several_names(name, gelu, tmp_path):
    assert read_config(write_config(tmp_path, hidden_act=name)).gelu is gelu


def test_what_old_files_leave_out_has_berts_values(tmp_path):
    found = read_config(write_config(tmp_path, layer_norm_eps=None, type_vocab_size=None, hidden_act=None))
    assert (found.epsilon, found.types, found.gelu) == (1e-12, 2, Gelu.ERF)


@pytest.mark.parametrize(
    "key", ["position_embedding_type", "is_decoder", "hidden_act", "layer_norm_eps", "pad_token_id"]
)
def test_null_is_read_as_a_key_that_is_absent(key, tmp_path):
    folder = write_config(tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {key: None}))
    assert read_config(folder) == SMALL


def test_without_its_sizes_a_file_means_bert_base(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert read_config(tmp_path) == BertConfig(12, 768, 12, 3072, vocab_size=30_522)


def test_a_file_that_is_no_object_is_damaged(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json: damaged \(the value: .* it is a list of 0\)"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_type": "t5"}, ConfigError, "model_type is 't5'; only bert, roberta, xlm-roberta, modernbert, nomic"),
        (
            {"hidden_act": "relu"},
            ConfigError,
            "hidden_act is 'relu'; only gelu_python, gelu, gelu_new",
        ),
        (
            {"position_embedding_type": "relative_key"},
            ConfigError,
            "type is 'relative_key'; only 'absolute' can be",
        ),
        ({"is_decoder": True}, ConfigError, "is_decoder is True; only False can be read"),
        ({"pruned_heads": {"0": [1]}}, ConfigError, r"pruned_heads is \{'0': \[1\]\}; only \{\} can be read"),
        ({"hidden_size": "16"}, ConfigError, r"config\.json: damaged \(hidden_size: .* it is '16'\)"),
    ],
)
def test_another_kind_of_model_is_refused(change, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        read_config(write_config(tmp_path, **change))
