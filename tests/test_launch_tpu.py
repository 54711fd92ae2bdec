"""launch/tpu_vm.sh in a cloud of stubs (launch_stubs.py), whose ssh runs what it is sent in the folder of a worker."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from dense_jax.processes import LOST
from tests.launch_stubs import World, await_true, finish

PLACE = ("--zone=z", "--poll=0")
SLICE = ("--type=v5litepod-16", *PLACE)
RUN = ("tpu_vm.sh", "run", "ict", *SLICE, "--bucket=b")
TRAIN = ("--", "train", "--config=c.py", "--workdir=/mnt/b/ict")
CREATE = "tpu-vm create ict --zone=z --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite"


@pytest.fixture
def world(tmp_path) -> World:
    world = World.make(tmp_path)
    world.plan("0 0")
    return world


def ready(world: World) -> None:
    world.set("node", "READY")
    world.set("type", "v5litepod-16")


def log(world: World, name: str) -> str:
    """What the logs of that name have, of all launches."""
    return "".join(path.read_text() for path in sorted((world.checkout / "runs/launch/ict").glob(f"*/{name}.log")))


def test_a_slice_is_made_and_dense_jax_installed_on_every_worker(world):
    done = world.run("tpu_vm.sh", "create", "ict", *SLICE, "--project=p", "--spot")
    assert done.returncode == 0, done.stderr
    assert world.called("tpu-vm create ict --zone=z --project=p --accelerator-type=v5litepod-16") == 1
    assert "ict is CREATING" in done.stderr
    installed = sorted(path.parent.parent.name for path in world.folder.glob("worker-*/dense_jax-*/.installed"))
    assert installed == ["worker-0", "worker-1"]
    assert world.called("uv pip install --quiet --python .venv/bin/python --constraint constraints.txt") == 2


def test_the_program_runs_once_on_every_worker_with_the_bucket_mounted(world):
    done = world.run(*RUN, "--env=LIBTPU_INIT_ARGS=--a=true --b=1", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert (world.attempts(0), world.attempts(1)) == (1, 1)
    assert (world.folder / "worker-1/mounted").read_text() == "b /mnt/b\n"
    said = "attempt 1 of process 0: train --config=c.py --workdir=/mnt/b/ict LIBTPU_INIT_ARGS=--a=true --b=1"
    assert said in done.stdout  # of the first worker
    assert "process 1" not in done.stdout
    assert "of process 1: train" in log(world, "attempt-1-worker-1")


def test_a_slice_that_is_there_is_taken_and_nothing_installed_twice(world):
    ready(world)
    world.plan("0 0", "0 0")
    assert world.run(*RUN, *TRAIN).returncode == 0
    assert world.run(*RUN, *TRAIN).returncode == 0
    assert world.called("tpu-vm create") == 0
    assert world.called("tpu-vm scp") == 2  # one for each worker
    assert world.called("gcsfuse") == 2
    assert world.attempts(1) == 2


def test_a_slice_of_another_type_is_not_taken(world):
    ready(world)
    done = world.run("tpu_vm.sh", "run", "ict", "--type=v6e-16", *PLACE, "--bucket=b", *TRAIN)
    assert done.returncode == 2
    assert "ict is a v5litepod-16, not the --type=v6e-16" in done.stderr


def test_a_queued_request_is_waited_for(world):
    done = world.run(*RUN, "--spot", "--queued", *TRAIN)
    assert done.returncode == 0, done.stderr
    asked = "queued-resources create ict --node-id=ict --zone=z --accelerator-type=v5litepod-16"
    assert world.called(f"{asked} --runtime-version=v2-alpha-tpuv5-lite --spot") == 1
    assert "ict is in the queue: WAITING_FOR_RESOURCES" in done.stderr
    assert world.called("tpu-vm create") == 0


@pytest.mark.slow
@pytest.mark.parametrize("state", ["PREEMPTED", "GONE"])
def test_after_a_preemption_the_slice_is_made_again_and_the_program_continues(world, state):
    world.plan(f"137 75 {state}", "0 0")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert world.called(CREATE) == 2
    assert world.called("tpu-vm delete") == (1 if state == "PREEMPTED" else 0)
    assert world.called("tpu-vm scp") == 4  # the new workers are empty
    assert world.attempts(0) == 2


@pytest.mark.slow
def test_a_preempted_place_in_the_queue_is_given_up_for_a_new_one(world):
    world.plan("137 137 PREEMPTED", "0 0")
    running = world.start(*RUN, "--queued", *TRAIN)
    world.await_start()
    world.set("queue", "SUSPENDING")
    _, err = finish(running)
    assert running.returncode == 0, err
    assert world.called("queued-resources delete ict --zone=z --force") == 1
    assert world.called("queued-resources create") == 2


@pytest.mark.slow
def test_a_slice_that_was_there_once_is_asked_for_until_there_is_one_again(world):
    ready(world)
    world.plan("75 75 PREEMPTED", "0 0")
    world.set("full", "no\nno\n")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert world.called(CREATE) == 3


def test_a_slice_that_cannot_be_made_ends_with_6_and_names_the_queue(world):
    world.set("full", "no\n")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 6
    assert "--queued waits for one" in done.stderr


@pytest.mark.slow
def test_75_starts_the_program_again_on_the_same_slice(world):
    world.plan("75 75", "75 134", "0 0")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert world.called(CREATE) == 1
    assert (world.attempts(0), world.attempts(1)) == (3, 3)


@pytest.mark.parametrize(("plan", "status"), [("2 2", 2), ("134 3", 3), ("75 5", 5), ("1 134", 1)])
def test_an_error_that_a_worker_explains_stops_at_once_with_its_status(world, plan, status):
    world.plan(plan, "0 0")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == status
    assert world.attempts(0) == 1
    assert f"worker 0: exit status {plan.split()[0]}" in done.stderr


@pytest.mark.slow
def test_a_killed_worker_on_a_sound_slice_is_tried_three_times_in_a_row(world):
    world.plan("137 134", "137 134", "75 75", *["137 134"] * 9)
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 134
    assert world.attempts(0) == 2 + 1 + 3


def test_a_worker_that_one_connection_did_not_reach_is_started_with_the_others_again(world):
    world.plan(f"{LOST} 0", "0 0")  # the first worker waits for the second in vain
    world.set("unreachable-1", "no\n")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert (world.attempts(0), world.attempts(1)) == (2, 1)


@pytest.mark.slow
def test_only_killed_workers_in_a_row_count_and_a_long_attempt_ends_the_row(world):
    script = world.checkout / "launch/tpu_vm.sh"
    script.write_text(re.sub("^LONG=.*", "LONG=0", script.read_text(), flags=re.MULTILINE))
    world.plan(*["137 134"] * 5, "0 0")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert world.attempts(0) == 6


def unreachable(world: World, times: int) -> None:
    for worker in (0, 1):
        world.set(f"unreachable-{worker}", "no\n" * times)


@pytest.mark.slow
def test_workers_without_an_answer_may_be_at_work_and_are_asked_again_for_long(world):
    unreachable(world, 9)
    world.plan("137 137", "137 137", "0 0")  # these are counted by themselves
    done = world.run(*RUN, "--delete", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert "no word from the workers, 9 in a row" in done.stderr
    assert world.called("tpu-vm delete") == 1


@pytest.mark.slow
def test_workers_without_an_answer_end_with_6_and_are_never_deleted(world):
    unreachable(world, 99)
    done = world.run(*RUN, "--delete", *TRAIN)
    assert done.returncode == 6
    assert "no word from the workers of ict, 10 times in a row: they may be at work, and are left alone" in done.stderr
    assert world.called("tpu-vm delete") == 0


def test_an_installation_that_fails_names_its_logs(world):
    world.set("broken")
    done = world.run("tpu_vm.sh", "create", "ict", *SLICE)
    assert done.returncode == 6
    assert re.search(r"could not be set up; runs/launch/ict/\S+/install-\*.log say why", done.stderr)
    assert "error: no such package" in log(world, "install-0")


def test_gcloud_without_an_answer_is_asked_again(world):
    ready(world)
    world.set("silent")
    done = world.run(*RUN, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert "gcloud gave no answer (try 1 of 5): ERROR: try later" in done.stderr
    assert world.called("tpu-vm create") == 0


def test_interrupted_it_lets_the_workers_save_and_starts_nothing_again(world):
    world.plan("wait wait", "0 0")
    running = world.start(*RUN, "--delete", *TRAIN)
    world.await_start()
    running.send_signal(signal.SIGINT)
    _, err = finish(running)
    assert running.returncode == 75
    assert "stopped; the same command continues" in err
    assert "saved by 1" in log(world, "attempt-1-worker-1")
    assert (world.attempts(0), world.called("tpu-vm delete")) == (1, 0)


@pytest.mark.slow
def test_a_program_outlives_its_launcher_and_is_followed_by_the_next(world):
    world.plan("wait wait", "0 0")
    first = world.start(*RUN, *TRAIN)
    world.await_start()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = world.start(*RUN, *TRAIN)
    await_true(lambda: all("== already at work" in log(world, f"attempt-1-worker-{worker}") for worker in (0, 1)))
    for state in world.folder.glob("worker-*/.dense_jax"):  # as when the machine shuts down: all get SIGTERM
        for file in (next(state.glob("*.pid")), state / "program"):
            os.kill(int(file.read_text()), signal.SIGTERM)
    _, err = finish(second)
    assert second.returncode == 0, err
    assert (world.attempts(0), world.attempts(1)) == (2, 2)  # followed to its end by 75, then the second one
    assert all("saved by" in log(world, f"attempt-1-worker-{worker}") for worker in (0, 1))
    assert "== exit status 75" in log(world, "attempt-1-worker-0")


@pytest.mark.slow
def test_a_worker_at_work_on_another_command_is_left_alone(world):
    world.plan("wait wait")
    first = world.start(*RUN, *TRAIN)
    world.await_start()
    second = world.run(*RUN, "--", "train", "--config=other.py", "--workdir=/mnt/b/other")
    assert second.returncode == 6
    assert "is at work on another command: " in log(world, "attempt-1-worker-1")
    first.send_signal(signal.SIGTERM)
    finish(first)
    assert world.attempts(0) == 1


def test_one_worker_alone_runs_what_is_one_process(world):
    world.plan("0 0", "0 0")
    prepare = ("--", "prepare", "--config=c.py", "--workdir=/mnt/b/ict")
    refused = world.run(*RUN, *prepare)
    assert refused.returncode == 2
    assert "prepare is one process, and ict has 2 workers; use --worker=0" in refused.stderr
    assert world.run(*RUN, "--worker=0", *prepare).returncode == 0
    assert (world.attempts(0), world.attempts(1)) == (1, 0)
    assert world.run(*RUN, *prepare, HOSTS="1").returncode == 0  # nothing to choose from


def test_one_worker_alone_waits_for_no_others_tpus(world):
    alone = ("--worker=0", "--dry-run", "--", "export", "--config=c.py", "--workdir=/mnt/b/ict")
    assert " JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=/mnt/b/compiled export " in world.run(*RUN, *alone).stdout
    assert " JAX_PLATFORMS=tpu export " in world.run(*RUN, "--env=JAX_PLATFORMS=tpu", *alone).stdout
    assert "JAX_PLATFORMS" not in world.run(*RUN, "--dry-run", *TRAIN).stdout


def test_a_commit_is_installed_as_it_was_and_a_checkout_as_it_is(world):
    (world.checkout / "constraints.txt").write_text("second\n")
    (world.checkout / "new.py").write_text("untracked\n")
    for flags in ((), ("--commit=HEAD",)):
        assert world.run("tpu_vm.sh", "create", "ict", *SLICE, *flags).returncode == 0
    found = {path.read_text(): path.parent for path in world.folder.glob("worker-0/dense_jax-*/constraints.txt")}
    assert found.keys() == {"first\n", "second\n"}
    assert (found["second\n"] / "new.py").exists()
    assert not (found["first\n"] / "new.py").exists()


def test_a_setup_command_runs_on_every_worker_before_the_program(world):
    setup = ('--setup=echo "set up" >disk', "--", "train", "--workdir=/disk/ict")
    assert world.run("tpu_vm.sh", "run", "ict", *SLICE, *setup).returncode == 0
    assert all((world.folder / f"worker-{worker}/disk").read_text() == "set up\n" for worker in (0, 1))
    assert world.called("gcsfuse") == 0


def test_the_slice_is_deleted_at_the_end_if_asked_whatever_the_end(world):
    world.plan("3 3")
    assert world.run(*RUN, "--delete", *TRAIN).returncode == 3
    assert not (world.folder / "node").exists()


def test_delete_takes_the_slice_and_its_place_in_the_queue(world):
    assert world.run("tpu_vm.sh", "delete", "ict", *PLACE).returncode == 0
    assert world.called("tpu-vm delete") + world.called("queued-resources delete") == 0  # there is none
    world.set("node", "READY")
    assert world.run("tpu_vm.sh", "delete", "ict", *PLACE).returncode == 0
    assert world.called("tpu-vm delete ict --zone=z") == 1
    world.set("queue", "ACTIVE")
    assert world.run("tpu_vm.sh", "delete", "ict", *PLACE).returncode == 0
    assert world.called("queued-resources delete ict --zone=z --force") == 1


def without(program: str, folder: Path) -> str:
    """A PATH that has everything but `program`."""
    folder.mkdir()
    for path in reversed(os.environ["PATH"].split(":")):
        for file in Path(path).iterdir() if Path(path).is_dir() else ():
            if file.name != program and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return str(folder)


def test_a_dry_run_prints_all_commands_and_needs_no_gcloud(world, tmp_path):
    path = without("gcloud", tmp_path / "path")
    assert shutil.which("gcloud", path=path) is None
    done = world.run(*RUN, "--queued", "--delete", "--dry-run", "--env=A=b c", *TRAIN, PATH=path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("$ gcloud compute tpus ") for line in lines)
    kinds = [" ".join(line.split()[4:6]) for line in lines]
    changing = [kind for kind in kinds if not kind.endswith("describe")]
    setup = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]  # copy, install, mount
    ends = ["tpu-vm ssh", "tpu-vm ssh", "queued-resources delete"]  # the program on two workers
    assert changing == ["queued-resources create", *setup, *setup, *ends]
    assert lines.count(
        next(line for line in lines if r"JAX_COMPILATION_CACHE_DIR=/mnt/b/compiled A=b\ c train" in line)
    )
    assert not (world.checkout / "runs").exists()
    assert not world.calls
    real = world.run(*RUN, *TRAIN, PATH=path)
    assert real.returncode == 6
    assert "gcloud is missing; install Google Cloud's CLI, or use --dry-run" in real.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no action and name"),
        (("start", "ict", *SLICE), "no action start; there are create, run and delete"),
        (("run", "ict", "--type=v4-8", *TRAIN), "no --zone=ZONE, where ict is or shall be"),
        (("create", "ict", *PLACE), "no --type=TYPE of slice, such as v5litepod-16"),
        (("create", "ict", "--type=v9-8", *PLACE), "no image is known for --type=v9-8; name it by --version=VERSION"),
        (("create", "ict", *SLICE, "--comit=a"), "unknown argument --comit=a; flags stand before --"),
        (("create", "ict", *SLICE, "--commit=a"), "--commit=a is none of this repository"),
        (("run", "ict", *SLICE, "--bucket=b"), "no command with a workdir; it stands at the end: -- train"),
        (("run", "ict", *SLICE, *TRAIN), "--workdir=/mnt/b/ict would be on each worker's own disk; use --bucket"),
        (("run", "ict", *SLICE, "--bucket=c", *TRAIN), "--workdir=/mnt/b/ict is not in the bucket"),
        (("run", "ict", *SLICE, "--setup=:", "--", "train", "--workdir=runs/ict"), "runs/ict is not absolute"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_made(world, arguments, message):
    done = world.run("tpu_vm.sh", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not world.calls
