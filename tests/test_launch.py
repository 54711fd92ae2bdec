"""The launchers of docs/launch.md: SLURM, GKE, SkyPilot and plain gcloud."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dense_jax import verbs
from dense_jax.config.command_line import VERBS, parse
from dense_jax.errors import Stopped, UserError
from dense_jax.processes.distributed import LOST_PROCESS
from tests.launch_schemas import JOBSET, SKY, problems
from tests.launch_stubs import ROOT, World, finish

FOLDERS = (ROOT / "launch", ROOT / "benchmarks")
SCRIPTS = sorted(path for folder in FOLDERS for path in folder.iterdir() if path.suffix in (".sh", ".sbatch"))
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "4"}
JOB = ("launch/slurm.sbatch", "train", "--config=c.py", "--workdir=/shared/my run")
GCLOUD = {"NAME": "ict", "ZONE": "z", "TYPE": "v6e-16", "VERSION": "v2-alpha-tpuv6e", "BUCKET": "b"}
EXPLAINED = {error.code for error in UserError.__subclasses__()} - {Stopped.code}  # exit codes that end a run for good


def manifest(name: str) -> dict:
    return yaml.safe_load((ROOT / "launch" / name).read_text())


TASK = manifest("sky.yaml")
GKE = manifest("gke.yaml")
(SLICES,) = GKE["spec"]["replicatedJobs"]
JOB_SPEC = SLICES["template"]["spec"]
POD = JOB_SPEC["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.fixture
def world(tmp_path) -> World:
    world = World.make(tmp_path)
    world.plan("0 0")
    return world


@pytest.mark.slow
def test_the_image_is_not_run_as_root_and_holds_all_that_the_package_is_made_of():
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    installed = next(i for i, line in enumerate(lines) if line.startswith("RUN pip install"))
    assert installed < lines.index("USER 1000")  # who may write to no folder of the package
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)


def test_shellcheck_finds_nothing_in_any_script(tmp_path):
    neighbour = Path(sys.executable).parent / "shellcheck"
    program = str(neighbour) if neighbour.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.fail("shellcheck is missing; pip install 'dense_jax[test]' brings it")
    embedded = [tmp_path / "setup.sh", tmp_path / "run.sh"]
    for path in embedded:
        path.write_text(f"#!/usr/bin/env bash\n{TASK[path.stem]}")
    done = subprocess.run([program, "-x", *SCRIPTS, *embedded], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in SCRIPTS if path.read_text().count("set -euo pipefail") != 1] == []


def test_the_commands_that_the_launchers_show_are_commands_of_dense_jax():
    commands = [CONTAINER["args"]]
    for name in ("sky.yaml", "gcloud.sh", "slurm.sbatch"):
        text = (ROOT / "launch" / name).read_text().replace("\\\n#", "")
        commands += [found.split() for found in re.findall(r"(?:train|prepare) --config=ict[^\n\"]*", text)]
    assert len(commands) == 5
    for verb, *words in commands:
        flags = [word for word in words if word.startswith("--")]
        assert verb in VERBS
        assert str(parse(flags).workdir).endswith("/ict"), flags


def test_the_launchers_run_the_verbs_of_one_process_as_one():
    expected = set(VERBS) - verbs._TOGETHER - {"train"}
    texts = [(ROOT / name).read_text() for name in ("launch/sky.yaml", "launch/slurm.sbatch", "docs/launch.md")]
    *cases, named = texts
    assert [set(re.search(r"(prepare( \| \w+)+)\)", text)[1].split(" | ")) for text in cases] == [expected] * 2
    assert set(re.findall(r"`(\w+)`", re.search(r"^(`prepare`.*) are one process", named, re.MULTILINE)[1])) == expected


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
    texts = [(ROOT / name).read_text() for name in ("docs/launch.md", "launch/slurm.sbatch")]
    lines = "\n".join(texts).replace("\\\n", "").splitlines()
    shown = [(line, found[1]) for line in lines if (found := re.search(r"sbatch --nodes=(\d+)", line))]
    assert len(shown) >= 4
    assert [line for line, nodes in shown if nodes != "1" and not line.endswith(f"--mesh.dcn={nodes}")] == []


def test_a_dry_run_of_a_job_prints_its_commands(world):
    done = world.run("launch/slurm.sbatch", "--dry-run", *JOB[1:])
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["srun", "scancel", "scontrol"]
    assert done.stdout.splitlines()[0].endswith(r"dense-jax train --config=c.py --workdir=/shared/my\ run")
    assert not world.calls


@pytest.mark.parametrize(
    ("verb", "variables", "message"),
    [
        ("train", {}, "this is not a SLURM job; submit it by sbatch"),
        ("train", SLURM | {"SLURM_GPUS_ON_NODE": "8"}, "--ntasks-per-node=2 for 8 GPUs"),
        ("export", SLURM, "export is one process, and this job has 2; use sbatch --nodes=1 --ntasks-per-node=1"),
    ],
)
def test_a_job_that_cannot_be_is_refused(world, verb, variables, message):
    done = world.run("launch/slurm.sbatch", verb, "--workdir=/shared/run", **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert not world.calls


# --- GKE


def test_the_jobset_has_fields_of_the_api_only():
    assert problems(GKE, JOBSET) == []


def test_the_jobset_has_as_many_pods_as_hosts_in_the_topology():
    topology = POD["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns = map(int, topology.split("x"))
    hosts = rows * columns // CONTAINER["resources"]["limits"]["google.com/tpu"]
    assert (JOB_SPEC["completions"], JOB_SPEC["parallelism"], JOB_SPEC["completionMode"]) == (hosts, hosts, "Indexed")


def test_the_jobset_mounts_the_bucket_that_holds_workdir_and_corpus():
    (volume,) = POD["volumes"]
    (mount,) = CONTAINER["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert JOB_SPEC["template"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    places = [word.split("=")[1] for word in CONTAINER["args"] if word.startswith(("--workdir", "--corpus.source"))]
    places += [variable["value"] for variable in CONTAINER["env"]]
    assert len(places) == 3
    assert all(place.startswith(f"{mount['mountPath']}/") for place in places)


def action(status: int, disrupted: bool = False) -> str:
    """Return the action of JobSet when a host ends with `status`: the first rule that matches, else the default."""
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(JOB_SPEC["podFailurePolicy"]["rules"]):
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if disrupted and conditions[0]["type"] == "DisruptionTarget" if conditions else status in codes["values"]:
            reason, message = "PodFailurePolicy", f"Pod x has failed matching FailJob rule at index {index}"
            break
    for rule in GKE["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"] and re.search(rule["onJobFailureMessagePatterns"][0], message):
            return rule["action"]
    return "RestartJobSet"


def test_75_and_disruptions_restart_the_jobset_explained_errors_fail_it_and_kills_are_counted():
    assert action(Stopped.code) == "RestartJobSetAndIgnoreMaxRestarts"
    assert action(4, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert {action(code) for code in EXPLAINED | {UserError.code}} == {"FailJobSet"}
    assert {action(code) for code in (LOST_PROCESS, 137, 139)} == {"RestartJobSet"}
    assert GKE["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_a_failed_host_fails_its_job_at_once_by_the_exit_code_of_the_program():
    assert JOB_SPEC["backoffLimit"] == 0
    assert {rule["action"] for rule in JOB_SPEC["podFailurePolicy"]["rules"]} == {"FailJob"}
    names = {rule["onExitCodes"]["containerName"] for rule in JOB_SPEC["podFailurePolicy"]["rules"][1:]}
    assert names == {CONTAINER["name"]}
    assert CONTAINER["command"] == ["dense-jax"]  # a shell would keep SIGTERM to itself
    assert POD["terminationGracePeriodSeconds"] >= 120


# --- SkyPilot


def test_the_managed_job_has_fields_of_skypilot_only():
    assert problems(TASK, SKY) == []


def test_the_managed_job_recovers_from_75_and_from_no_error():
    recovery = TASK["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [Stopped.code]
    assert recovery["max_restarts_on_errors"] == 0  # they would count 2 to 6 too
    assert TASK["resources"]["use_spot"] is True


def test_the_managed_job_keeps_compiled_programs_in_the_mounted_bucket():
    ((folder, mount),) = TASK["file_mounts"].items()
    assert mount == {"source": "gs://${BUCKET}", "mode": "MOUNT"}
    assert TASK["envs"]["JAX_COMPILATION_CACHE_DIR"].startswith(f"{folder}/")


def host(world: World, words: str, rank: int) -> subprocess.CompletedProcess[str]:
    """Run the managed job's script as SkyPilot does on the host of this rank."""
    (world.checkout / ".venv/bin").mkdir(parents=True, exist_ok=True)
    program = world.checkout / ".venv/bin/dense-jax"
    program.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "JAX_PLATFORMS=${JAX_PLATFORMS:-}" "$@"; exit 75\n')
    program.chmod(0o755)
    return world.run("bash", "-c", TASK["run"], ARGS=words, SKYPILOT_NODE_RANK=str(rank))


def test_every_host_of_the_managed_job_runs_the_program_and_ends_with_its_status(world):
    for rank in (0, 1):
        done = host(world, "train --config=ict:base --workdir=/bucket/ict", rank)
        assert done.returncode == 75, done.stderr
        assert done.stdout.splitlines() == ["JAX_PLATFORMS=", "train", "--config=ict:base", "--workdir=/bucket/ict"]


def test_the_first_host_of_the_managed_job_alone_does_the_work_of_one_process(world):
    assert host(world, "prepare --config=ict:base", 0).stdout.splitlines()[:2] == ["JAX_PLATFORMS=cpu", "prepare"]
    assert (host(world, "prepare --config=ict:base", 1).stdout, host(world, "export", 1).returncode) == ("", 0)


# --- gcloud


def test_a_slice_is_created_and_the_last_commit_installed_on_all_hosts(world):
    done = world.run("launch/gcloud.sh", "create", "--spot", **GCLOUD)
    assert done.returncode == 0, done.stderr
    begun = [call for call in world.calls if call.startswith("gcloud")]
    assert [call.split()[4] for call in begun] == ["create", "scp", "ssh"]
    assert "ict --accelerator-type=v6e-16 --version=v2-alpha-tpuv6e --spot --zone=z" in begun[0]
    assert all("--worker=all" in call for call in begun[1:])
    assert any(line.endswith(" b /mnt/bucket --zone=z --quiet") for line in world.calls)  # gcsfuse, the last command


def test_the_program_runs_on_all_hosts_with_its_words_as_they_are(world):
    done = world.run("launch/gcloud.sh", "run", "train", "--workdir=/mnt/bucket/my run", **GCLOUD, STATUS="75")
    assert done.returncode == 75
    command = " ".join(world.calls).partition("--command=")[2].partition(" --zone=")[0]
    assert shlex.split(command)[-3:] == [".venv/bin/dense-jax", "train", "--workdir=/mnt/bucket/my run"]
    assert world.called("gcloud compute tpus tpu-vm ssh ict --worker=all") == 1
    assert "JAX_PLATFORMS" not in command


def test_one_host_alone_uses_its_cpu(world):
    assert world.run("launch/gcloud.sh", "run", "export", **GCLOUD, WORKER="0").returncode == 0
    assert "--worker=0" in world.calls[0]
    assert "JAX_PLATFORMS=cpu" in world.calls[0]


def test_stop_and_delete_name_the_slice(world):
    for name in ("stop", "delete"):
        assert world.run("launch/gcloud.sh", name, **GCLOUD).returncode == 0
    assert world.called("gcloud compute tpus tpu-vm ssh ict --worker=all --command=pkill -TERM") == 1
    assert world.calls[-1] == "gcloud compute tpus tpu-vm delete ict --zone=z --quiet"


def test_a_dry_run_of_gcloud_prints_its_commands_and_runs_none(world):
    done = world.run("launch/gcloud.sh", "delete", **GCLOUD, DRY_RUN="1")
    assert done.stdout == "gcloud compute tpus tpu-vm delete ict --zone=z --quiet\n"
    assert not world.calls


def test_gcloud_needs_a_name_and_an_action(world):
    assert "NAME: is not set" in world.run("launch/gcloud.sh", "delete").stderr
    done = world.run("launch/gcloud.sh", "destroy", **GCLOUD)
    assert done.returncode == 2
    assert "no action destroy; use create, run, stop or delete" in done.stderr
