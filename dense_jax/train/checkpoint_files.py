"""Folder of a run's checkpoints: complete steps, damaged steps, and entries that do not belong to the run.

    STEP/               one checkpoint, as Orbax writes it; its last file, COMMIT, marks it as complete
    digests-STEP.json   the seal: a digest of each file of STEP, written once STEP is committed
    saving.json         the step of the running save; it proves that an incomplete STEP belongs to this run
    quarantine/         damaged checkpoints with their digests, and numbered entries that this run did not write

Only a sealed step and the incomplete step that saving.json names are ever deleted. Other entries stay or move to
quarantine/.
"""

import re
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from dense_jax.errors import StorageError
from dense_jax.io import Count, Digests, digests, naming_storage_errors, read_json, verify, write_json

COMMIT = "commit_success.txt"  # the marker of Orbax's COMMIT_FILE mode
QUARANTINE = "quarantine"
_SAVING = "saving.json"
_STEP = re.compile(r"0|[1-9][0-9]*")  # names that Orbax reads as steps
_DIGESTS = re.compile(r"digests-(0|[1-9][0-9]*)\.json")
_SHOWN = 5  # lost steps in an error message


class _Saving(TypedDict):
    """Content of saving.json."""

    step: Count


_Seal = Annotated[Digests, Field(min_length=1)]
"""Content of digests-STEP.json."""


class CheckpointFiles:
    """Checkpoints in `folder`. Only process 0 calls the methods that write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / str(step)

    def digests_path(self, step: int) -> Path:
        return self.folder / f"digests-{step}.json"

    def steps(self) -> list[int]:
        """The sealed steps, oldest first. Digests that a power cut left empty are no seal."""
        return [step for step in self.committed() if _has_content(self.digests_path(step))]

    def committed(self) -> list[int]:
        """Steps that Orbax has committed, sealed or not, oldest first."""
        return [step for step in _numbers(self.folder) if (self.path(step) / COMMIT).is_file()]

    def found(self) -> list[int]:
        """Steps of all checkpoints, sound or not, oldest first."""
        return sorted({*self.committed(), *(step for step in self._sealed() if self.path(step).is_dir())})

    def without_digests(self) -> list[int]:
        """The committed steps whose digests are missing or unreadable, but for a save that is just being sealed."""
        return [step for step in self.committed() if self._lack_of_digests(step) and step != self.saving()]

    def saving(self) -> int | None:
        """Step of the save that is running, or was running when the process ended."""
        try:
            return read_json(self.folder / _SAVING, _Saving)["step"]
        except StorageError:  # missing or damaged: it proves nothing
            return None

    def begin(self, step: int) -> bool:
        """Record that `step` is being saved; move an entry of its name away, and return True if there was one."""
        is_taken = self.path(step).exists()
        if is_taken:
            self.put_aside(step, f"{self.path(step)} is in the way of the checkpoint of step {step}")
        write_json(self.folder / _SAVING, {"step": step})
        return is_taken

    def seal(self, step: int) -> None:
        """Write the digests of a committed step."""
        write_json(self.digests_path(step), digests(self.path(step)))
        (self.folder / _SAVING).unlink(missing_ok=True)

    def verify(self, step: int) -> None:
        """Compare the files of `step` with their digests.

        Raises:
            StorageError: a file is missing or differs; names it.
        """
        try:
            if step in self.committed() and self._lack_of_digests(step):
                raise StorageError(self.missing_digests(step))
            verify(self.path(step), read_json(self.digests_path(step), _Seal))
        except StorageError as error:
            raise StorageError(f"checkpoint of step {step}: {error}") from None

    def delete_all_but(self, kept: Collection[int]) -> None:
        """Delete the sealed steps that are not `kept`; without digests, a step may belong to another run."""
        for step in sorted(self._sealed() - {*kept}):
            if self.path(step).is_dir():
                shutil.rmtree(self.path(step))
            self.digests_path(step).unlink()

    def recover(self) -> None:
        """Clean up after a killed process: seal a committed save, delete a truncated one.

        Numbered entries that are not checkpoints, such as an empty or a half-copied folder, move to quarantine.
        """
        with naming_storage_errors(self.folder):
            self._end_save()
            for path in sorted(self.folder.iterdir()):
                if _STEP.fullmatch(path.name) and int(path.name) not in self.found():
                    self.put_aside(
                        int(path.name), f"{path} is no complete checkpoint, and no save of this run wrote it"
                    )

    def _end_save(self) -> None:
        step = self.saving()
        if step is None:
            return
        if (self.path(step) / COMMIT).is_file():
            self.seal(step)
        elif self.path(step).is_dir():
            shutil.rmtree(self.path(step))
            _warn(f"the save of step {step:,} in {self.folder} was cut off; what it had written is deleted")
        (self.folder / _SAVING).unlink(missing_ok=True)

    def recompute_digests(self) -> None:
        """Seals all committed steps whose digests are missing or unreadable."""
        for step in self.without_digests():
            lack = self._lack_of_digests(step)
            self.seal(step)
            _warn(
                f"the digests of step {step:,} {lack}, and are computed again from the files of the step; damage that "
                "they had before cannot be seen any more"
            )

    def first_sound(self, steps: Collection[int]) -> int | None:
        """Return the first of `steps` that verifies; None if all fail.

        Damaged ones before it are put aside. Those that only lack readable digests are, too, unless nothing is sound.
        """
        passed: list[tuple[int, str]] = []
        for step in steps:
            try:
                self.verify(step)
            except StorageError as error:
                if step in self.without_digests():
                    passed.append((step, str(error)))
                else:
                    self.put_aside(step, str(error))
            else:
                for other, reason in passed:
                    self.put_aside(other, reason)
                return step
        return None

    def put_aside(self, step: int, reason: str) -> None:
        """Move the checkpoint of `step` and its digests to quarantine, with a warning that gives the `reason`."""
        quarantine = self.folder / QUARANTINE
        name = str(step)
        with naming_storage_errors(quarantine):
            quarantine.mkdir(exist_ok=True)
            while (quarantine / name).exists() or (quarantine / f"digests-{name}.json").exists():
                name += "_"
            if self.path(step).exists():
                shutil.move(self.path(step), quarantine / name)  # a mounted bucket may rename no folder
            if self.digests_path(step).is_file():
                self.digests_path(step).rename(quarantine / f"digests-{name}.json")
        _warn(f"{reason}; moved to {quarantine / name}")

    def lost(self) -> Mapping[str, str]:
        """Path -> problem, for each unsound checkpoint of a trained step that was saved here."""
        quarantine = self.folder / QUARANTINE
        lost = {self.path(step): self.missing_digests(step) for step in self.without_digests()}
        for step in self._sealed():
            if not self.path(step).exists():
                lost[self.path(step)] = "missing"
        for path in sorted(quarantine.iterdir()) if quarantine.is_dir() else ():
            sealed = quarantine / f"digests-{path.name}.json"
            if path.is_dir() and path.name.rstrip("_").isdigit() and ((path / COMMIT).is_file() or sealed.is_file()):
                lost[path] = _wrong(path, sealed)
        return {str(path): wrong for path, wrong in lost.items() if path.name.rstrip("_") != "0"}

    def lost_message(self, lost: Mapping[str, str]) -> str:
        """Error message for a folder whose trained steps are `lost`, with the fixes."""
        shown = "\n  ".join(f"{path}: {wrong}" for path, wrong in [*lost.items()][-_SHOWN:])
        steps = sorted({int(Path(path).name.rstrip("_")) for path in lost})
        return (
            f"{self.folder}: the run was trained, and none of the checkpoints {steps} is sound:\n  {shown}\n"
            f"to continue from one, repair it or copy it again, move it with its digests to {self.folder}/STEP and "
            f"{self.folder}/digests-STEP.json, and start the same command; where only the digests are missing or "
            "damaged, move STEP without them and add --checkpoint.recompute_digests=true\n"
            "to start over, add --restart once: it moves the old state aside"
        )

    def missing_digests(self, step: int) -> str:
        """Reason why a committed step without digests is not used, with the fixes."""
        return (
            f"its digests, {self.digests_path(step)}, {self._lack_of_digests(step)}; copy them too, or have them "
            "computed again by `dense-jax train` with --checkpoint.recompute_digests=true"
        )

    def _lack_of_digests(self, step: int) -> str:
        """The reason why the digests of a step are of no use, whatever its files are; empty if they can be read."""
        path = self.digests_path(step)
        if not path.is_file():
            return "are missing"
        if not _has_content(path):
            return "are empty, as a power cut leaves a file"
        try:
            read_json(path, _Seal)
        except StorageError:
            return "cannot be read"
        return ""

    def _sealed(self) -> set[int]:
        """Steps that have digests, whether or not their folder exists."""
        found = (_DIGESTS.fullmatch(path.name) for path in self.folder.glob("digests-*.json"))
        return {int(match[1]) for match in found if match}


def check_space(folder: Path, need: int, what: str) -> None:
    """Check the free space below `folder`.

    Raises:
        StorageError: fewer than `need` bytes, the size of `what`, are free.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise StorageError(
            f"{folder}: the disk is full: {what} may take {_size(need)}, and {_size(free)} are free; earlier "
            "checkpoints are intact, free some space and start again"
        )


def _size(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if _STEP.fullmatch(path.name) and path.is_dir())


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _wrong(path: Path, sealed: Path) -> str:
    """Problem of a checkpoint in quarantine."""
    if not sealed.is_file():
        return "its digests are missing"
    try:
        verify(path, read_json(sealed, _Seal))
    except StorageError as error:
        return str(error)
    return "its files match its digests"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
