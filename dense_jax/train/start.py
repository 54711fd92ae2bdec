"""Settings that follow from the model of `init_from`, unless they are given explicitly.

    tokenizer.path             the tokenizer of init_from
    objective.encoder.bert.*   its architecture; objective.encoder.pooling and .normalize where it is a folder of
                               sentence-transformers, which declares them
    optimizer.learning_rate    optimizer.warm_start_rate

A run that has begun keeps its recorded settings: the model that it started from may be deleted.
"""

import contextlib
import dataclasses
import enum
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from dense_jax.config import Config
from dense_jax.config.tree import changed, checked, is_node, to_dict
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import has_tokenizer, import_folder
from dense_jax.errors import ConfigError
from dense_jax.hf.config import architecture, architecture_of_run, read_config
from dense_jax.hf.sentence_transformers import read_sentence_folder
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.train.same_run import recorded
from dense_jax.train.warm_start import parse_run, tokenizer_folder

Values = Callable[[str, Any], dict[str, Any]]  # path and node of a part of the objective -> the settings it is to have


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
    values = _recorded_values(known) if known else _values(Path(start))
    changes: dict[str, Any] = {"objective": _adopted(config.objective, "objective.", given, values)}
    rate = config.optimizer.warm_start_rate
    if rate and "optimizer.learning_rate" not in given:
        changes["optimizer"] = dataclasses.replace(config.optimizer, learning_rate=rate)
    if not config.tokenizer.path:
        path = known["tokenizer"]["path"] if known else _tokenizer_path(start)
        changes["tokenizer"] = dataclasses.replace(config.tokenizer, path=path)
    found = checked(dataclasses.replace(config, **changes))
    lines = changed(to_dict(config), to_dict(found))
    return Fitted(found, [f"{line.name}={line.new}, which fits the start from {start}" for line in lines])


def start_vocabulary(config: Config) -> int:
    """The number of word vectors, padding included, of the Hugging Face folder of `init_from`; else 0."""
    folder = Path(config.init_from or config.init_reader_from)
    is_folder = folder != Path() and parse_run(folder) is None and (folder / "config.json").is_file()
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


def _recorded_values(known: dict[str, Any]) -> Values:
    def values(path: str, node: Any) -> dict[str, Any]:
        found: Any = known
        for key in path.rstrip(".").split("."):
            found = found.get(key, {}) if isinstance(found, dict) else {}
        names = [*architecture(node), "vocab_size"] if isinstance(node, BertConfig) else ["pooling", "normalize"]
        return {name: found[name] for name in names if name in found}

    return values


def _values(start: Path) -> Values:
    if run := parse_run(start):
        bert, encoder = architecture_of_run(run.config["objective"]), {}
    else:
        bert, encoder = _folder_values(start)
    return lambda path, node: bert if isinstance(node, BertConfig) else encoder


def _folder_values(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the BERT of a Hugging Face folder, and settings of the encoder that the folder declares."""
    if (folder / "modules.json").is_file():
        with contextlib.suppress(ConfigError):  # it has further modules, which are not loaded
            theirs = read_sentence_folder(folder).encoder
            return architecture(theirs.bert), {"pooling": theirs.pooling, "normalize": theirs.normalize}
    return architecture(read_config(folder)), {}


def _adopted(node: Any, path: str, given: Collection[str], values: Values) -> Any:
    changes = {
        field.name: _adopted(value, f"{path}{field.name}.", given, values)
        for field in dataclasses.fields(node)
        if is_node(value := getattr(node, field.name))
    }
    if isinstance(node, BertConfig | Encoder):
        for name, value in values(path, node).items():
            if f"{path}{name}" not in given:
                ours = getattr(node, name)
                changes[name] = type(ours)(value) if isinstance(ours, enum.Enum) else value
    return dataclasses.replace(node, **changes)
