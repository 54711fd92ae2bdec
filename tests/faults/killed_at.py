"""The command line, killed by SIGKILL at a call of a function: MODULE FUNCTION COUNT VERB ..."""

import functools
import importlib
import itertools
import os
import signal
import sys

import jax

from dense_jax.__main__ import run


def main(module: str, function: str, count: str, *argv: str) -> int:
    jax.config.update("jax_num_cpu_devices", 8)  # these two as tests/conftest.py has it: for the same bits
    jax.config.update("jax_default_matmul_precision", "highest")
    *path, name = function.split(".")
    where = functools.reduce(getattr, path, importlib.import_module(module))
    called, calls = getattr(where, name), itertools.count(1)

    def calling(*args, **settings):
        if next(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return called(*args, **settings)

    setattr(where, name, calling)
    return run(list(argv))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
