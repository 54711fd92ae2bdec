"""Several real processes look passages up: all in the same version, and what they learn is what one process learns."""

import json
from pathlib import Path

import pytest

from tests.neighbours_together import learn


def losses(workdir: Path) -> list[tuple[int, float, float]]:
    """Step, loss and version of each step, as the first process logs them."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["index/step"]) for row in rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize(("every", "fresh"), [(4, "stale"), (0, "fresh")])
def test_two_processes_learn_what_one_learns(together, tmp_path, every, fresh):
    learn(tmp_path / "one", str(every), fresh)
    together(2).do("tests.neighbours_together.learn", tmp_path / "two", str(every), fresh)
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert [step for step, _, _ in two] == [1, 2, 3, 4, 5, 6]
    assert [version for _, _, version in two] == [version for _, _, version in one]
    assert [loss for _, loss, _ in two] == pytest.approx(
        [loss for _, loss, _ in one], rel=1e-4
    )  # sums in another order
