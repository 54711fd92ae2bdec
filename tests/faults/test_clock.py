"""A clock that is set back by 30 seconds, as by a time server or a suspended machine, does not end a lone process."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.command_line import arguments, start

pytestmark = pytest.mark.slow


@pytest.fixture
def clock(tmp_path) -> dict[str, str]:
    """The environment of a process whose clock is set back once the file `back` exists."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the clock")
    source, library = Path(__file__).parent / "clock.c", tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library), "SET_BACK": str(tmp_path / "back")}


def test_a_lone_trainer_goes_on_when_its_clock_is_set_back(made, tmp_path, clock):
    left_out = shutil.ignore_patterns("checkpoints", "config.json", "metrics*", "tensorboard")
    workdir = shutil.copytree(made / "run", tmp_path / "run", ignore=left_out)
    argv = arguments(made / "documents.jsonl", workdir, "--steps=100000", "--checkpoint.every=1000")
    running, metrics = start("train", *argv, environment=clock), workdir / "metrics.jsonl"
    while running.poll() is None and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.05)
    (tmp_path / "back").touch()
    time.sleep(5)  # JAX's heartbeats end a process of a cluster after one or two
    running.terminate()
    _, said = running.communicate(timeout=200)
    assert running.returncode == 75, said
    assert _last_time(workdir) < time.time() - 25, "the clock was not set back"


def _last_time(workdir: Path) -> float:
    """The wall time of TensorBoard's last event."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (workdir / "tensorboard").iterdir()
    raw, found = path.read_bytes(), 0.0
    while raw:
        length = int.from_bytes(raw[:8], "little")
        found = Event.FromString(raw[12 : 12 + length]).wall_time
        raw = raw[16 + length :]
    return found
