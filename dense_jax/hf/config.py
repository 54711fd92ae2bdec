"""Hugging Face's `config.json` of BERT, RoBERTa and XLM-R: read, written, and compared with a config."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dense_jax.errors import ConfigError, require
from dense_jax.hf.schemas import ModelConfig
from dense_jax.io import read_json
from dense_jax.models.bert import BertConfig, Family
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
# Transformers' defaults for keys that a file leaves out; the other keys have the same defaults in BertConfig.
_DEFAULTS = {"layers": 12, "width": 768, "heads": 12, "feed_forward": 3072, "vocab_size": 30_522}
_GELU = {  # if a function has several names, the last one is written
    "gelu_python": Gelu.ERF,
    "gelu": Gelu.ERF,
    "gelu_new": Gelu.TANH,
    "gelu_fast": Gelu.TANH,
    "gelu_accurate": Gelu.TANH,
    "gelu_pytorch_tanh": Gelu.TANH,
}
_FAMILIES = {family.value.replace("_", "-"): family for family in Family}
# Settings, except the vocabulary, that two models must share for one to start from the other.
ARCHITECTURE = ("family", "layers", "width", "heads", "feed_forward", "positions", "types", "epsilon", "gelu")
_PREPARE = "run `dense-jax prepare` with the same flags and another --workdir, which takes its tokenizer"
_REQUIRED_VALUES = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}


def read_config(folder: Path) -> BertConfig:
    """Return the architecture of the model in `folder`. A key without a value (null) counts as absent.

    Raises:
        ConfigError: config.json is missing or damaged, or its model family is unknown.
    """
    path = folder / "config.json"
    raw = {key: value for key, value in read_json(path, ModelConfig, ConfigError).items() if value is not None}
    kind: Any = raw.get("model_type")
    require(kind in _FAMILIES, f"{path}: model_type is {kind!r}; only {', '.join(_FAMILIES)} can be read")
    family = _FAMILIES[kind]
    pad = raw.get("pad_token_id", family.pad)
    require(family.pad in (None, pad), f"{path}: pad_token_id is {pad}; of {kind}, only {family.pad} can be read")
    for key, value in _REQUIRED_VALUES.items():
        require(raw.get(key, value) == value, f"{path}: {key} is {raw.get(key)!r}; only {value!r} can be read")
    activation = raw.get("hidden_act", "gelu")
    require(activation in _GELU, f"{path}: hidden_act is {activation!r}; only {', '.join(_GELU)} can be read")
    known: dict[str, Any] = _DEFAULTS | {name: raw[key] for name, key in _KEYS.items() if key in raw}
    return BertConfig(**known, family=family, gelu=_GELU[activation])


def config_json(config: BertConfig, architecture: str, pad: int, ends: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the contents of `config.json` for `config`; `pad` and `ends` are the ids of [PAD], and of [CLS], [SEP]."""
    activation = {gelu: name for name, gelu in _GELU.items()}[config.gelu]
    family = {family: name for name, family in _FAMILIES.items()}[config.family]
    return {
        "architectures": [architecture],
        "model_type": family,
        "hidden_act": activation,
        **{key: getattr(config, name) for name, key in _KEYS.items()},
        "pad_token_id": pad,
        **({"bos_token_id": ends[0], "eos_token_id": ends[1]} if ends else {}),
        "position_embedding_type": "absolute",
    }


def check_architecture(objective: Any, folder: Path) -> None:
    """Check every BertConfig in `objective` against the model in `folder`.

    Raises:
        ConfigError: they differ; each line names a difference and the flag that removes it.
    """
    _check(objective, read_config(folder), str(folder), _PREPARE)


def check_same_architecture(objective: Any, theirs: dict[str, Any], name: str) -> None:
    """Check every BertConfig in `objective` against the settings `theirs` (`config.tree.to_dict`) of the run `name`.

    Raises:
        ConfigError: they differ; each line names a difference and the flag that removes it.
    """
    for raw in _bert_dicts(theirs):
        named = {key: raw[key] for key in (*ARCHITECTURE, "vocab_size")}
        config = BertConfig(**named | {"family": Family(raw["family"]), "gelu": Gelu(raw["gelu"])})
        _check(objective, config, name, _PREPARE)


def architecture(config: BertConfig) -> dict[str, Any]:
    """Settings, except the vocabulary, that two models must share for one to start from the other."""
    return {name: getattr(config, name) for name in ARCHITECTURE}


def architecture_of_run(objective: dict[str, Any]) -> dict[str, Any]:
    """Return `architecture` of the first model in the settings of an objective (`config.tree.to_dict`)."""
    return {name: raw[name] for raw in [*_bert_dicts(objective)][:1] for name in ARCHITECTURE}


def check_padding(objective: Any, pad: int) -> None:
    """Check every BertConfig in `objective` against the tokenizer's id of padding.

    Raises:
        ConfigError: the model's family requires another id.
    """
    for path, bert in _bert_configs(objective, "objective"):
        require(
            bert.family.pad in (None, pad),
            f"{path}.family={bert.family.value} counts positions on from padding, whose id is {bert.family.pad}, but "
            f"the tokenizer's is {pad}; use the model's own tokenizer, --tokenizer.path=FOLDER, or for a new "
            f"model --{path}.family=bert",
        )


def _check(objective: Any, theirs: BertConfig, name: str, tokenizer: str) -> None:
    found = _bert_configs(objective, "objective")
    problems = [line for path, ours in found for line in _differences(ours, theirs, path, name, tokenizer)]
    require(not problems, "\n".join(problems))


def _differences(ours: BertConfig, theirs: BertConfig, path: str, folder: str, tokenizer: str) -> Iterator[str]:
    for name in ARCHITECTURE:
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
        if node.keys() >= {*ARCHITECTURE} - {"family"}:
            yield {"family": Family.BERT.value} | node  # a run that names no family is of BERT
        for value in node.values():
            yield from _bert_dicts(value)
