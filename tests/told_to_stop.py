"""The command line, told to stop at a call of one of its functions: MODULE FUNCTION COUNT VERB ..."""

import importlib
import itertools
import os
import signal
import sys

import jax

from dense_jax.__main__ import run


def main(module: str, function: str, count: str, *argv: str) -> int:
    """Runs a command that gets SIGTERM when it calls the function for so many times."""
    jax.config.update("jax_num_cpu_devices", 8)  # these two as conftest.py has it: for the same bits
    jax.config.update("jax_default_matmul_precision", "highest")
    where, calls = importlib.import_module(module), itertools.count(1)
    called = getattr(where, function)

    def calling(*args, **settings):
        if next(calls) == int(count):
            os.kill(os.getpid(), signal.SIGTERM)
        return called(*args, **settings)

    setattr(where, function, calling)
    return run(list(argv))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
