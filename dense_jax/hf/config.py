"""Hugging Face's `config.json` of a model: read, written, and compared with a config."""

import dataclasses
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dense_jax.errors import ConfigError, require
from dense_jax.hf.families import FAMILIES, GELU, ModelFamily, family_of
from dense_jax.hf.schemas import ModelConfig, Module, Modules
from dense_jax.io import read_json
from dense_jax.models.transformer import TransformerConfig, named_model_configs

_OF_EACH_RUN = ("vocab_size", "dropout", "attention_dropout", "initializer")  # may differ where one starts from another
_PREPARE = "run `dense-jax prepare` with the same flags and another --workdir, which takes its tokenizer"


def read_config(folder: Path) -> TransformerConfig:
    """Return the architecture of the model in `folder`. A key without a value (null) counts as absent.

    Raises:
        ConfigError: config.json is missing or damaged, its model family is unknown, or a value cannot be read.
    """
    path = folder / "config.json"
    raw = {key: value for key, value in read_json(path, ModelConfig, ConfigError).items() if value is not None}
    kind: Any = raw.get("model_type")
    require(kind in FAMILIES, f"{path}: model_type is {kind!r}; only {', '.join(FAMILIES)} can be read")
    family = FAMILIES[kind]
    try:
        _check_required(raw, family)
        config = family.config(**_settings_in(raw, family))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    pad = raw.get("pad_token_id", config.pad)
    require(config.pad in (None, pad), f"{path}: pad_token_id is {pad}; of {kind}, only {config.pad} can be read")
    return config


def module_chain(folder: Path) -> list[Module]:
    """Return the modules of a sentence-transformers folder; none if it has no modules.json.

    Raises:
        ConfigError: modules.json is damaged, or a module lies outside of the folder.
    """
    path = folder / "modules.json"
    chain = read_json(path, Modules, ConfigError) if path.is_file() else []
    for entry in chain:
        place = Path(entry["path"])
        require(
            not place.is_absolute() and ".." not in place.parts, f"{path}: {entry['path']} is outside of the folder"
        )
    return chain


def module_folder(folder: Path, kind: str) -> Path | None:
    """Return the sub-folder of the first module of `kind`, such as Dense, of a sentence-transformers folder.

    None if the folder names no such module, or has no modules.json.

    Raises:
        ConfigError: modules.json is damaged, or a module lies outside of the folder.
    """
    found = (entry["path"] for entry in module_chain(folder) if entry["type"].endswith(f".{kind}"))
    return next((folder / place for place in found), None)


def transformer_folder(folder: Path) -> Path:
    """Return the folder of the transformer and its tokenizer: `folder`, or one in it that modules.json names."""
    return module_folder(folder, "Transformer") or folder


def _settings_in(raw: dict[str, Any], family: ModelFamily) -> dict[str, Any]:
    given = {name: next((raw[key] for key in keys if key in raw), None) for name, keys in family.keys.items()}
    found = {**family.defaults, **{name: value for name, value in given.items() if value is not None}}
    gelu = {"gelu": GELU[raw.get(family.activation, "gelu")]} if family.activation else {}
    return found | family.read(raw) | gelu | dict(family.settings)


def _check_required(raw: dict[str, Any], family: ModelFamily) -> None:
    for key, allowed in {**family.required, **({family.activation: tuple(GELU)} if family.activation else {})}.items():
        value = raw.get(key, allowed[0])
        only = ", ".join(GELU) if key == family.activation else " or ".join(map(repr, allowed))
        require(value in allowed, f"{key} is {value!r}; only {only} can be read")


def config_json(
    config: TransformerConfig, architecture: str, pad: int, ends: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return the contents of `config.json` for `config`; `pad` and `ends` are the ids of [PAD], and of [CLS], [SEP]."""
    model_type, family = family_of(config)
    names = {gelu: name for name, gelu in GELU.items()}
    activation = {family.activation: names[getattr(config, "gelu")]} if family.activation else {}  # noqa: B009
    return {
        "architectures": [architecture],
        "model_type": model_type,
        **activation,
        **{keys[0]: getattr(config, name) for name, keys in family.keys.items() if hasattr(config, name)},
        "pad_token_id": pad,
        **({"bos_token_id": ends[0], "eos_token_id": ends[1]} if ends else {}),
        **family.write(config),
    }


def check_architecture(objective: Any, folder: Path) -> TransformerConfig:
    """Check every transformer in `objective` against the model in `folder`, which is returned.

    Raises:
        ConfigError: they differ; each line names a difference and the flag that removes it.
    """
    theirs = read_config(folder)
    _check(objective, theirs, str(folder), _PREPARE)
    return theirs


def check_same_architecture(objective: Any, theirs: dict[str, Any], name: str) -> None:
    """Check every transformer in `objective` against the settings `theirs` (`config.tree.to_dict`) of the run `name`.

    Raises:
        ConfigError: they differ; each line names a difference and the flag that removes it.
    """
    for config in models_of_run(theirs):
        _check(objective, config, name, _PREPARE)


def architecture(config: TransformerConfig) -> dict[str, Any]:
    """Settings, except the vocabulary, that two models must share for one to start from the other."""
    return {
        setting.name: getattr(config, setting.name)
        for setting in dataclasses.fields(config)
        if not setting.metadata and setting.name not in _OF_EACH_RUN
    }


def models_of_run(recorded: Any) -> Iterator[TransformerConfig]:
    """Yield the transformers in the settings of an objective (`config.tree.to_dict`)."""
    if not isinstance(recorded, dict):
        return
    kinds = {family.config.__name__: family.config for family in FAMILIES.values()}
    if kind := kinds.get(recorded.get("class", "")):
        defaults = {setting.name: setting.default for setting in dataclasses.fields(kind)}
        values: dict[str, Any] = {name: value for name, value in recorded.items() if name in defaults}
        for name, default in defaults.items():
            if name in values and isinstance(default, enum.Enum):
                values[name] = type(default)(values[name])
        yield kind(**values)
    for value in recorded.values():
        yield from models_of_run(value)


def check_padding(objective: Any, pad: int) -> None:
    """Check every transformer in `objective` against the tokenizer's id of padding.

    Raises:
        ConfigError: the model's family requires another id.
    """
    for path, model in named_model_configs(objective, "objective"):
        require(
            model.pad in (None, pad),
            f"{path} is of the family {family_of(model)[0]}, which counts positions on from padding, whose id is "
            f"{model.pad}, but the tokenizer's is {pad}; use the model's own tokenizer, --tokenizer.path=FOLDER, or "
            f"for a new model --{path}.family=bert",
        )


def _check(objective: Any, theirs: TransformerConfig, name: str, tokenizer: str) -> None:
    found = named_model_configs(objective, "objective")
    problems = [line for path, ours in found for line in _differences(ours, theirs, path, name, tokenizer)]
    require(not problems, "\n".join(problems))


def _differences(
    ours: TransformerConfig, theirs: TransformerConfig, path: str, folder: str, tokenizer: str
) -> Iterator[str]:
    if type(ours) is not type(theirs):
        kinds = [family_of(config)[0] for config in (ours, theirs)]
        yield f"{path} is a {kinds[0]}, but {folder} holds a {kinds[1]}; use --init_from={folder}, or another model"
        return
    for name in architecture(ours):
        a, b = (getattr(side, name) for side in (ours, theirs))
        if a != b:
            a, b = (getattr(value, "value", value) for value in (a, b))
            yield f"{path}.{name}={a}, but {folder} has {b}; use --{path}.{name}={b}"
    if ours.vocab_size < theirs.vocab_size:
        yield (
            f"{path}.vocab_size={ours.vocab_size} is smaller than the {theirs.vocab_size} of {folder}, whose token ids "
            f"mean other words then; {tokenizer}"
        )
