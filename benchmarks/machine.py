"""Provenance of a measurement, and a plain matrix product for comparison."""

import datetime
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from timing import Program, Timing, interleaved

from dense_jax.errors import ConfigError
from dense_jax.train.flops import peak_flops

_PACKAGES = (
    "jax",
    "flax",
    "optax",
    "grain",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "scann",
    "faiss-cpu",
)
_SIDE_ON_CPU, _SIDE = 2_048, 8_192  # of the square matrices whose product is timed


@dataclass(frozen=True)
class Machine:
    """The devices that JAX sees, and what they can do."""

    platform: str  # cpu, gpu or tpu
    device: str
    count: int
    threads: int  # of the host that this process may use
    peak: float | None  # FLOP/s of all devices by their datasheet
    dtype: str  # that is computed in

    def __str__(self) -> str:
        return f"{self.dtype} on {self.count} x {self.device}, {self.threads} threads"


class Peaks(NamedTuple):
    """FLOP/s of all devices to compare with."""

    matmul: float  # that a large product of matrices reached in the same run
    datasheet: float | None

    def __str__(self) -> str:
        datasheet = f" of the datasheet's {self.datasheet / 1e12:,.0f}" if self.datasheet else ""
        return f"a product of matrices reached {self.matmul / 1e12:,.3g}{datasheet} TFLOP/s"


def set_up(threads: int, dtype: str) -> Machine:
    """Confines the process to `threads` cores (0: all it may use); `dtype` may be "auto", the usual one.

    To be called before anything starts JAX or PyTorch.

    Raises:
        ConfigError: there are fewer cores.
    """
    cores = _claim_cores(threads)
    devices = jax.devices()
    first, count = devices[0], len(devices)
    on_cpu, peak = first.platform == "cpu", peak_flops(first.device_kind)
    usual = "float32" if on_cpu else "bfloat16"
    return Machine(
        platform=first.platform,
        device=_cpu_name() if on_cpu else first.device_kind,
        count=count,
        threads=cores,
        peak=peak and peak * count,
        dtype=usual if dtype == "auto" else dtype,
    )


def measure(
    programs: Sequence[Program], machine: Machine, turns: int, warm_up: int, until: float = math.inf
) -> tuple[list[Timing], Peaks]:
    """The timings of `programs`, and of a product of matrices that takes turns with them: see `interleaved`."""
    side = _SIDE_ON_CPU if machine.platform == "cpu" else _SIDE
    *timings, product = interleaved([*programs, _matmul(side, machine.dtype)], turns, warm_up, until)
    reached = 2 * side**3 * machine.count / float(np.median(product.wall))
    return timings, Peaks(reached, machine.peak)


def provenance(machine: Machine) -> dict[str, Any]:
    """Provenance of a measurement: commit, versions, device, date, command."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | _versions(),
        "machine": asdict(machine),
        "load": os.getloadavg()[0],  # processes that wanted to run during the last minute, ours included
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }


def _claim_cores(count: int) -> int:
    """Set and return the number of cores of the process.

    PyTorch's idle threads are made to sleep: they would spin otherwise, which CPU-seconds would count as work. JAX is
    kept from claiming the whole memory of a GPU that it shares with PyTorch.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ConfigError(f"--threads={count} is more than the {len(cores)} cores of this process; use 0 for all")
    os.sched_setaffinity(0, cores[: count or len(cores)])
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return count or len(cores)


def _matmul(side: int, dtype: str) -> Program:
    """Products of random matrices, because products of zeros run faster; on one device."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), dtype)
    product = jax.jit(jnp.matmul)
    latest: deque[jax.Array] = deque(maxlen=1)
    return Program(
        "matmul", lambda i: latest.append(product(matrix, matrix)), lambda: jax.block_until_ready(list(latest))
    )


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in _PACKAGES if name in installed}


def _commit() -> str:
    """Commit of the checkout of this file; with "-dirty" if files have changed since."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else "no git checkout"


def _cpu_name() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()
