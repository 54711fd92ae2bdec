"""A clock that is set back by 30 seconds, as by a time server or a suspended machine, does not end a lone process."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.command_line import arguments, ended, start, write_corpus

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


def test_a_lone_trainer_goes_on_when_its_clock_is_set_back(tmp_path, clock):
    corpus, metrics = write_corpus(tmp_path / "documents.jsonl"), tmp_path / "run" / "metrics.jsonl"
    argv = arguments(corpus, tmp_path / "run", "--steps=300", "--checkpoint.every=50", "--log_every=50")
    status, said = ended("prepare", *argv)
    assert status == 0, said
    running = start("train", *argv, environment=clock)
    while running.poll() is None and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.05)
    before = metrics.read_text()
    (tmp_path / "back").touch()
    _, said = running.communicate(timeout=250)
    assert running.returncode == 0, said
    assert before and '"step": 300' not in before, "training ended before the clock was set back"
    assert _last_time(tmp_path / "run") < time.time() - 25, "the clock was not set back"


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
