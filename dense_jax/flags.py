"""The command line: `dense-jax VERB --config=FILE[:variant] --key=value --workdir=DIR [words]`."""

import dataclasses
import difflib
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from dense_jax.config import Config
from dense_jax.config_tree import checked
from dense_jax.errors import ConfigError
from dense_jax.files import check_on_disk

PLAIN_FLAGS = ("config", "workdir", "topology")


@dataclass(frozen=True)
class Invocation:
    """A command line, understood."""

    config: Config
    workdir: Path
    words: list[str]  # what is not a flag: the queries of `search`
    given: frozenset[str] = frozenset()  # the settings that the command line gives, such as batch
    topology: str = ""  # TPUs that `show` is to compile for, such as v5e:16x16


def parse(argv: list[str]) -> Invocation:
    """Reads the arguments that follow the verb.

    Raises:
        ConfigError: with a line for each unknown key (and the nearest known ones), wrong type and broken rule.
    """
    given = [arg for arg in argv if arg.startswith("--")]
    base = [arg for arg in given if arg.startswith("--config=")]
    if not base:
        raise ConfigError(
            "no --config=FILE; the published methods stand in configs/, such as --config=configs/ict.py:tiny"
        )
    file = Path(base[-1].removeprefix("--config=").partition(":")[0])
    if not file.is_file():
        raise ConfigError(f"{file}: no such config file")
    keys = dict(_leaves(_load(base).config))
    problems = [line for arg in given if arg not in base for line in _problems(base, arg, keys)]
    if problems:
        raise ConfigError("\n".join(problems))
    values = _load(argv)
    workdir = values["workdir"].value
    if not workdir:
        raise ConfigError("no --workdir=DIR, the folder that everything is written to and read from")
    check_on_disk(workdir, "--workdir")
    words = [arg for arg in argv if not arg.startswith("--")]
    settings = frozenset(key for arg in given if (key := _setting(arg)) in keys)
    return Invocation(checked(values.config), Path(workdir), words, settings, values["topology"].value or "")


def _load(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    argv = ["dense-jax", *argv]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", "", "where everything is written to and read from", flag_values=values)
    flags.DEFINE_string("topology", "", "TPUs to compile for, such as v5e:16x16", flag_values=values)
    try:
        values(argv)
        _ = values.config
    except flags.Error as error:
        raise ConfigError(str(error)) from None
    return values


def _setting(arg: str) -> str:
    """The setting that a flag gives; empty if it is no flag of a setting."""
    flag = arg.removeprefix("--").partition("=")[0]
    return flag.removeprefix("no").removeprefix("config.") if flag.startswith(("config.", "noconfig.")) else ""


def _problems(base: list[str], arg: str, keys: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one flag."""
    flag, _, value = arg.removeprefix("--").partition("=")
    key = _setting(arg)
    if not flag.startswith(("config.", "noconfig.")):
        if flag not in PLAIN_FLAGS:
            yield f"unknown flag --{flag}{_nearest(flag, [*PLAIN_FLAGS, *(f'config.{k}' for k in keys)], '--')}"
    elif key not in keys:
        yield f"unknown setting {key}{_nearest(key, list(keys))}"
    else:
        try:
            _load([*base, arg])
        except ConfigError:
            yield f"{key}={value} is not {_kind(keys[key])}"


def _nearest(key: str, known: list[str], prefix: str = "") -> str:
    """`; did you mean a, b?` with the nearest keys, by the whole name or by its last part."""
    tails = {k: k.rpartition(".")[2] for k in known}
    tail = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, known, n=2, cutoff=0.75)
    near = near or [k for k in known if tails[k] in difflib.get_close_matches(tail, tails.values(), n=2, cutoff=0.75)]
    return f"; did you mean {', '.join(prefix + k for k in near[:3])}?" if near else ""


def _kind(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return "one of " + ", ".join(member.value for member in type(value))
    plain = {bool: "true or false", int: "a whole number", float: "a number"}
    plain[tuple] = "a tuple; give the flag once for each of its values"
    return plain.get(type(value), f"a {type(value).__name__}")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}", value
