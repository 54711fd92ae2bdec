"""How many processes work together, and how they find each other."""

import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dense_jax.agreement import all_or_none, is_first
from dense_jax.arrays import Params

T = TypeVar("T")


def start_processes() -> None:
    """Joins the processes of the cluster that JAX detects (Cloud TPU, SLURM, Kubernetes, MPI), or forms one of its own.

    Even a lone process does so, since JAX notices SIGTERM, and agrees on the step to stop at, only after this. To be
    called before the first use of a device.
    """
    try:
        jax.distributed.initialize()
    except ValueError:  # no cluster was detected
        jax.distributed.initialize(f"localhost:{_free_port()}", num_processes=1, process_id=0)


def join_processes() -> None:
    """As `start_processes`, where this may be one of several; a process alone starts faster without.

    SIGTERM stays what it was: what is joined so has nothing to save that is not on the disk already.
    """
    if jax.distributed.is_initialized() or not may_be_several(os.environ):
        return
    before = signal.getsignal(signal.SIGTERM)
    start_processes()
    signal.signal(signal.SIGTERM, before)


def may_be_several(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as one of several, or it has TPUs, whose hosts JAX alone can find.

    >>> may_be_several({"SLURM_NTASKS": "4"}), may_be_several({"SLURM_NTASKS": "1"}), may_be_several({})
    (True, False, False)
    """
    counts = (environment.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    hosts, tpus = environment.get("TPU_WORKER_HOSTNAMES", ""), environment.get("TPU_ML_PLATFORM", "")
    return any(int(count) > 1 for count in counts) or "," in hosts or tpus == "JAX"  # which JAX sets where it finds any


def first_then_all(make: Callable[[], T]) -> T:
    """What `make` gives, which does its work once on the disk that all processes share: on the first one."""
    if jax.process_count() > 1:
        all_or_none(lambda: make() if is_first() else None)
    return all_or_none(make)


def whole(params: Params) -> Any:
    """Parameters that this process can place on its own devices."""
    return params if jax.process_count() == 1 else multihost_utils.process_allgather(params, tiled=True)


def together(what: str) -> None:
    """Waits until all processes are here; `what` they have in common is named if they are not."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agreed(value: int) -> int:
    """The first process's."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_agree(value: bool) -> bool:
    """Whether it is true of all processes."""
    return value if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(value)).all())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
