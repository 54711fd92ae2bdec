"""How processes find each other, and what one does that fails or is left alone. What they agree on: multihost.py."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.distributed import check_process_count, explicit_coordinates, may_have_peers
from dense_jax.errors import MachineError, Stopped, UserError

HEARTBEAT = 60  # seconds without a sign of life after which a process counts as lost; JAX's own choice is 100
PATIENCE = 300  # seconds for all processes to come, and for their first sum
LOST = 134  # the status by which JAX aborts a process that lost another; launchers start all of them again
_MARGIN = 10  # seconds until JAX acts on a lost process


def start_processes(
    environment: Mapping[str, str], *, polls: bool = False, heartbeat: int = HEARTBEAT, patience: int = PATIENCE
) -> None:
    """Joins the processes of the cluster that JAX detects (Cloud TPU, SLURM, Kubernetes, Open MPI), or those that
    `environment` names by hand (distributed.py); checks that they are all, and can sum.

    To be called before the first use of a device. A caller that `polls` leaves SIGTERM to JAX where processes are
    several: it sees to it that all stop at the same step (Checkpoints.preempted). A process alone is in no cluster,
    whose heartbeats end it when the clock is set back, and SIGTERM stays what it was.

    Raises:
        MachineError: there are other processes than `environment` announces, with unequal devices, or they sum wrongly.
            Where they have no sum within `patience` seconds, this process ends, with the status of that error; where
            one does not come within as many, with that of a lost process: the next start may find all of them.
    """
    jax.config.update("jax_enable_preemption_service", polls)
    if may_have_peers(environment):
        _meet(environment, heartbeat, patience)
    check_process_count(jax.process_count(), environment)
    with _at_most(
        patience, MachineError.code, "the processes met, but have no sum over their devices; can they reach all ports?"
    ):
        check_devices([device.process_index for device in jax.devices()])
        _check_sum(len(jax.devices()))
    if jax.process_index() == 0:
        of_each = _many(jax.local_device_count(), f"{jax.default_backend()} device")
        print(f"{_many(jax.process_count(), 'process')} x {of_each}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def leaving_at_once(what: str, *, polls: bool, heartbeat: int = HEARTBEAT) -> Iterator[None]:
    """Ends one of several processes at once if the block, named by `what`, fails in it: with its message and status.

    `polls` and `heartbeat` are those of start_processes: where the block polls, all are stopped together.

    Python's own way out would wait for the others, which wait for this one, until JAX aborts all of them. An error that
    another process's end may have caused is first given the time in which JAX finds that out: then JAX aborts this
    process (LOST) and names the one that is gone.
    """
    try:
        yield
    except UserError as error:
        if are_several() and not (polls and isinstance(error, Stopped)):
            _end(f"dense-jax {what}: {error}", error.code)
        raise
    except Exception:
        if are_several():
            print(f"{traceback.format_exc()}waiting whether another process is gone", file=sys.stderr, flush=True)
            time.sleep(heartbeat + _MARGIN)
            _end("all other processes are there: the error above is this one's own", 1)
        raise


@contextlib.contextmanager
def naming_missing_platforms(environment: Mapping[str, str]) -> Iterator[None]:
    """Turns JAX's refusal of a platform, which comes with the first use of a device, into a message.

    Raises:
        MachineError: JAX has no device of a platform that JAX_PLATFORMS names, or does not know it.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        if not reason.startswith(("Unable to initialize backend", "Unknown backend")):
            raise
        raise MachineError(
            f"JAX_PLATFORMS={environment.get('JAX_PLATFORMS', '')}: {reason.splitlines()[0]}; unset JAX_PLATFORMS to "
            "take the devices that are here, or install JAX for the platform, such as pip install 'dense_jax[tpu]'"
        ) from error


def are_several() -> bool:
    """Return whether processes were joined, and more than this one; true if that cannot be known without a device."""
    try:
        return jax.distributed.is_initialized() and jax.process_count() > 1
    except RuntimeError:  # of a platform that is missing
        return True


def join_processes(environment: Mapping[str, str]) -> None:
    """As `start_processes`, where this may be one of several; a process alone starts faster without."""
    if not jax.distributed.is_initialized() and may_have_peers(environment):
        start_processes(environment)


def check_devices(owners: Sequence[int]) -> None:
    """`owners`: the process of each device.

    Raises:
        MachineError: they have unequal numbers of devices, so that a batch would be split unevenly.
    """
    counts = Counter(owners)
    usual = max(counts.values())
    if odd := {process: count for process, count in counts.items() if count != usual}:
        said = ", ".join(f"process {process} has {count}" for process, count in sorted(odd.items()))
        raise MachineError(f"{said} of the {usual} devices that the others have; all need the same number")


def _meet(environment: Mapping[str, str], heartbeat: int, patience: int) -> None:
    """Join the others within `patience` seconds, and leave the cluster again where there are none."""
    with _at_most(patience, LOST, "not all processes came; see what the others say, and if they reach the first one"):
        _join(environment, heartbeat, 2 * patience)  # JAX's own limit aborts without a word to the user
    if jax.distributed.is_initialized() and jax.process_count() == 1:
        _leave()


def _join(environment: Mapping[str, str], heartbeat: int, limit: int) -> None:
    settings: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat, "initialization_timeout": limit}
    if named := explicit_coordinates(environment):
        jax.distributed.initialize(*named, **settings)
        return
    with contextlib.suppress(ValueError):  # no cluster was detected
        jax.distributed.initialize(**settings)


def _leave() -> None:
    """Leave a cluster of one, and take back SIGTERM, which JAX's preemption service leaves to the system."""
    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.shutdown()
    signal.signal(signal.SIGTERM, handler)


def _check_sum(devices: int) -> None:
    """
    Raises:
        MachineError: the sum of 1, 2, ... over all devices is wrong.
    """
    split = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), P("all"))
    numbers = np.arange(1, devices + 1, dtype=np.int32)
    spread = jax.make_array_from_callback((devices,), split, lambda index: numbers[index])
    found, right = int(jax.jit(jnp.sum, out_shardings=NamedSharding(split.mesh, P()))(spread)), int(numbers.sum())
    if found != right:
        raise MachineError(
            f"1 + ... + {devices} over all devices is {found}, not {right}; a device or a link is broken"
        )


@contextlib.contextmanager
def _at_most(seconds: int, status: int, message: str) -> Iterator[None]:
    """Ends this process with `message` and `status` if the block, which may hang, takes longer."""

    def end() -> None:
        _end(f"{message} (waited for {seconds} seconds)", status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(message: str, status: int) -> NoReturn:
    """Ends this process whatever its other threads do."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'es' if thing.endswith('s') else 's'}" if count > 1 else f"{count} {thing}"
