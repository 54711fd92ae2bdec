"""A config before training, on one screen: what `show` prints without --full."""

import dataclasses
import enum
import math
import re
from collections.abc import Iterator
from typing import Any

import jax

from dense_jax.arrays import Params
from dense_jax.config import Config
from dense_jax.config.settings import settings_of
from dense_jax.data.pipeline import Examples
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.terminal import show
from dense_jax.terminal.markdown import printable
from dense_jax.terminal.stage_results import Overview
from dense_jax.train.loop import Program
from dense_jax.train.optimizer import path_name

_GROUPS = 6  # of parameters
_EXAMPLE = 160  # characters of each text of an example
_TEXTS = 3  # texts of an example


def overview(program: Program, config: Config, examples: Examples | None, tokenizer: Tokenizer) -> Overview:
    """The config and what its training takes; without `examples` what can be known without them."""
    parts = {"method": type(config.objective).__name__, "settings": changed_settings(config)}
    if examples is not None:
        parts["compute"] = f"{show.compute_types(examples)}; attention by {show.attention(examples, config.batch)}"
        parts["example"] = "\n".join(_example_lines(examples, tokenizer))
        parts["plan"] = show.plan(examples, config)
    parts["parameters"] = parameters_by_part(program.like.params)
    parts["memory"] = memory_by_part(program, examples)
    return Overview(parts)


def changed_settings(config: Config) -> str:
    """The settings that differ from their defaults, those of each part on a line."""
    parts: dict[str, list[str]] = {"": []}
    for setting in settings_of(config):
        if setting.default is dataclasses.MISSING and setting.value == ():
            continue
        if setting.value != setting.default:
            part, _, name = setting.name.rpartition(".")
            parts.setdefault(part, []).append(f"{name}={_setting_value(setting.value)}")
    return "\n".join(f"{part}: {', '.join(names)}".removeprefix(": ") for part, names in parts.items())


def parameters_by_part(params: Params) -> str:
    """The parameters of each part of the model; the layers of a stack are one part, and small parts are together."""
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        part = re.sub(r"/layer_\d+/.*", "/layers", path_name(path))
        part = part if part.endswith("/layers") else part.rpartition("/")[0] or part
        sizes[part] = sizes.get(part, 0) + math.prod(leaf.shape)
    largest = sorted(sizes, key=lambda part: -sizes[part])[: _GROUPS if len(sizes) <= _GROUPS else _GROUPS - 1]
    shown = {part: sizes[part] for part in sizes if part in largest}
    total = sum(sizes.values())
    rest = {"others": total - sum(shown.values())} if len(shown) < len(sizes) else {}
    return "\n".join(f"{name:48} {size:>15,}" for name, size in (shown | rest | {"total": total}).items())


def memory_by_part(program: Program, examples: Examples | None) -> str:
    """Bytes on each device of what takes any, and their sum."""
    sizes = show.memory_parts(program, examples)
    axes = ", ".join(f"{name} {size}" for name, size in program.mesh.shape.items() if size > 1)
    where = f"on each of {program.mesh.size} devices ({axes})" if axes else "on the one device"
    shown = {name: size for name, size in sizes.items() if size >= 2**20 / 20} | {"total": sum(sizes.values())}
    return "\n".join([where, *(f"{name:48} {size / 2**20:>11,.1f} MiB" for name, size in shown.items())])


def _setting_value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_setting_value, value))
    return str(value.value if isinstance(value, enum.Enum) else value)


def _example_lines(examples: Examples, tokenizer: Tokenizer) -> Iterator[str]:
    """The first lines of the run's first example: its document and its texts."""
    first, *texts = show.example_texts(examples, tokenizer)
    yield first
    for text in texts[:_TEXTS]:
        line = printable(text)
        yield line if len(line) <= _EXAMPLE else f"{line[: _EXAMPLE - 4].rstrip()} ..."
