"""Programs that are compiled for TPUs elsewhere, each in a process of its own: JAX reads its settings when imported."""

import importlib.util
import os
import subprocess
import sys

import pytest

from dense_jax import __main__

needs_tpu_compiler = pytest.mark.skipif(
    not (os.environ.get("TPU_LIBRARY_PATH") or importlib.util.find_spec("libtpu")),
    reason="the TPU compiler is a download of 200 MB that only these tests need: pip install 'dense_jax[tpu]'",
)


def printed(program: str) -> str:
    """What the text of a Python program prints."""
    environment = {**os.environ, **__main__.COMPILER_ONLY}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
