"""Hugging Face's `config.json` of a BERT, both ways, and whether it describes our model."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dense_jax.config import require
from dense_jax.errors import StorageError
from dense_jax.files import read_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.layers import Gelu

_KEYS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "vocab_size": "vocab_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "epsilon": "layer_norm_eps",
    "initializer": "initializer_range",
}
_NEEDED = ("layers", "width", "heads", "feed_forward", "vocab_size")  # the others have the same defaults there and here
_GELU = {"gelu": Gelu.ERF, "gelu_new": Gelu.TANH, "gelu_pytorch_tanh": Gelu.TANH}
_ARCHITECTURE = ("layers", "width", "heads", "feed_forward", "positions", "types", "epsilon", "gelu")
_REQUIRED_VALUES = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


def read_config(folder: Path) -> BertConfig:
    """The model that `folder` holds.

    Raises:
        ConfigError: it is not a BERT encoder.
        StorageError: config.json is missing, damaged or incomplete.
    """
    path = folder / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    require(kind == "bert", f"{path}: model_type is {kind!r}; only 'bert' can be read")
    for key, value in _REQUIRED_VALUES.items():
        require(raw.get(key, value) == value, f"{path}: {key} is {raw.get(key)!r}; only {value!r} can be read")
    activation = raw.get("hidden_act", "gelu")
    require(activation in _GELU, f"{path}: hidden_act is {activation!r}; only {', '.join(_GELU)} can be read")
    if missing := [_KEYS[name] for name in _NEEDED if _KEYS[name] not in raw]:
        raise StorageError(f"{path}: has no {', '.join(missing)}")
    return BertConfig(**{name: raw[key] for name, key in _KEYS.items() if key in raw}, gelu=_GELU[activation])


def config_json(config: BertConfig, architecture: str, pad: int) -> dict[str, Any]:
    """The value of `config.json` for `config`; `pad` is the id of the padding token."""
    activation = {gelu: name for name, gelu in _GELU.items()}[config.gelu]
    return {
        "architectures": [architecture],
        "model_type": "bert",
        "hidden_act": activation,
        **{key: getattr(config, name) for name, key in _KEYS.items()},
        "pad_token_id": pad,
        "position_embedding_type": "absolute",
    }


def check_architecture(objective: Any, folder: Path) -> None:
    """Checks every BertConfig among the settings of `objective` against the model in `folder`.

    Raises:
        ConfigError: with one line for each difference, and the flag that ends it.
    """
    _check(objective, read_config(folder), str(folder), f"use its tokenizer, --config.tokenizer.path={folder}")


def check_same_architecture(objective: Any, theirs: dict[str, Any], name: str) -> None:
    """The same against the settings of another objective, as `config.to_dict` gives them; `name` is where it is.

    Raises:
        ConfigError: with one line for each difference, and the flag that ends it.
    """
    for raw in _bert_dicts(theirs):
        named = {key: raw[key] for key in (*_ARCHITECTURE, "vocab_size") if key != "gelu"}
        config = BertConfig(**named, gelu=Gelu(raw["gelu"]))
        _check(objective, config, name, f"use its passages and tokenizer, --config.passages.workdir={name}")


def _check(objective: Any, theirs: BertConfig, name: str, tokenizer: str) -> None:
    found = _bert_configs(objective, "config.objective")
    problems = [line for path, ours in found for line in _differences(ours, theirs, path, name, tokenizer)]
    require(not problems, "\n".join(problems))


def _differences(ours: BertConfig, theirs: BertConfig, path: str, folder: str, tokenizer: str) -> Iterator[str]:
    for name in _ARCHITECTURE:
        a, b = (getattr(side, name) for side in (ours, theirs))
        if a != b:
            a, b = (getattr(value, "value", value) for value in (a, b))
            yield f"{path}.{name}={a}, but {folder} has {b}; use --{path}.{name}={b}"
    if ours.vocab_size < theirs.vocab_size:
        yield (
            f"{path}.vocab_size={ours.vocab_size} is smaller than the {theirs.vocab_size} of {folder}, whose token ids "
            f"mean other words then; {tokenizer}"
        )


def _bert_configs(node: Any, path: str) -> Iterator[tuple[str, BertConfig]]:
    if isinstance(node, BertConfig):
        yield path, node
    elif dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            yield from _bert_configs(getattr(node, field.name), f"{path}.{field.name}")


def _bert_dicts(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.keys() >= {*_ARCHITECTURE}:
            yield node
        for value in node.values():
            yield from _bert_dicts(value)
