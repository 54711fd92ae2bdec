"""The config that a workdir remembers, in WORKDIR/settings.json: later verbs need nothing but the workdir.

It is the config as a verb was called with it, before anything is fitted to data; what identifies a trained run is
recorded by train/same_run.py. Reading it runs no code but that of this package: a class is found by its name where it
is one of dense_jax, and refused where it is not.
"""

import dataclasses
import enum
import importlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dense_jax.config import Config
from dense_jax.config.files import in_full_by_path
from dense_jax.config.overrides import LoadedConfig
from dense_jax.config.settings import fields_of
from dense_jax.config.tree import checked, is_node, with_full_paths
from dense_jax.errors import ConfigError, StorageError, require
from dense_jax.io import Settings, is_written, read_json, write_json

FILE = "settings.json"
_OURS = re.compile(r"(?P<module>dense_jax(\.\w+)+):(?P<name>\w+)")


class RememberedConfig(TypedDict):
    """Content of settings.json."""

    config: str
    given: list[str]
    settings: Settings


def is_remembered(workdir: Path) -> bool:
    """True if a verb recorded its config in `workdir`."""
    return is_written(workdir / FILE)


def remember(loaded: LoadedConfig, workdir: Path) -> None:
    """Writes a config to `workdir`, its paths in full.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(workdir / FILE, _value(loaded))


def remembers_settings(loaded: LoadedConfig, workdir: Path) -> bool:
    """True if `workdir` remembers the settings of `loaded`, whatever their config is called."""
    if not is_remembered(workdir):
        return False
    return read_json(workdir / FILE, RememberedConfig)["settings"] == _value(loaded)["settings"]


def recall_config(workdir: Path) -> LoadedConfig:
    """The config that `remember` wrote.

    Raises:
        ConfigError: it has a class that is not of dense_jax, or a setting that this version lacks, or breaks a rule.
        StorageError: the file is damaged.
    """
    known = read_json(workdir / FILE, RememberedConfig)
    again = f"name it again, by --config={known['config'] or 'FILE'} and its flags"
    try:
        config = checked(_built(known["settings"], Config, "", again))
    except ConfigError as error:
        raise ConfigError(f"{workdir / FILE}: {error}") from None
    except StorageError as error:
        raise StorageError(f"{workdir / FILE}: {error}") from None
    return LoadedConfig(known["config"], config, frozenset(known["given"]))


def _value(loaded: LoadedConfig) -> dict[str, Any]:
    about = {"config": in_full_by_path(loaded.name), "given": sorted(loaded.given)}
    return about | {"settings": _recorded(with_full_paths(loaded.config), Config)}


def _recorded(node: Any, expected: Any) -> dict[str, Any]:
    """The tree as JSON values, with the class of each node that is not of the class that its field declares."""
    owner = type(node)
    named = {} if owner is expected else {"class": f"{owner.__module__}:{owner.__qualname__}"}
    return named | {field.field: _json_value(field.value, field.type) for field in fields_of(node)}


def _json_value(value: Any, expected: Any) -> Any:
    if is_node(value):
        return _recorded(value, expected)
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _built(tree: dict[str, Any], expected: Any, path: str, again: str) -> Any:
    """The node that `_recorded` made `tree` of."""
    owner = _class(tree["class"], path, again) if "class" in tree else expected
    fields = {field.field: field for field in fields_of(owner, path)}
    if unknown := [name for name in tree if name not in fields and name != "class"]:
        raise ConfigError(f"{path}{unknown[0]} is no setting of this version of dense_jax; {again}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            value = tree[name]
            inner = isinstance(value, dict)
            values[name] = _built(value, field.type, f"{field.name}.", again) if inner else _leaf(value, field)
        elif field.default is dataclasses.MISSING and not dataclasses.is_dataclass(field.type):
            raise StorageError(f"damaged ({field.name} is missing); {again}")
    return owner(**values)


def _class(name: Any, path: str, again: str) -> type:
    """
    Raises:
        ConfigError: `name` names no class of settings in this package.
    """
    place = path.removesuffix(".")
    matched = _OURS.fullmatch(str(name))
    require(bool(matched), f"{place} is {name}, a class that is not of dense_jax; {again}")
    assert matched is not None
    try:
        found = getattr(importlib.import_module(matched["module"]), matched["name"], None)
    except ImportError:
        found = None
    ours = isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == matched["module"]
    require(ours, f"{place} is {name}, which this version of dense_jax lacks; {again}")
    assert isinstance(found, type)
    return found


def _leaf(value: Any, field: Any) -> Any:
    try:
        return TypeAdapter(field.type).validate_json(json.dumps(value), strict=True)
    except ValidationError as wrong:
        raise StorageError(f"damaged ({field.name}: {wrong.errors()[0]['msg']}); restore it from a copy") from None
