"""How many processes train together, and how they find each other."""

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

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


def first_then_all(make: Callable[[], T]) -> T:
    """What `make` gives, which does its work once on the disk that all processes share: on the first one."""
    if jax.process_count() == 1:
        return make()
    if jax.process_index() == 0:
        make()
    together("made by the first process")
    return make()


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
