"""The launchers of SLURM and GKE (tpu_vm.sh has test_launch_tpu.py), and the style of all of them."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dense_jax.errors import Stopped, UserError
from dense_jax.processes import LOST
from tests.launch_stubs import ROOT, World, finish

SCRIPTS = sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch"))
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "4"}
JOB = ("slurm.sbatch", "train", "--config=c.py", "--workdir=/shared/my run")
GKE = ("gke.sh", "ict", "--image=me/dense_jax:1", "--bucket=b", "--dry-run")
APPLY = GKE[:-1]
TRAIN = ("--", "train", "--config=c.py", "--workdir=/mnt/b/ict")
NAMED = {error.code for error in UserError.__subclasses__()} - {Stopped.code}  # exit codes that stop a run for good


@pytest.fixture
def world(tmp_path) -> World:
    world = World.make(tmp_path)
    world.plan("0 0")
    return world


@pytest.mark.slow
def test_shellcheck_finds_nothing_in_any_script():
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.fail("there is no shellcheck; pip install 'dense_jax[test]' brings it")
    done = subprocess.run([program, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in SCRIPTS if path.read_text().count("set -euo pipefail") != 1] == ["tpu_slice.sh"]


# --- SLURM


def test_a_job_runs_its_command_once_for_each_gpu_by_the_checkouts_own_programs(world):
    (world.checkout / ".venv/bin").mkdir(parents=True)
    (world.folder / "bin/dense-jax").rename(world.checkout / ".venv/bin/dense-jax")
    done = world.run(*JOB, **SLURM, SLURM_GPUS_ON_NODE="2", LIBTPU_INIT_ARGS="of the caller")
    assert done.returncode == 0, done.stderr
    said = "train --config=c.py --workdir=/shared/my run LIBTPU_INIT_ARGS=of the caller"
    assert all(f"attempt 1 of process {process}: {said}" in done.stdout for process in (0, 1))
    assert world.called("srun --label --kill-on-bad-exit=0 --cpus-per-task=4 bash") == 1
    assert world.called("scontrol") == 0


def test_a_job_that_stopped_after_saving_goes_back_into_the_queue(world):
    world.plan("75 75", "0 0")
    assert world.run(*JOB, **SLURM).returncode == 75
    assert world.calls[-1] == "scontrol requeue 7"
    assert world.run(*JOB, **SLURM, SLURM_RESTART_COUNT="1").returncode == 0
    assert world.called("scontrol") == 1


@pytest.mark.parametrize(("plan", "status"), [("2 2", 2), ("134 3", 3), ("75 5", 5), ("0 134", 134)])
def test_a_job_that_failed_has_the_status_of_the_process_that_explains_it(world, plan, status):
    world.plan(plan)
    assert world.run(*JOB, **SLURM).returncode == status
    assert world.called("scontrol") == 0


def test_a_cancelled_job_saves_and_stays_cancelled(world):
    world.plan("75 75")
    assert world.run(*JOB, **SLURM, STATE="COMPLETING").returncode == 75
    assert world.called("scontrol") == 0


def test_the_signal_before_the_time_limit_reaches_the_processes_past_srun(world):
    world.plan("wait wait")
    running = world.start(*JOB, **SLURM)
    world.await_start()
    running.send_signal(signal.SIGTERM)
    out, err = finish(running)
    assert running.returncode == 75, err
    assert "saved by 0" in out
    assert "saved by 1" in out
    assert world.calls[-2:] == ["scancel --signal=TERM 7", "scontrol requeue 7"]


def test_the_time_to_save_and_the_queueing_are_asked_for():
    asked = re.findall(r"^#SBATCH (.*)$", (ROOT / "launch/slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--signal=B:TERM@300", "--requeue", "--open-mode=append"} <= set(asked)
    per_node = {word.split("=")[1] for word in asked if "-per-node" in word}
    assert len(per_node) == 1  # as many processes as GPUs


def test_jobs_on_several_nodes_name_their_number_to_the_mesh_wherever_they_are_shown():
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/launch.md", "launch/slurm.sbatch")]
    lines = "\n".join(texts).replace("\\\n", "").splitlines()
    shown = [(line, found[1]) for line in lines if (found := re.search(r"sbatch --nodes=(\d+)", line))]
    assert len(shown) >= 4
    assert [line for line, nodes in shown if nodes != "1" and not line.endswith(f"--mesh.dcn={nodes}")] == []


def test_a_dry_run_of_a_job_prints_its_commands(world):
    done = world.run("slurm.sbatch", "--dry-run", *JOB[1:])
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["srun", "scancel", "scontrol"]
    assert done.stdout.splitlines()[0].endswith(r"dense-jax train --config=c.py --workdir=/shared/my\ run")
    assert not world.calls


@pytest.mark.parametrize(
    ("verb", "variables", "message"),
    [
        ("train", {}, "this is no SLURM job; submit it by sbatch"),
        ("train", SLURM | {"SLURM_GPUS_ON_NODE": "8"}, "--ntasks-per-node=2 for 8 GPUs"),
        ("export", SLURM, "export is one process, and this job has 2; use sbatch --nodes=1 --ntasks-per-node=1"),
    ],
)
def test_a_job_that_cannot_be_is_refused(world, verb, variables, message):
    done = world.run("slurm.sbatch", verb, "--workdir=/shared/run", **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert not world.calls


# --- GKE


def rendered(world: World, *flags: str, program: tuple[str, ...] = TRAIN) -> dict:
    done = world.run(*GKE, *flags, *program)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_the_manifest_takes_all_hosts_of_one_slice(world):
    manifest = rendered(world)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["name"] == "ict"
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    assert (slices["replicas"], job["completions"], job["parallelism"], job["completionMode"]) == (1, 4, 4, "Indexed")
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    other = rendered(world, "--type=tpu-v5p-slice", "--topology=2x2x4")["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert other["completions"] == 2 * 2 * 4 // 4


def test_the_command_and_the_variables_reach_the_container_as_they_are(world):
    odd = '--corpus.source=/mnt/b/a "b" \\ ${NAME} & c\n'
    pod = rendered(world, "--env=LIBTPU_INIT_ARGS=--a=true --b=1", program=(*TRAIN, odd))
    (container,) = pod["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["dense-jax"]  # no shell between, which would keep SIGTERM to itself
    assert container["args"] == [*TRAIN[1:], odd]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables == {
        "JAX_COMPILATION_CACHE_DIR": "/mnt/b/compiled",
        "LIBTPU_INIT_ARGS": "--a=true --b=1",
    }


def test_the_bucket_is_where_the_workdir_is(world):
    pod = rendered(world)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    (volume,) = pod["spec"]["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "b"
    assert pod["spec"]["containers"][0]["volumeMounts"] == [{"name": volume["name"], "mountPath": "/mnt/b"}]


def fate(manifest: dict, status: int, disrupted: bool = False) -> str:
    """What JobSet does when a host ends so, by the documented order: the first rule that fits, then the default."""
    policy, (slices,) = manifest["spec"]["failurePolicy"], manifest["spec"]["replicatedJobs"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(slices["template"]["spec"]["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        fits = disrupted and conditions[0]["type"] == "DisruptionTarget" if conditions else status in codes["values"]
        if fits:
            reason, message = "PodFailurePolicy", f"Pod x has failed matching FailJob rule at index {index}"
            break
    for rule in policy["rules"]:
        if reason in rule["onJobFailureReasons"] and re.search(rule["onJobFailureMessagePatterns"][0], message):
            return rule["action"]
    return "RestartJobSet"


def test_75_and_disruptions_restart_the_jobset_named_errors_fail_it_and_kills_are_counted(world):
    manifest = rendered(world)
    assert fate(manifest, Stopped.code) == "RestartJobSetAndIgnoreMaxRestarts"
    assert {fate(manifest, code) for code in NAMED | {UserError.code}} == {"FailJobSet"}
    assert fate(manifest, 4, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert {fate(manifest, code) for code in (LOST, 137, 139)} == {"RestartJobSet"}
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 0
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy asks for
    assert pod["terminationGracePeriodSeconds"] >= 120
    names = {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"][1:]}
    assert names == {container["name"] for container in pod["containers"]}


def test_what_a_dry_run_prints_is_what_is_applied(world):
    printed = world.run(*GKE, *TRAIN).stdout
    assert not world.calls
    done = world.run(*APPLY, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert [call.split()[1] for call in world.calls] == ["get", "apply"]
    assert (world.folder / "applied").read_text() == printed


@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_a_jobset_that_has_ended_makes_room_for_the_next_of_its_name(world, state):
    world.set("jobset", state)
    done = world.run(*APPLY, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert f"the last JobSet ict has {state}; it is deleted" in done.stderr
    assert [call.split()[1] for call in world.calls] == ["get", "delete", "apply"]
    assert "kubectl delete jobset ict --cascade=foreground" in world.calls  # and its Jobs, whose names the next have


def test_a_jobset_at_work_is_left_alone(world):
    world.set("jobset")
    done = world.run(*APPLY, *TRAIN)
    assert done.returncode == 2
    assert "JobSet ict is at work; use another name, or end it first: kubectl delete jobset ict" in done.stderr
    assert [call.split()[1] for call in world.calls] == ["get"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no name, as in: launch/gke.sh NAME"),
        (("Ict", *GKE[2:], *TRAIN), "name Ict: Kubernetes takes small letters, digits and hyphens"),
        (("ict", "--bucket=b", *TRAIN), "no --image=IMAGE; launch/Dockerfile makes one"),
        (("ict", "--image=i", *TRAIN), "no --bucket=BUCKET"),
        (("ict", *GKE[2:], "--zone=z", *TRAIN), "unknown argument --zone=z"),
        (("ict", *GKE[2:]), "no command with a workdir; it stands at the end"),
        (("ict", *GKE[2:], "--", "train", "--workdir=runs/a"), "--workdir=runs/a is not in the bucket"),
        (("ict", *GKE[2:], "--topology=16", *TRAIN), "--topology=16 is none; they look like 4x4 or 2x2x4"),
        (("ict", *GKE[2:], "--topology=1x2", *TRAIN), "--topology=1x2 has 2 chips, which do not fill hosts of 4"),
        (("ict", *GKE[2:], "--", "export", "--workdir=/mnt/b/a"), "export is one process, and --topology=4x4 has 4"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_is_refused(world, arguments, message):
    done = world.run("gke.sh", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout
