"""Settings that follow from the model of `init_from`, unless they are given explicitly.

    tokenizer.path             the tokenizer of init_from
    objective.encoder.bert     its model, of whatever family; objective.encoder.dense where it has such a layer, and
                               .pooling and .normalize where it is a folder of sentence-transformers; those of a run
                               are its method's, and the next method has its own
    objective.query_prompt     its prompts, and objective.passage_prompt, where it declares them and the config has none
    optimizer.learning_rate    optimizer.warm_start_rate

A run that has begun keeps its recorded settings: the model that it started from may be deleted.
"""

import dataclasses
import enum
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from dense_jax.config import Config
from dense_jax.config.settings import Setting
from dense_jax.config.tree import changed, rebuilt, to_dict
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import has_tokenizer, import_folder
from dense_jax.errors import ConfigError, require
from dense_jax.hf.config import architecture, models_of_run, read_config, transformer_folder
from dense_jax.hf.sentence_transformers import print_note, read_sentence_folder
from dense_jax.models.encoder import Encoder
from dense_jax.models.transformer import TransformerConfig
from dense_jax.train.same_run import recorded
from dense_jax.train.warm_start import parse_run, tokenizer_folder

_OF_ENCODERS = ("pooling", "normalize", "dense", "dense_tanh")
_PROMPTS = ("query_prompt", "passage_prompt", "pool_prompts")


class Start(NamedTuple):
    """The models that training starts from, and the settings of its encoder and of its prompts."""

    model: Callable[[str], TransformerConfig | None]  # of a path in the config
    value: Callable[[Setting], Any]  # of a setting of the encoder or the prompts; None: as it is


class Fitted(NamedTuple):
    """A config that fits its start, and a note on each changed setting."""

    config: Config
    notes: list[str]


def fitted(config: Config, given: Collection[str], workdir: Path) -> Fitted:
    """`config` with the settings that follow from `init_from`; the settings `given` explicitly stay.

    Raises:
        ConfigError: the family of the model is unknown, or other settings do not fit it.
        StorageError: `init_from` holds no model.
    """
    start = config.init_from or config.init_reader_from
    if not start:
        return Fitted(config, [])
    known = None if Path(start).exists() else recorded(workdir)
    theirs = _recorded_start(known) if known else _fresh_start(Path(start))

    def value(setting: Setting) -> Any:
        if setting.name == "tokenizer.path":
            return setting.value or (known["tokenizer"]["path"] if known else _tokenizer_path(start))
        if setting.name in given:
            return setting.value
        if setting.name == "optimizer.learning_rate":
            return config.optimizer.warm_start_rate or setting.value
        found = theirs.value(setting) if _is_adopted(setting) else None
        if found is None:
            return setting.value
        return type(setting.value)(found) if isinstance(setting.value, enum.Enum) else found

    def part(path: str, node: Any) -> Any:
        return _adopted(node, path, given, theirs.model(path)) if isinstance(node, TransformerConfig) else node

    found = rebuilt(config, value, part)
    lines = changed(to_dict(config), to_dict(found))
    return Fitted(
        found, [f"{line.name}={line.new}, which fits the start from {start}" for line in lines if line.new is not None]
    )


def start_vocabulary(config: Config) -> int:
    """The number of word vectors, padding included, of the Hugging Face folder of `init_from`; else 0."""
    start = config.init_from or config.init_reader_from
    folder = transformer_folder(Path(start))
    is_folder = start and parse_run(Path(start)) is None and (folder / "config.json").is_file()
    return read_config(folder).vocab_size if is_folder else 0


def check_tokenizer(config: Config) -> None:
    """Check that preparation uses the token ids of the model of `init_from`.

    Raises:
        ConfigError: the model has no tokenizer, and `tokenizer.path` is empty.
    """
    if config.init_from and not config.tokenizer.path:
        raise ConfigError(
            f"init_from={config.init_from} holds no tokenizer, and token ids of another one mean other words; name "
            "the folder of its tokenizer by --tokenizer.path=FOLDER"
        )


def check_token_ids(config: Config, tokenizer: Tokenizer) -> None:
    """
    Raises:
        ConfigError: the model of `init_from` or `init_reader_from` was trained on other ids than those of `tokenizer`.
    """
    for setting in ("init_from", "init_reader_from"):
        if not (path := getattr(config, setting)):
            continue
        folder = tokenizer_folder(path)
        if not has_tokenizer(folder):
            note = f"note: {folder} has no tokenizer; are the token ids of {setting} those of this run?"
            print(note, file=sys.stderr)
            continue
        theirs = import_folder(folder) if parse_run(Path(path)) is None else Tokenizer.load(folder)
        tokenizer.check_ids(theirs, f"{setting}={path}")


def _tokenizer_path(start: str) -> str:
    folder = tokenizer_folder(start)
    return str(folder) if has_tokenizer(folder) else ""


def _recorded_start(known: dict[str, Any]) -> Start:
    def at(path: str) -> Any:
        found: Any = known
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return Start(
        lambda path: next(models_of_run(at(path)), None),
        lambda setting: at(setting.name),
    )


def _fresh_start(start: Path) -> Start:
    if run := parse_run(start):
        model, value = next(models_of_run(run.config["objective"]), None), _lasting(_recorded_start(run.config).value)
    else:
        model, value = _folder_start(start)
    fresh = model and dataclasses.replace(model, vocab_size=0)  # the tokenizer's
    return Start(lambda path: fresh, value)


def _lasting(value: Callable[[Setting], Any]) -> Callable[[Setting], Any]:
    """`value` without pooling and normalisation."""
    return lambda setting: None if setting.field in ("pooling", "normalize") else value(setting)


def _folder_start(folder: Path) -> tuple[TransformerConfig, Callable[[Setting], Any]]:
    """The model of a Hugging Face folder, and the values of the settings that the folder declares."""
    model = read_config(transformer_folder(folder))
    if not (folder / "modules.json").is_file():
        return model, lambda setting: None
    try:
        theirs = read_sentence_folder(folder)
    except ConfigError as error:
        print_note(f"{error}; pooling, dense, normalisation and prompts stay those of the config")
        return model, lambda setting: None
    for note in theirs.notes:
        print_note(note)
    found = {name: getattr(theirs.encoder, name) for name in _OF_ENCODERS}
    prompts = (theirs.query_prompt, theirs.passage_prompt, theirs.pools_prompt)
    found |= dict(zip(_PROMPTS, prompts, strict=True))
    return model, lambda setting: found[setting.field]


def _is_adopted(setting: Setting) -> bool:
    """True for a setting that follows from the start. Prompts of the config's file stay."""
    if setting.name in (f"objective.{name}" for name in _PROMPTS):
        return setting.value == setting.default
    return setting.owner is Encoder and setting.field in _OF_ENCODERS


def _adopted(
    ours: TransformerConfig, path: str, given: Collection[str], theirs: TransformerConfig | None
) -> TransformerConfig:
    """`theirs` with what `ours` says on the computation and, in the same family, on dropout; and with what is `given`.

    Raises:
        ConfigError: a `given` setting is unknown in their family.
    """
    if theirs is None:
        return ours
    kept = {setting.name for setting in dataclasses.fields(ours) if setting.metadata}
    if type(ours) is type(theirs):
        kept |= {setting.name for setting in dataclasses.fields(ours)} - architecture(ours).keys()
    chosen = {name.removeprefix(f"{path}.") for name in given if name.startswith(f"{path}.")}
    unknown = chosen - {setting.name for setting in dataclasses.fields(theirs)}
    require(
        not unknown,
        f"{path}.{min(unknown, default='')} does not fit the model to start from, a {type(theirs).__name__}; "
        "leave the flag out",
    )
    changes = {name: getattr(ours, name) for name in kept | chosen}
    return dataclasses.replace(theirs, **changes | {"vocab_size": ours.vocab_size or theirs.vocab_size})
