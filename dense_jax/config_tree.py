"""What is done to a config as a whole: checked, fitted to a tokenizer, recorded, compared, made fit to be published."""

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dense_jax.config import Config, PrepareConfig, require
from dense_jax.config.rules import own_settings
from dense_jax.errors import ConfigError


def checked(config: Config) -> Config:
    """`config` rebuilt bottom up, so that every field's rule and every `__post_init__` has seen the final values.

    Raises:
        ConfigError: with one line per broken rule, all of them at once.
    """
    problems: list[str] = []
    rebuilt = _rebuilt(config, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return rebuilt


def _rebuilt(node: Any, problems: list[str], path: str = "") -> Any:
    parts = {f.name: v for f in dataclasses.fields(node) if is_node(v := getattr(node, f.name))}
    children = {name: _rebuilt(part, problems, f"{path}{name}.") for name, part in parts.items()}
    if broken := [problem for setting in own_settings(node, path) if (problem := setting.problem())]:
        problems.extend(broken)
        return node  # the rules between its settings take for granted that each keeps its own
    try:
        return dataclasses.replace(node, **children)
    except ConfigError as error:
        problems.append(str(error))
        return node


def with_vocabulary(node: Any, size: int) -> Any:
    """`node` with every `vocab_size` of its tree that is 0 set to `size`, the tokenizer's.

    Raises:
        ConfigError: a model's own vocabulary is smaller than the tokenizer's, whose ids it could not embed.
    """
    changes = {
        f.name: with_vocabulary(v, size) for f in dataclasses.fields(node) if is_node(v := getattr(node, f.name))
    }
    own = getattr(node, "vocab_size", None)
    if own is not None:
        require(
            own == 0 or own >= size, f"vocab_size={own} is smaller than the tokenizer's vocabulary of {size}; use 0"
        )
        changes["vocab_size"] = own or size
    return dataclasses.replace(node, **changes)


def without_folders(config: Config) -> Config:
    """`config` with the last part of each path to a folder or file: what may be published of it."""
    last = lambda path: path.rstrip("/").rpartition("/")[2]  # noqa: E731
    return replace(
        config,
        init_from=last(config.init_from),
        init_reader_from=last(config.init_reader_from),
        corpus=replace(
            config.corpus,
            source=last(config.corpus.source),
            also=tuple(map(last, config.corpus.also)),
            queries=tuple(map(last, config.corpus.queries)),
            guide=last(config.corpus.guide),
            questions=last(config.corpus.questions),
        ),
        tokenizer=replace(config.tokenizer, path=last(config.tokenizer.path)),
        passages=replace(config.passages, workdir=last(config.passages.workdir)),
        prepare=PrepareConfig(),  # projects and buckets
        spans=replace(config.spans, answers=last(config.spans.answers), precomputed=last(config.spans.precomputed)),
        embed=replace(config.embed, collection=last(config.embed.collection)),
        probe=replace(config.probe, folder=last(config.probe.folder)),
        answer=replace(config.answer, questions=last(config.answer.questions)),
        evaluate=replace(config.evaluate, folder=last(config.evaluate.folder)),
    )


def is_node(value: Any) -> bool:
    """Whether `value` is a part of the tree that has settings of its own."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def to_dict(node: Any) -> dict[str, Any]:
    """The tree as JSON values; a method is named by its class."""
    named = {"class": name} if (name := _method(node)) else {}
    return named | {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}


def completed(recorded: dict[str, Any], node: Any) -> dict[str, Any]:
    """`recorded`, a result of `to_dict`, with the defaults of those settings of `node`'s classes that it lacks.

    Where it names another method, that part is left as it is.
    """
    found = dict(recorded)
    for setting in dataclasses.fields(node):
        name, value = setting.name, getattr(node, setting.name)
        if name not in found:
            if setting.default_factory is not dataclasses.MISSING:
                found[name] = _plain(setting.default_factory())
            elif setting.default is not dataclasses.MISSING:
                found[name] = _plain(setting.default)
        elif is_node(value) and isinstance(found[name], dict) and found[name].get("class") == _method(value):
            found[name] = completed(found[name], value)
    return found


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> Iterator[str]:
    """One line `key: old -> new` for each setting that differs between two results of `to_dict`."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{path}{key}.")
        elif a != b:
            yield f"{path}{key}: {a} -> {b}"


def _method(node: Any) -> str | None:
    """The name of a method's class; None for other parts of the tree."""
    return type(node).__name__ if type(node).__module__.startswith("dense_jax.objectives") else None


def _plain(value: Any) -> Any:
    if is_node(value):
        return to_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
