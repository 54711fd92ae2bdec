"""Start-up of a run over several processes: how many the environment announces, how they join, how one of them fails.

JAX finds the other processes by itself on Cloud TPU, and under SLURM, Open MPI and Kubernetes. Where it does not, each
process would silently train alone: so the number of processes that joined is checked against what the launcher
announces. Collectives between the processes: multihost.py.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.errors import MachineError, Stopped, UserError

HEARTBEAT = 60  # seconds without a sign of life after which a process counts as lost; JAX's own choice is 100
PATIENCE = 300  # seconds for all processes to join, and again for their first sum
LOST_PROCESS = 134  # exit status with which JAX aborts a process that lost another; launchers restart all of them
_MARGIN = 10  # seconds that JAX takes to act on a lost process

ADDRESS, COUNT, NUMBER = COORDINATES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Each variable holds a launcher's number of processes. The first one that is set counts, since launchers are nested:
# mpirun runs in a SLURM job, and srun in a part of one.
_STARTED = (COUNT, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")  # set in started processes only
_COUNTS = (*_STARTED, "SLURM_NTASKS")
_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # the hosts of one slice, comma-separated
_SLICES = "MEGASCALE_NUM_SLICES"
_INDEX = "JOB_COMPLETION_INDEX"  # the index, from 0, of a pod in an indexed Job of Kubernetes or in a JobSet

_FIXES = {
    COUNT: f"give each process its own {NUMBER}, from 0, and all of them the same {ADDRESS}=HOST:PORT",
    "OMPI_COMM_WORLD_SIZE": f"start them by Open MPI's own mpirun, or set {', '.join(COORDINATES)} in each",
    "PMI_SIZE": f"JAX does not know this launcher: set {', '.join(COORDINATES)} in each",
    "SLURM_STEP_NUM_TASKS": "start them by srun in a job, as launch/slurm.sbatch does; one alone by srun --ntasks=1",
    "SLURM_NTASKS": "start them by srun, as launch/slurm.sbatch does; one alone by srun --ntasks=1",
    _INDEX: f"install jax[k8s] where the pods have no TPU, or set {', '.join(COORDINATES)} in each",
}
_TPU_FIX = "start the same command on all hosts of the slice, as launch/sky.yaml and launch/gke.yaml do"


class Coordinates(NamedTuple):
    """Coordinator address, number of processes and index of this one: the arguments of `jax.distributed.initialize`."""

    address: str  # HOST:PORT
    processes: int
    number: int  # from 0


class ExpectedProcesses(NamedTuple):
    """Number of processes that the environment announces, and the variable that announces it."""

    processes: int  # a minimum where `variable` is the index of a pod
    variable: str  # empty: nothing announces any
    value: str


def start_distributed(
    environment: Mapping[str, str], *, polls: bool = False, heartbeat: int = HEARTBEAT, patience: int = PATIENCE
) -> None:
    """Join the other processes, check that all of them joined, and sum over all devices.

    The processes are those of `explicit_coordinates`, or of the cluster that JAX detects (Cloud TPU, SLURM, Kubernetes,
    Open MPI). Call it before the first use of a device.

    With `polls`, JAX handles SIGTERM of several processes and stops all of them at the same step
    (Checkpoints.preempted). A single process is in no cluster, whose heartbeats would end it when the clock is set
    back, and SIGTERM keeps its handler.

    Exits instead of raising where a call hangs: with LOST_PROCESS if a process does not join within `patience` seconds
    (a restart may find all of them), with the status of MachineError if the sum takes longer than that.

    Raises:
        MachineError: the number of processes is not the one that `environment` announces, they have unequal numbers of
            devices, or the sum is wrong.
    """
    jax.config.update("jax_enable_preemption_service", polls)
    if may_have_peers(environment):
        _meet(environment, heartbeat, patience)
    check_process_count(jax.process_count(), environment)
    message = "the processes joined, but a sum over their devices hangs; open all ports between them"
    with _exit_after(patience, MachineError.code, message):
        check_equal_devices([device.process_index for device in jax.devices()])
        _check_sum(len(jax.devices()))
    if jax.process_index() == 0:
        devices = _plural(jax.local_device_count(), f"{jax.default_backend()} device")
        print(f"{_plural(jax.process_count(), 'process')} x {devices}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_on_failure(what: str, *, polls: bool, heartbeat: int = HEARTBEAT) -> Iterator[None]:
    """Exit at once, with message and status, if the block fails in one of several processes; `what` names the block.

    `polls` and `heartbeat` are those of `start_distributed`: where the block polls, all processes stop together.

    A normal interpreter exit would wait for the other processes, which wait for this one, until JAX aborts all of them.
    The end of another process may have caused an unexpected error: it is held back until JAX would have noticed, abort
    this process with LOST_PROCESS and name the other one.
    """
    try:
        yield
    except UserError as error:
        if has_peers() and not (polls and isinstance(error, Stopped)):
            _exit(f"dense-jax {what}: {error}", error.code)
        raise
    except Exception:
        if has_peers():
            print(f"{traceback.format_exc()}checking whether another process ended", file=sys.stderr, flush=True)
            time.sleep(heartbeat + _MARGIN)
            _exit("all other processes are running: the error above is of this process", 1)
        raise


@contextlib.contextmanager
def explain_missing_platform(environment: Mapping[str, str]) -> Iterator[None]:
    """Turn JAX's error about a platform, raised at the first use of a device, into a MachineError.

    Raises:
        MachineError: JAX has no device of a platform that JAX_PLATFORMS names, or does not know the platform.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        if not reason.startswith(("Unable to initialize backend", "Unknown backend")):
            raise
        raise MachineError(
            f"JAX_PLATFORMS={environment.get('JAX_PLATFORMS', '')}: {reason.splitlines()[0]}; unset JAX_PLATFORMS to "
            "take the devices of this machine, or install JAX for the platform, such as pip install 'dense_jax[tpu]'"
        ) from error


def has_peers() -> bool:
    """Return whether this process joined others; True if a missing platform hides the answer."""
    try:
        return jax.distributed.is_initialized() and jax.process_count() > 1
    except RuntimeError:  # a missing platform
        return True


def join_if_distributed(environment: Mapping[str, str]) -> None:
    """Call `start_distributed` if this may be one of several processes; a single process starts faster without."""
    if not jax.distributed.is_initialized() and may_have_peers(environment):
        start_distributed(environment)


def check_equal_devices(owners: Sequence[int]) -> None:
    """Check that all processes have equally many devices, since a batch would be split unevenly; `owners`: by device.

    Raises:
        MachineError: the numbers differ; names the processes.
    """
    counts = Counter(owners)
    usual = max(counts.values())
    if odd := {process: count for process, count in counts.items() if count != usual}:
        named = ", ".join(f"process {process} has {count}" for process, count in sorted(odd.items()))
        raise MachineError(f"{named} of the {usual} devices that the others have; give each process the same number")


def explicit_coordinates(environment: Mapping[str, str]) -> Coordinates | None:
    """Read JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; None if neither of the last two is set.

    Raises:
        MachineError: one of the three is missing, a number is malformed, or the index is out of range.
    """
    given = {name: environment[name] for name in (COUNT, NUMBER) if name in environment}
    if not given:
        return None
    missing = [name for name in COORDINATES if name not in environment]
    if missing:
        (name, value), *_ = given.items()
        raise MachineError(
            f"{name}={value} without {' and '.join(missing)}; set all of {', '.join(COORDINATES)}, or none"
        )
    count, number = (_parse_int(name, environment[name]) for name in (COUNT, NUMBER))
    if not 0 <= number < count:
        raise MachineError(
            f"{NUMBER}={number} is out of range for {COUNT}={count}; number the processes from 0 to {count - 1}"
        )
    return Coordinates(environment[ADDRESS], count, number)


def expected_processes(environment: Mapping[str, str]) -> ExpectedProcesses:
    """Return the number of processes that the launcher's variables announce; 1 if nothing announces any.

    >>> expected_processes({"SLURM_NTASKS": "4"})
    ExpectedProcesses(processes=4, variable='SLURM_NTASKS', value='4')
    >>> expected_processes({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}).processes
    4
    >>> expected_processes({"JOB_COMPLETION_INDEX": "2"}).processes  # at least: the index of the third pod
    3
    >>> expected_processes({}).processes
    1

    Raises:
        MachineError: a variable is not a whole number.
    """
    for name in _COUNTS:
        if name in environment:
            return ExpectedProcesses(_parse_int(name, environment[name]), name, environment[name])
    for name in _HOSTS:
        if name in environment:
            slices = _parse_int(_SLICES, environment.get(_SLICES) or "1")
            return ExpectedProcesses(slices * len(environment[name].split(",")), name, environment[name])
    if _INDEX in environment:
        return ExpectedProcesses(_parse_int(_INDEX, environment[_INDEX]) + 1, _INDEX, environment[_INDEX])
    return ExpectedProcesses(1, "", "")


def may_have_peers(environment: Mapping[str, str]) -> bool:
    """Return True if a launcher announces other processes, or if there are TPUs, whose hosts only JAX can find.

    >>> may_have_peers({"SLURM_NTASKS": "4"}), may_have_peers({"SLURM_NTASKS": "1"}), may_have_peers({})
    (True, False, False)
    """
    expected = expected_processes(environment)
    on_tpu = environment.get("TPU_ML_PLATFORM") == "JAX"  # JAX sets it where it finds TPUs
    return expected.processes > 1 or expected.variable == _INDEX or on_tpu


def check_process_count(joined: int, environment: Mapping[str, str]) -> None:
    """Check that all announced processes joined.

    Raises:
        MachineError: `environment` announces a number of processes other than `joined`.
    """
    expected = expected_processes(environment)
    exact = bool(expected.variable) and expected.variable != _INDEX
    if joined < expected.processes or (exact and joined != expected.processes):
        raise MachineError(
            f"{expected.variable}={expected.value} says that this is one of {expected.processes} processes, but "
            f"{joined} {'is' if joined == 1 else 'are'} together: each such group would train a model of its own; "
            f"{_FIXES.get(expected.variable, _TPU_FIX)}"
        )
    if joined == 1 and expected.processes == 1 and ADDRESS in environment and COUNT not in environment:
        raise MachineError(
            f"{ADDRESS}={environment[ADDRESS]} names a coordinator, but not the number of processes; set {COUNT} and "
            f"{NUMBER} too, or unset it"
        )


def check_single_process(verb: str, environment: Mapping[str, str]) -> None:
    """Check that no launcher started several processes for a verb that takes one.

    Raises:
        MachineError: a launcher did; names its variable.
    """
    counts = {name: _parse_int(name, environment.get(name, "1")) for name in _STARTED}
    counts[_INDEX] = _parse_int(_INDEX, environment.get(_INDEX, "0")) + 1
    for name, count in counts.items():
        if count > 1:
            raise MachineError(
                f"{name}={environment[name]} says that this is one of {count} processes, but `dense-jax {verb}` takes "
                "one, and several would overwrite each other's files; start it once, without the launcher"
            )


def _meet(environment: Mapping[str, str], heartbeat: int, patience: int) -> None:
    """Join the others within `patience` seconds; leave the cluster again if this process is alone in it."""
    message = "not all processes joined; read the output of the others, and check that they reach the coordinator"
    with _exit_after(patience, LOST_PROCESS, message):
        _join(environment, heartbeat, 2 * patience)  # longer than ours: JAX's own limit aborts without a message
    if jax.distributed.is_initialized() and jax.process_count() == 1:
        _leave()


def _leave() -> None:
    """Leave a cluster of one, and take back SIGTERM, which JAX's preemption service leaves to the system."""
    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.shutdown()
    signal.signal(signal.SIGTERM, handler)


def _join(environment: Mapping[str, str], heartbeat: int, limit: int) -> None:
    settings: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat, "initialization_timeout": limit}
    if named := explicit_coordinates(environment):
        jax.distributed.initialize(*named, **settings)
        return
    with contextlib.suppress(ValueError):  # no cluster was detected
        jax.distributed.initialize(**settings)


def _check_sum(devices: int) -> None:
    """Check the sum of 1, 2, ... over all devices.

    Raises:
        MachineError: the sum is wrong.
    """
    split = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), P("all"))
    numbers = np.arange(1, devices + 1, dtype=np.int32)
    spread = jax.make_array_from_callback((devices,), split, lambda index: numbers[index])
    found, right = int(jax.jit(jnp.sum, out_shardings=NamedSharding(split.mesh, P()))(spread)), int(numbers.sum())
    if found != right:
        raise MachineError(
            f"1 + ... + {devices} over all devices is {found}, not {right}; a device or a link is broken: take others"
        )


@contextlib.contextmanager
def _exit_after(seconds: int, status: int, message: str) -> Iterator[None]:
    """Exit with `message` and `status` if the block, which may hang, takes longer than `seconds`."""

    def end() -> None:
        _exit(f"{message} (waited for {seconds} seconds)", status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _exit(message: str, status: int) -> NoReturn:
    """Exit without waiting for other threads."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _plural(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'es' if thing.endswith('s') else 's'}" if count > 1 else f"{count} {thing}"


def _parse_int(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise MachineError(f"{name}={value} is not a whole number; correct it, or unset it") from None
