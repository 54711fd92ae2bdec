"""What the environment of a process says of the processes beside it. Pure: a function of the variables it is given.

JAX finds the others by itself on Cloud TPU, and under SLURM, Open MPI and Kubernetes. Where it does not, each process
would train alone without a word: so what was found is held against what the launcher says.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dense_jax.errors import MachineError

ADDRESS, COUNT, NUMBER = BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Each counts the processes of a launcher; the first that is there is believed, since launchers are started by others:
# mpirun in a SLURM job, and srun in a part of one.
_STARTED = (COUNT, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")  # by a launcher, beside the others
_COUNTS = (*_STARTED, "SLURM_NTASKS")
_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # a list of those of a slice
_SLICES = "MEGASCALE_NUM_SLICES"
_INDEX = "JOB_COMPLETION_INDEX"  # of a pod in an indexed Job of Kubernetes, as those of a JobSet are, from 0

_FIXES = {
    COUNT: f"give each process its own {NUMBER}, from 0, and all of them the same {ADDRESS}=HOST:PORT",
    "OMPI_COMM_WORLD_SIZE": f"start them by Open MPI's own mpirun, or set {', '.join(BY_HAND)} in each",
    "PMI_SIZE": f"JAX does not know this launcher: set {', '.join(BY_HAND)} in each",
    "SLURM_STEP_NUM_TASKS": "start them by srun in a job, as launch/slurm.sbatch does; one alone by srun --ntasks=1",
    "SLURM_NTASKS": "start them by srun, as launch/slurm.sbatch does; one alone by srun --ntasks=1",
    _INDEX: f"install jax[k8s] where the pods have no TPU, or set {', '.join(BY_HAND)} in each",
}
_TPU_FIX = "start the same command on all hosts of the slice, as launch/sky.yaml and launch/gke.yaml do"


class Coordinates(NamedTuple):
    """Where the processes meet, how many they are, and which this one is."""

    address: str
    count: int
    number: int


class ExpectedProcesses(NamedTuple):
    """How many processes there are, at least, by which variable."""

    count: int
    variable: str
    value: str


def explicit_coordinates(environment: Mapping[str, str]) -> Coordinates | None:
    """What JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say, where no launcher tells JAX.

    Raises:
        MachineError: only one of the last two is there, or they are no numbers that go together.
    """
    given = {name: environment[name] for name in (COUNT, NUMBER) if name in environment}
    if not given:
        return None
    missing = [name for name in BY_HAND if name not in environment]
    if missing:
        (name, value), *_ = given.items()
        raise MachineError(f"{name}={value} without {' and '.join(missing)}; set all of {', '.join(BY_HAND)}, or none")
    count, number = (_whole(name, environment[name]) for name in (COUNT, NUMBER))
    if not 0 <= number < count:
        raise MachineError(f"{NUMBER}={number} is not from 0 to {COUNT}={count} less one; number the processes so")
    return Coordinates(environment[ADDRESS], count, number)


def expected_processes(environment: Mapping[str, str]) -> ExpectedProcesses:
    """
    >>> announced({"SLURM_NTASKS": "4"})
    Announced(count=4, variable='SLURM_NTASKS', value='4')
    >>> announced({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}).count
    4
    >>> announced({"JOB_COMPLETION_INDEX": "2"}).count  # at least
    3
    >>> announced({}).count
    1

    Raises:
        MachineError: a variable that should be a number is none.
    """
    for name in _COUNTS:
        if name in environment:
            return ExpectedProcesses(_whole(name, environment[name]), name, environment[name])
    for name in _HOSTS:
        if name in environment:
            slices = _whole(_SLICES, environment.get(_SLICES) or "1")
            return ExpectedProcesses(slices * len(environment[name].split(",")), name, environment[name])
    if _INDEX in environment:
        return ExpectedProcesses(_whole(_INDEX, environment[_INDEX]) + 1, _INDEX, environment[_INDEX])
    return ExpectedProcesses(1, "", "")


def may_have_peers(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started this process beside others, or it has TPUs, whose hosts JAX alone can find.

    >>> may_be_several({"SLURM_NTASKS": "4"}), may_be_several({"SLURM_NTASKS": "1"}), may_be_several({})
    (True, False, False)
    """
    said = expected_processes(environment)
    on_tpu = environment.get("TPU_ML_PLATFORM") == "JAX"  # which JAX sets where it finds any
    return said.count > 1 or said.variable == _INDEX or on_tpu


def check_process_count(joined: int, environment: Mapping[str, str]) -> None:
    """
    Raises:
        MachineError: the environment announces other processes than the `joined` ones.
    """
    said = expected_processes(environment)
    if joined < said.count or (said.variable and said.variable != _INDEX and joined != said.count):
        raise MachineError(
            f"{said.variable}={said.value} says that this is one of {said.count} processes, but {joined} "
            f"{'is' if joined == 1 else 'are'} together: each such group would train for itself; "
            f"{_FIXES.get(said.variable, _TPU_FIX)}"
        )
    if joined == 1 and said.count == 1 and ADDRESS in environment and COUNT not in environment:
        raise MachineError(
            f"{ADDRESS}={environment[ADDRESS]} names where processes meet, but not how many there are; set "
            f"{COUNT} and {NUMBER} too, or unset it"
        )


def check_single_process(verb: str, environment: Mapping[str, str]) -> None:
    """
    Raises:
        MachineError: a launcher started this process beside others, to do a verb that is the work of one.
    """
    counts = {name: _whole(name, environment.get(name, "1")) for name in _STARTED}
    counts[_INDEX] = _whole(_INDEX, environment.get(_INDEX, "0")) + 1
    for name, count in counts.items():
        if count > 1:
            raise MachineError(
                f"{name}={environment[name]} says that this is one of {count} processes, but `dense-jax {verb}` is the "
                "work of one, and each would write over the others; start it once, without the launcher"
            )


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise MachineError(f"{name}={value} is no whole number; correct it, or unset it") from None
