"""Several real processes look passages up: all in the same version, and what they learn is what one process learns."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def losses(workdir: Path, processes: int, every: int, fresh: str) -> list[tuple[int, float, float]]:
    """Step, loss and version of each step, as the first process logs them."""
    workdir.mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.neighbours_together", *map(str, (i, processes, port, workdir, every, fresh))],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    said = [one.communicate(timeout=200)[1] for one in running]
    assert [one.returncode for one in running] == [0] * processes, "\n".join(said)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["index/step"]) for row in rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize(("every", "fresh"), [(4, "stale"), (0, "fresh")])
def test_two_processes_learn_what_one_learns(tmp_path, every, fresh):
    one, two = (losses(tmp_path / str(count), count, every, fresh) for count in (1, 2))
    assert [step for step, _, _ in two] == [1, 2, 3, 4, 5, 6]
    assert [version for _, _, version in two] == [version for _, _, version in one]
    assert [loss for _, loss, _ in two] == pytest.approx(
        [loss for _, loss, _ in one], rel=1e-4
    )  # sums in another order
