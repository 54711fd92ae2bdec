"""The processes that the environment announces are the ones that join."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dense_jax.errors import MachineError
from dense_jax.processes.distributed import (
    LOST_PROCESS,
    check_equal_devices,
    check_process_count,
    check_single_process,
    expected_processes,
    explicit_coordinates,
)

ROOT = Path(__file__).parent.parent
HAND = {"JAX_COORDINATOR_ADDRESS": "localhost:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        (HAND, 4),
        ({"SLURM_NTASKS": "8"}, 8),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, 1),  # one alone by srun, in a job of eight
        ({"SLURM_NTASKS": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 4),  # mpirun in a SLURM job
        ({"PMI_SIZE": "2"}, 2),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1,t-2,t-3"}, 4),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1", "MEGASCALE_NUM_SLICES": "3"}, 6),
        ({"JOB_COMPLETION_INDEX": "2"}, 3),
    ],
)
def test_as_many_processes_are_announced_as_the_launcher_started(environment, count):
    assert expected_processes(environment).processes == count
    check_process_count(count, environment)


@pytest.mark.parametrize(
    ("joined", "environment", "message"),
    [
        (1, {"SLURM_NTASKS": "8"}, r"SLURM_NTASKS=8 says that this is one of 8 processes, but 1 is together.* by srun"),
        (2, {"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4 says .* but 2 are together.*mpirun"),
        (4, {"SLURM_NTASKS": "2"}, "one of 2 processes, but 4 are"),
        (1, {"TPU_WORKER_HOSTNAMES": "a,b"}, "one of 2 processes.*start the same command on all hosts of the slice"),
        (1, {"JOB_COMPLETION_INDEX": "1"}, r"one of 2 processes.*install jax\[k8s\]"),
        (
            1,
            {"JAX_COORDINATOR_ADDRESS": "h:1"},
            "h:1 names a coordinator, but not the number.*JAX_NUM_PROCESSES",
        ),
        (1, {"SLURM_NTASKS": "all"}, "SLURM_NTASKS=all is not a whole number"),
    ],
)
def test_others_than_are_announced_are_refused_with_the_cure(joined, environment, message):
    with pytest.raises(MachineError, match=message):
        check_process_count(joined, environment)


@pytest.mark.parametrize("variable", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JAX_NUM_PROCESSES"])
def test_the_work_of_one_process_is_not_started_as_several(variable):
    with pytest.raises(
        MachineError, match="=4 says that this is one of 4 processes, but `dense-jax prepare` takes one"
    ):
        check_single_process("prepare", {variable: "4"})


def test_the_work_of_one_process_is_not_done_by_the_second_pod_of_an_indexed_job():
    check_single_process("prepare", {"JOB_COMPLETION_INDEX": "0"})
    with pytest.raises(MachineError, match="JOB_COMPLETION_INDEX=1 says that this is one of 2 processes, but"):
        check_single_process("prepare", {"JOB_COMPLETION_INDEX": "1"})


def test_the_work_of_one_process_is_done_in_a_job_of_several_and_by_a_launcher_of_one():
    for environment in ({"SLURM_NTASKS": "4"}, {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, {}):
        check_single_process("prepare", environment)


def test_a_pod_of_an_indexed_job_knows_only_how_many_are_before_it():
    check_process_count(4, {"JOB_COMPLETION_INDEX": "0"})


def test_three_variables_join_processes_without_a_launcher():
    assert explicit_coordinates({}) is None
    assert explicit_coordinates({"JAX_COORDINATOR_ADDRESS": "h:1"}) is None  # JAX's own; the launcher may say the rest
    assert explicit_coordinates(HAND) == ("localhost:1234", 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"JAX_PROCESS_ID": "4"},
            "JAX_PROCESS_ID=4 is out of range for JAX_NUM_PROCESSES=4; number .* from 0 to 3",
        ),
        ({"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID=first is not a whole number"),
        ({"JAX_COORDINATOR_ADDRESS": None}, "JAX_NUM_PROCESSES=4 without JAX_COORDINATOR_ADDRESS; set all of"),
    ],
)
def test_three_variables_that_do_not_go_together_are_refused(change, message):
    environment = {name: value for name, value in (HAND | change).items() if value is not None}
    with pytest.raises(MachineError, match=message):
        explicit_coordinates(environment)


def test_processes_with_other_numbers_of_devices_are_named():
    check_equal_devices([0, 0, 1, 1])
    with pytest.raises(MachineError, match="process 2 has 1 of the 2 devices that the others have"):
        check_equal_devices([0, 0, 1, 1, 2, 3, 3])


START = """
import json, sys
from dense_jax.errors import UserError
from dense_jax.processes.distributed import start_distributed
try:
    start_distributed(json.loads(sys.argv[1]), patience=int(sys.argv[2]))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""


LEAVE = """
import os, signal, sys, time
import jax
from dense_jax.processes.distributed import _leave
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(True))
jax.config.update("jax_enable_preemption_service", True)
jax.distributed.initialize(sys.argv[1], 1, 0)
jax.devices()
_leave()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
print(came, jax.distributed.is_initialized(), jax.numpy.arange(4).sum())
"""


@pytest.mark.slow
def test_whoever_leaves_a_cluster_of_one_hears_sigterm_again_and_computes_on():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", LEAVE, address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "[True] False 6\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "patience", "status", "message"),
    [
        ({}, 300, 0, "1 process x 1 cpu device\n"),
        (HAND | {"JAX_NUM_PROCESSES": "1"}, 300, 0, "1 process x 1 cpu device\n"),
        ({"JOB_COMPLETION_INDEX": "0"}, 300, 0, "1 process x 1 cpu device\n"),
        ({"SLURM_NTASKS": "2"}, 300, 6, "SLURM_NTASKS=2 says that this is one of 2 processes, but 1 is together"),
        (HAND | {"JAX_PROCESS_ID": "1"}, 3, LOST_PROCESS, "not all processes joined; read the output of the others"),
    ],
)
def test_a_process_starts_alone_only_where_it_is_alone(environment, patience, status, message):
    command = [sys.executable, "-c", START, json.dumps(environment), str(patience)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
