"""Operations on a whole config: check, rebuild, set the vocabulary size, record, compare, publish."""

import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from dense_jax.config import Config
from dense_jax.config.places import in_full
from dense_jax.config.settings import Setting, fields_of
from dense_jax.errors import ConfigError, require

Node = TypeVar("Node")  # a config, or a part of one that has settings of its own


def checked(config: Config) -> Config:
    """`config` rebuilt bottom up, so that every field's rule and every `__post_init__` has seen the final values.

    Raises:
        ConfigError: with one line per broken rule, all of them at once.
    """
    return rebuilt(config, lambda setting: setting.value)


def rebuilt(
    node: Node, value: Callable[[Setting], Any], part: Callable[[str, Any], Any] = lambda path, node: node
) -> Node:
    """`node` rebuilt bottom up, each of its leaves with what `value` returns for it. The one walk over a config tree.

    Each part is then replaced by what `part` returns for its path, such as objective.encoder, and itself.

    Raises:
        ConfigError: with one line per broken rule, all of them at once.
    """
    problems: list[str] = []
    found = _rebuilt(node, value, part, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _rebuilt(
    node: Any,
    value: Callable[[Setting], Any],
    part: Callable[[str, Any], Any],
    problems: list[str],
    path: str = "",
    marks: frozenset[str] = frozenset(),
) -> Any:
    fields = list(fields_of(node, path, marks))
    nodes = [each for each in fields if is_node(each.value)]
    changes = {each.field: _rebuilt(each.value, value, part, problems, f"{each.name}.", each.marks) for each in nodes}
    leaves = [dataclasses.replace(each, value=value(each)) for each in fields if not is_node(each.value)]
    if broken := [problem for leaf in leaves if (problem := leaf.problem())]:
        problems.extend(broken)
        return node  # the rules between its settings take for granted that each keeps its own
    try:
        found = dataclasses.replace(node, **changes, **{leaf.field: leaf.value for leaf in leaves})
        return part(path.rstrip("."), found)
    except ConfigError as error:
        problems.append(str(error))
        return node


def with_vocabulary(node: Node, size: int) -> Node:
    """`node` with every `vocab_size` of its tree that is 0 set to `size`, the tokenizer's.

    Raises:
        ConfigError: a model's own vocabulary is smaller than the tokenizer's, whose ids it could not embed.
    """

    def value(setting: Setting) -> Any:
        if setting.field != "vocab_size":
            return setting.value
        own = setting.value
        fits = own == 0 or own >= size
        require(fits, f"vocab_size={own} is smaller than the tokenizer's vocabulary of {size}; use 0")
        return own or size

    return rebuilt(node, value)


def with_full_paths(config: Config) -> Config:
    """`config` with every path of this machine in full: it means the same from any folder."""
    return rebuilt(config, lambda setting: in_full(setting.value) if setting.place else setting.value)


def without_folders(config: Config) -> Config:
    """The part of `config` that may be published: the last part of each path, and nothing that is private."""
    return rebuilt(config, _public_value)


def _public_value(setting: Setting) -> Any:
    value = setting.value
    if "private" in setting.marks:
        return setting.default
    if not setting.place:
        return value
    return tuple(map(_last, value)) if isinstance(value, tuple) else _last(value)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def is_node(value: Any) -> bool:
    """True for a part of the tree with settings of its own."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def to_dict(node: Any) -> dict[str, Any]:
    """The tree as JSON values; a method, an encoder and its model have their class names under `class`."""
    named = {"class": name} if (name := _chosen(node)) else {}
    return named | {f.name: _as_json(getattr(node, f.name)) for f in dataclasses.fields(node)}


def completed(recorded: dict[str, Any], node: Any) -> dict[str, Any]:
    """`recorded`, a result of `to_dict`, with the defaults of those settings of `node`'s classes that it lacks.

    Where it names another method, that part is left as it is.
    """
    found = dict(recorded)
    for setting in dataclasses.fields(node):
        name, value = setting.name, getattr(node, setting.name)
        if name not in found:
            if setting.default_factory is not dataclasses.MISSING:
                found[name] = _as_json(setting.default_factory())
            elif setting.default is not dataclasses.MISSING:
                found[name] = _as_json(setting.default)
        elif is_node(value) and isinstance(found[name], dict) and found[name].get("class") == _chosen(value):
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


def _chosen(node: Any) -> str | None:
    """The name of the class of a part that is one of several, such as a method; None for other parts of the tree."""
    home = type(node).__module__
    return type(node).__name__ if home.startswith(("dense_jax.objectives", "dense_jax.models")) else None


def _as_json(value: Any) -> Any:
    if is_node(value):
        return to_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
