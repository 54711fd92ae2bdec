"""Operations on a config as a whole: checked, fitted to a tokenizer, recorded, compared, made fit to be published."""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

from dense_jax.config import Config, require
from dense_jax.config.rules import Setting, own_settings, settings
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
    """The part of `config` that may be published: the last part of each path, and nothing that is private."""
    return _published(config, {setting.name: setting for setting in settings(config)})


def _published(node: Any, known: dict[str, Setting], path: str = "") -> Any:
    changes = {}
    for field in dataclasses.fields(node):
        name, value = f"{path}{field.name}", getattr(node, field.name)
        if is_node(value):
            changes[field.name] = _published(value, known, f"{name}.")
        elif "private" in known[name].marks:
            changes[field.name] = field.default
        elif known[name].place:
            changes[field.name] = tuple(map(_last, value)) if isinstance(value, tuple) else _last(value)
    return dataclasses.replace(node, **changes)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def is_node(value: Any) -> bool:
    """True if `value` is a part of the tree that has settings of its own."""
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


class Difference(NamedTuple):
    """A setting that differs between two results of `to_dict`."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.old} -> {self.new}"


def changed(old: dict[str, Any], new: dict[str, Any], path: str = "") -> Iterator[Difference]:
    """The settings that differ between two results of `to_dict`."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from changed(a, b, f"{path}{key}.")
        elif a != b:
            yield Difference(f"{path}{key}", a, b)


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> Iterator[str]:
    """One line `key: old -> new` for each setting that differs between two results of `to_dict`."""
    return map(str, changed(old, new, path))


def _method(node: Any) -> str | None:
    """The name of a method's class; None for other parts of the tree."""
    return type(node).__name__ if type(node).__module__.startswith("dense_jax.objectives") else None


def _plain(value: Any) -> Any:
    if is_node(value):
        return to_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
