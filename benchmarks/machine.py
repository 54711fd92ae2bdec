"""Where and when a figure was measured, and what a plain product of matrices reached there."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import flops
import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.errors import ConfigError

_PACKAGES = ("jax", "flax", "optax", "grain", "tokenizers", "torch", "transformers", "sentence-transformers")
_SIDE_ON_CPU, _SIDE = 2_048, 8_192  # of the square matrices whose product is timed
_PRODUCTS = 5


@dataclass(frozen=True)
class Machine:
    """The devices that JAX sees, and what they can do."""

    platform: str  # cpu, gpu or tpu
    device: str
    count: int
    threads: int  # of the host that this process may use
    peak: float | None  # FLOP/s of all devices by their datasheet
    dtype: str  # that is computed in
    product: float  # FLOP/s of all devices in a measured product of matrices of that type

    def __str__(self) -> str:
        datasheet = f", {self.peak / 1e12:,.0f} by the datasheet" if self.peak else ""
        product = f"a product of matrices reaches {self.product / 1e12:,.3g} TFLOP/s{datasheet}"
        return f"{self.dtype} on {self.count} x {self.device}, {self.threads} threads; {product}"


def set_up(threads: int, dtype: str) -> Machine:
    """Confines the process to `threads` cores (0: all it may use), and measures it in `dtype` ("auto": the usual one).

    To be called before anything starts JAX or PyTorch.

    Raises:
        ConfigError: there are fewer cores.
    """
    cores = _claim_cores(threads)
    devices = jax.devices()
    platform, kind, count = devices[0].platform, devices[0].device_kind, len(devices)
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    peak = flops.peak(kind)
    return Machine(
        platform=platform,
        device=_cpu_name() if platform == "cpu" else kind,
        count=count,
        threads=cores,
        peak=peak and peak * count,
        dtype=dtype,
        product=_product(_SIDE_ON_CPU if platform == "cpu" else _SIDE, dtype) * count,
    )


def provenance(machine: Machine) -> dict[str, Any]:
    """What a figure is worthless without: commit, versions, device, date, command."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | _versions(),
        "machine": asdict(machine),
        "load": os.getloadavg()[0],  # processes that wanted to run during the last minute, ours included
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
    }


def _claim_cores(count: int) -> int:
    """How many cores the process has from now on.

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


def _product(side: int, dtype: str) -> float:
    """FLOP/s of one device; of random numbers, because products of zeros run faster."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in _PACKAGES if name in installed}


def _commit() -> str:
    """Of the checkout that this file stands in; with "-dirty" if files were changed since."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else "no git checkout"


def _cpu_name() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()
