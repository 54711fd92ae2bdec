"""What the probes of a run have found, which state is the best, and whether it is time to stop.

It stands in the workdir's probes.json, which is replaced as a whole. A probe is written before the checkpoint of its
step: so a run that goes on from a checkpoint knows all probes up to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dense_jax.config import ProbeConfig, Select
from dense_jax.errors import StorageError
from dense_jax.io import read_json, write_json
from dense_jax.schemas import Probes

FILE = "probes.json"


@dataclass(frozen=True)
class History:
    """The probes of one run on one sample, and by which rules they are judged."""

    sample: str  # its fingerprint
    measure: str
    select: Select
    patience: int
    probes: tuple[dict[str, Any], ...] = ()  # {"step": 100, "nDCG@10": 0.3, ...}, in the order of steps

    @property
    def steps(self) -> list[int]:
        return [probe["step"] for probe in self.probes]

    @property
    def best(self) -> int | None:
        """The step of the best probe, of equal ones the first; None if there is none."""
        return max(self.probes, key=lambda probe: probe[self.measure])["step"] if self.probes else None

    @property
    def ended(self) -> str:
        """By which rule training is at its end; empty if it is not."""
        since = len(self.probes) - 1 - self.steps.index(self.best) if self.best is not None else 0
        if not self.patience or since < self.patience:
            return ""
        return (
            f"{since} probes in a row were no better in {self.measure} than that of step {self.best:,} "
            f"(probe.patience={self.patience})"
        )

    @property
    def loss(self) -> str:
        """A sentence on a measure that is lower now than before the first step; empty if it is not."""
        if self.steps[:1] != [0]:
            return ""
        before, after = (self.probes[i][self.measure] for i in (0, -1))
        if after >= before:
            return ""
        return f"training lowered {self.measure} on the probe's sample from {before:.3f} to {after:.3f}"

    def added(self, step: int, figures: dict[str, float]) -> "History":
        return replace(self, probes=(*self.probes, {"step": step, **figures}))

    def write(self, workdir: Path) -> None:
        """Replaces what the workdir has."""
        write_json(workdir / FILE, vars(self) | {"select": self.select.value})


def read_history(workdir: Path) -> History | None:
    """What the workdir has; None if it was never probed."""
    if not (workdir / FILE).is_file():
        return None
    found = read_json(workdir / FILE, Probes)
    if not all(isinstance(probe.get(found["measure"]), float | int) for probe in found["probes"]):
        raise StorageError(f"{workdir / FILE}: damaged (a probe lacks {found['measure']}); restore it from a copy")
    return History(**found | {"select": Select(found["select"]), "probes": tuple(found["probes"])})


def continued(workdir: Path, config: ProbeConfig, sample: str, step: int) -> History:
    """The probes on `sample` that a run which goes on from `step` has behind it, judged by the rules of `config`."""
    before = read_history(workdir)
    known = before.probes if before is not None and before.sample == sample else ()
    past = tuple(probe for probe in known if probe["step"] <= step)
    return History(sample, config.measure, config.select, config.patience, past)


def selected(workdir: Path, select: Select, measure: str, steps: Sequence[int]) -> int:
    """The one of `steps`, those of the checkpoints of `workdir`, that is meant where none is named; -1: the newest.

    Raises:
        StorageError: the best is asked for, and it is not among them or nothing was probed.
    """
    if select is Select.NEWEST:
        return -1
    history = read_history(workdir)
    best = replace(history, measure=measure).best if history is not None else None
    if best is None:
        raise StorageError(
            f"{workdir}: nothing was probed, so there is no best checkpoint; train with --probe.every=STEPS, or "
            "use --probe.select=newest"
        )
    if best not in steps:
        raise StorageError(
            f"{workdir}: the best probe is of step {best:,}, whose checkpoint was not kept (probe.select=best keeps it "
            f"while training); there are {[*steps]}: name one by --embed.step"
        )
    return best
