"""Settings that follow from the model of `init_from`, unless they are given explicitly.

    tokenizer.path             the tokenizer of init_from
    objective.encoder.bert.*   its architecture; objective.encoder.pooling and .normalize where it is a folder of
                               sentence-transformers, which declares them
    optimizer.learning_rate    optimizer.warm_start_rate

A run that has begun keeps its recorded settings: the model that it started from may be deleted.
"""

import contextlib
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
from dense_jax.errors import ConfigError
from dense_jax.hf.config import ARCHITECTURE, architecture, architecture_of_run, read_config
from dense_jax.hf.sentence_transformers import read_sentence_folder
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.train.same_run import recorded
from dense_jax.train.warm_start import parse_run, tokenizer_folder

ValueOf = Callable[[Setting], Any]  # a setting of a model -> the value that fits the start, or None


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
    of_model = _recorded_values(known) if known else _values(Path(start))

    def value(setting: Setting) -> Any:
        if setting.name == "tokenizer.path":
            return setting.value or (known["tokenizer"]["path"] if known else _tokenizer_path(start))
        if setting.name in given:
            return setting.value
        if setting.name == "optimizer.learning_rate":
            return config.optimizer.warm_start_rate or setting.value
        found = of_model(setting) if setting.owner in (BertConfig, Encoder) else None
        if found is None:
            return setting.value
        return type(setting.value)(found) if isinstance(setting.value, enum.Enum) else found

    found = rebuilt(config, value)
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


def _recorded_values(known: dict[str, Any]) -> ValueOf:
    def value(setting: Setting) -> Any:
        if setting.field not in (*ARCHITECTURE, "vocab_size", "pooling", "normalize"):
            return None
        found: Any = known
        for key in setting.name.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return value


def _values(start: Path) -> ValueOf:
    run = parse_run(start)
    values = architecture_of_run(run.config["objective"]) if run else _folder_values(start)
    return lambda setting: values.get(setting.field)


def _folder_values(folder: Path) -> dict[str, Any]:
    """Settings of the BERT of a Hugging Face folder, and those of the encoder that the folder declares."""
    if (folder / "modules.json").is_file():
        with contextlib.suppress(ConfigError):  # it has further modules, which are not loaded
            theirs = read_sentence_folder(folder).encoder
            return architecture(theirs.bert) | {"pooling": theirs.pooling, "normalize": theirs.normalize}
    return architecture(read_config(folder))
