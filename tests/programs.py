"""Training programs that tests share: most of a small run is the trace of its program."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dense_jax.config import Config
from dense_jax.train.loop import Program, make_program

READ = ("objective", "steps", "batch", "chunk", "seed", "optimizer", "mesh")  # the settings that make_program reads
_made: list[tuple[list[Any], Program]] = []


def shared_program(config: Config, chips: Sequence[Any] = ()) -> Program:
    """The program of an earlier config with the same settings, or a new one."""
    settings = [*(getattr(config, name) for name in READ), list(chips)]
    for others, program in _made:
        if others == settings:
            return replace(program, config=config)
    _made.append((settings, make_program(config, chips)))
    return _made[-1][1]
