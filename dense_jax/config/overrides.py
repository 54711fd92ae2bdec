"""Settings given by name, in place of those of a config: on the command line, or in `dense_jax.load_config`."""

import dataclasses
import difflib
import enum
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dense_jax.config import Config, flag_values
from dense_jax.config.files import find_config
from dense_jax.config.places import expanded
from dense_jax.config.settings import Setting, settings_of
from dense_jax.config.tree import rebuilt
from dense_jax.errors import ConfigError
from dense_jax.remote.models import local_model

Texts = Mapping[str, Sequence[str]]  # the name of a setting -> its values as they are written on the command line


@dataclass(frozen=True)
class LoadedConfig:
    """A config, and the names of the settings that were given explicitly.

    Settings that follow from `init_from` (train/start.py) replace those of the config's file, and no given one.
    """

    name: str  # as `--config` takes it
    config: Config
    given: frozenset[str] = frozenset()


def load_config(name: str, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """The config of a published method (`ict`, `ict:tiny`) or of a file (`mine/method.py:tiny`).

    `overrides` are settings by their full names, with values of their types or as on the command line:
    `{"corpus.source": "docs.jsonl", "batch": 64, "loader.order": "shuffle"}`.

    Raises:
        ConfigError: there is no such config or setting, or a value breaks a rule; all mistakes of `overrides` at once.
    """
    texts = {key: _as_flag_values(value) for key, value in (overrides or {}).items()}
    return overridden(LoadedConfig(name, find_config(name).load()), texts)


def overridden(
    loaded: LoadedConfig, texts: Texts, problems: Sequence[str] = (), others: Iterable[str] = ()
) -> LoadedConfig:
    """`loaded` with the settings of `texts`, and with the home folder in place of `~` in every path.

    `others` are flags that are no settings, to be suggested where a name is unknown.

    Raises:
        ConfigError: the `problems` that were found before, and a line for each unknown setting, wrong type and broken
            rule.
    """
    values, wrong = read_values(texts, {setting.name: setting for setting in settings_of(loaded.config)}, others)
    if found := [*problems, *wrong]:
        raise ConfigError("\n".join(found))

    def value(setting: Setting) -> Any:
        chosen = values.get(setting.name, setting.value)
        if setting.place is None:
            return chosen
        return local_model(chosen) if setting.place.is_model else expanded(chosen)

    return dataclasses.replace(loaded, config=rebuilt(loaded.config, value), given=loaded.given.union(values))


def read_values(
    texts: Texts, known: Mapping[str, Setting], others: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The values of the given settings, and a line for each mistake; `others` are the flags that are no settings."""
    values, problems = {}, []
    for name, written in texts.items():
        if name not in known:
            problems.append(f"unknown flag --{name}{nearest(name, [*others, *known])}")
            continue
        several = typing.get_origin(known[name].type) is tuple
        try:
            values[name] = flag_values.read(known[name].type, list(written if several else written[-1:]))
        except ValueError:
            problems.append(f"{name}={', '.join(written)} is not {flag_values.kind(known[name].type)}")
            continue
        if broken := dataclasses.replace(known[name], value=values[name]).problem():
            problems.append(broken)
    return values, problems


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean --a, --b?` with the nearest names, by the whole name or by its last part; else empty."""
    tails = {key: key.rpartition(".")[2] for key in known}
    tail = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, tails, n=2, cutoff=0.75)
    near = near or [k for k, v in tails.items() if v in difflib.get_close_matches(tail, tails.values(), 2, 0.75)]
    return f"; did you mean {', '.join(f'--{key}' for key in near[:3])}?" if near else ""


def _as_flag_values(value: Any) -> list[str]:
    """A value as the command line writes it.

    >>> _as_flag_values(True), _as_flag_values(("a", "b")), _as_flag_values(1e-4)
    (['true'], ['a', 'b'], ['0.0001'])
    """
    if isinstance(value, list | tuple):
        return [text for each in value for text in _as_flag_values(each)]
    if isinstance(value, enum.Enum):
        return [str(value.value)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]
