"""Versions of the index that training searches in, each made by the passage tower of one checkpoint.

FOLDER/00000500/claim.json     written first: the checkpoint and the passages
                vectors index  as `embed` and `index` write them
                manifest.json  written last: claim, digests of their manifests; a folder without it is ignored
FOLDER/00000500.lock           held by its maker; other processes wait for it
FOLDER/ids-FINGERPRINT.json    the ids of the library's passages, read from their texts once for all versions

All processes of a trainer, or of a refresher, make one together and search in it together. They may be killed at any
time: the same call goes on shard by shard. The trainer keeps the checkpoints whose versions have folders.
"""

import math
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from dense_jax.artifact import (
    CLAIM,
    MANIFEST,
    Claim,
    Manifest,
    claim,
    finish,
    is_finished,
    read_manifest,
    verify_files,
    verify_together,
)
from dense_jax.config import Config, IndexKind
from dense_jax.config.tree import differences
from dense_jax.errors import StorageError
from dense_jax.io import digest, is_written, read_json, write_strings
from dense_jax.processes.locks import all_in_turn, in_turn, is_held
from dense_jax.processes.multihost import all_or_none, is_process_0, on_process_0
from dense_jax.retrieval import index
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.encode import Program, Tokenizes, TowerOnMesh
from dense_jax.retrieval.index import Index
from dense_jax.retrieval.vectors import Vectors
from dense_jax.types import PassageCollection, Tower

VERSIONS = "neighbours"  # the folder, in a workdir
_MANIFESTS = ("vectors/manifest.json", "index/manifest.json")


class Library(NamedTuple):
    """Passages that are searched while training."""

    passages: PassageCollection
    tokenizer: Tokenizes
    fingerprint: str  # changes with anything in them or in how they are tokenised


@dataclass
class Versions:
    """The versions in a folder, named by the step of their checkpoint."""

    folder: Path
    library: Library
    config: Config
    mesh: Mesh  # of this process's devices

    def __post_init__(self) -> None:
        self._program: Program | None = None  # of the passage tower, compiled once

    def begun(self) -> list[int]:
        """The steps of all begun versions, complete ones too."""
        return sorted(int(path.parent.name) for path in self.folder.glob(f"*/{CLAIM}"))

    def begun_at(self, step: int) -> float:
        """Start time of the version of `step`, in seconds since 1970."""
        return (self._of(step) / CLAIM).stat().st_mtime

    def committed(self) -> list[int]:
        """The steps of the complete versions."""
        return [step for step in self.begun() if is_finished(self._of(step))]

    def belongs(self, step: int, checkpoint: str) -> bool:
        """Return whether the version of `step`, complete or not, is of that checkpoint, named by its fingerprint.

        A version whose claim is damaged belongs to no checkpoint.
        """
        try:
            self._check_origin(step, checkpoint)
        except StorageError:
            return False
        return True

    def _check_origin(self, step: int, checkpoint: str) -> None:
        """
        Raises:
            StorageError: the version is of another checkpoint or of other passages, or the file with them is damaged.
        """
        path = self._of(step) / CLAIM
        if changed := ", ".join(differences(read_json(path, Claim)["settings"], self._made_by(checkpoint))):
            raise StorageError(f"{path}: made of something else ({changed})")

    def make(
        self,
        step: int,
        tower: Tower,
        checkpoint: str,
        *,
        between: Callable[[], None] = lambda: None,
        patience: float = math.inf,
    ) -> None:
        """Complete the version of `step`, all processes together.

        A version of another checkpoint or of other passages, and a damaged one, is made again, after a warning that
        names the file. All call `between` while they wait for another maker, at most for `patience` seconds, and before
        each part; what it raises ends the making, to be gone on with.

        Raises:
            DataError: a vector is NaN or infinite.
            StorageError: the disk refuses.
        """
        folder = self._of(step)

        def give_up(waited: float) -> bool:
            between()
            late = waited >= patience
            if late and is_process_0():
                print(f"warning: another program makes {folder} and does not end; it is made again", file=sys.stderr)
            return late

        with all_in_turn(self._lock(step), give_up) as broken, jax.set_mesh(self.mesh):
            # An earlier maker that wakes up and writes on is noticed by the digests.
            begun = on_process_0((folder / CLAIM).is_file)
            if broken or not begun or self._is_damaged(step, checkpoint):
                on_process_0(lambda: self._begin(step, checkpoint))
            if not on_process_0(lambda: is_finished(folder)):
                self._build(folder, tower, checkpoint, between)

    def _begin(self, step: int, checkpoint: str) -> None:
        self._remove(step)
        claim(self._of(step), self._made_by(checkpoint))

    def _is_damaged(self, step: int, checkpoint: str) -> bool:
        """Return whether a file of a finished part is missing or changed, or of another checkpoint; warns of it."""
        folder = self._of(step)
        try:
            on_process_0(lambda: self._check_origin(step, checkpoint))
            if on_process_0((folder / MANIFEST).is_file):
                on_process_0(lambda: self._verify_committed(folder))
            for manifest in (folder / name for name in _MANIFESTS):
                if on_process_0(manifest.is_file):
                    files = on_process_0(lambda path=manifest: read_json(path, Manifest)["files"])
                    verify_together(manifest.parent, files)
        except StorageError as error:
            if is_process_0():
                print(f"warning: {error}; the index of step {step:,} is made again", file=sys.stderr)
            return True
        return False

    def _verify_committed(self, folder: Path) -> None:
        """
        Raises:
            StorageError: a manifest is missing or changed since the version was completed.
        """
        files = read_manifest(folder, Manifest, "index", "refresh")["files"]
        if sorted(files) != sorted(_MANIFESTS):
            raise StorageError(f"{folder / MANIFEST}: damaged (names {', '.join(files)})")
        verify_files(folder, files)

    def _build(self, folder: Path, tower: Tower, checkpoint: str, between: Callable[[], None]) -> None:
        vectors = embed(
            self.library.passages,
            tower,
            self.library.tokenizer,
            self.mesh,
            folder / "vectors",
            batch=self.config.embed.batch,
            shard_size=self.config.embed.shard_size,
            made_by=self._made_by(checkpoint),
            placed=self._placed,
            ids=Path(on_process_0(self._ids)),
            between=between,
        )
        between()
        kind = self.config.neighbours.kind
        sample = self.config.index.sample if kind in (IndexKind.SCANN, IndexKind.AUTO) else 0  # ScaNN is tuned by it
        index.build_index(vectors, replace(self.config.index, kind=kind, sample=sample), folder / "index", self.mesh)
        on_process_0(lambda: finish(folder, {}, {name: digest(folder / name) for name in _MANIFESTS}))

    def _ids(self) -> str:
        """The file of the library's ids, written now if it is missing."""
        path = self.folder / f"ids-{self.library.fingerprint}.json"
        with in_turn(self.folder / "ids.lock"):
            if not is_written(path):
                write_strings(path, self.library.passages.ids())
        return str(path)

    def _placed(self, tower: Tower, mesh: Mesh) -> TowerOnMesh:
        placed = TowerOnMesh(tower, mesh, self._program)
        self._program = placed.program
        return placed

    def open(self, step: int) -> Index:
        """The index of a complete version, opened by all processes together, after reading all of it.

        Raises:
            StorageError: on all of them: it is not complete, or a file is missing or changed.
        """
        folder = self._of(step)
        vectors = all_or_none(lambda: self._vectors(folder))
        with jax.set_mesh(self.mesh):
            return index.open_index(folder / "index", vectors, self.mesh)

    def _vectors(self, folder: Path) -> Vectors:
        self._verify_committed(folder)
        return Vectors(folder / "vectors")

    def prune(self, checkpoints: Mapping[int, str], in_use: int = -1) -> None:
        """Remove versions that are no longer needed, with their locks; never one that is being made.

        Kept are `in_use`, the newest complete ones of `checkpoints` (step -> fingerprint), and later ones that are
        begun. Versions of checkpoints that no longer exist do not count.
        """
        ours = [step for step in self.begun() if step in checkpoints and self.belongs(step, checkpoints[step])]
        complete = [step for step in self.committed() if step in ours]
        later = [step for step in ours if not complete or step > complete[-1]]
        kept = {in_use, *complete[-self.config.neighbours.keep :], *later}
        for step in self._left():
            if step not in kept and not is_held(self._lock(step)):
                with in_turn(self._lock(step)):
                    self._remove(step)
                    self._lock(step).unlink(missing_ok=True)

    def _left(self) -> list[int]:
        """The steps of all folders and locks, those of an interrupted removal too."""
        return sorted({int(path.stem) for path in self.folder.glob("*") if path.stem.isdigit()})

    def _remove(self, step: int) -> None:
        for name in (MANIFEST, CLAIM):  # in this order, so that no half of it is ever read or gone on with
            (self._of(step) / name).unlink(missing_ok=True)
        shutil.rmtree(self._of(step), ignore_errors=True)

    def _made_by(self, checkpoint: str) -> dict[str, Any]:
        return {"checkpoint": checkpoint, "passages": self.library.fingerprint}

    def _of(self, step: int) -> Path:
        return self.folder / f"{step:08d}"

    def _lock(self, step: int) -> Path:
        return self.folder / f"{step:08d}.lock"
