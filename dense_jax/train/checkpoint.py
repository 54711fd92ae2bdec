"""Checkpoints that are complete and verified, or not used. The only importer of Orbax.

A step counts once Orbax has written its commit marker and we have written the digests of all its files: Orbax alone
restores flipped bits silently, and casts a changed dtype silently.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dense_jax.agreement import agreed, all_or_none, is_first, together
from dense_jax.config import CheckpointConfig
from dense_jax.errors import StorageError
from dense_jax.files import digest, digests, naming_storage_errors, read_json, verify, write_json
from dense_jax.mesh import everywhere
from dense_jax.schemas import Digests
from dense_jax.train.optimizer import path_name
from dense_jax.train.state import TrainState

_NONE = -1  # in place of a step
_FULL = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota", "File too large")


class Checkpoints:
    """The checkpoints of one workdir, saved in the background."""

    def __init__(self, folder: Path, config: CheckpointConfig, *, read_only: bool = False) -> None:
        self.folder = folder.absolute()
        self._held: Callable[[], Collection[int]] = tuple
        self._protected: list[int] = []  # the best step last; before it those kept until its checkpoint is sealed
        options = ocp.CheckpointManagerOptions(
            atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(config.keep),
                    policies.CustomSteps([0]),
                    _Protects(lambda: self._protected),
                    _Protects(lambda: self._held()),
                ]
            ),
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        handlers = {  # named here, so that a fresh manager can describe what it finds
            "params": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        self._asked = 0  # how often `preempted` was
        self._unverified: int | None = None  # a step whose save is under way

    def steps(self) -> list[int]:
        """The steps that are complete and have digests, oldest first."""
        return [step for step in sorted(self._manager.all_steps()) if self._digests(step).is_file()]

    def existing(self, step: int) -> int:
        """`step` if there is such a checkpoint; for -1 the newest.

        Raises:
            StorageError: there is none.
        """
        steps = self.steps()
        if not steps:
            raise StorageError(f"{self.folder} holds no checkpoint; run `dense-jax train` first")
        if step not in (-1, *steps):
            raise StorageError(f"{self.folder} has no checkpoint of step {step}; there are {steps}")
        return steps[-1] if step == -1 else step

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Copies `state` to the host and starts to write it; the device goes on at once.

        Raises:
            StorageError: this save could not start, or the one before it failed.
        """
        self.finish()
        rest = {"step": state.step, "optimizer": state.optimizer, "carry": state.carry}
        with self._naming(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    training=ocp.args.StandardSave(rest),
                    meta=ocp.args.JsonSave(meta),
                ),
                force=True,
            )
        self._unverified = step

    def protect(self, step: int) -> None:
        """Keeps the checkpoint of `step`, which is there or is saved next, and lets go of the one kept so before."""
        self._protected.append(step)

    def hold(self, steps: Callable[[], Collection[int]]) -> None:
        """Keeps the checkpoints that `steps` names whenever one is saved."""
        self._held = steps

    def poll(self) -> None:
        """Seals a save that has come to its end; returns at once if one is still under way."""
        if self._unverified is not None and not self._manager.is_saving_in_progress():
            self.finish()

    def finish(self) -> None:
        """Waits for the save under way and seals it with its digests.

        Raises:
            StorageError: it failed; earlier steps are intact.
        """
        step, self._unverified = self._unverified, None
        if step is None:
            return
        with self._naming(step):
            self._manager.wait_until_finished()
            if is_first():
                write_json(self._digests(step), digests(self.folder / str(step)))
                self._forget_deleted()
        if step in self._protected:
            del self._protected[: self._protected.index(step)]

    def preempted(self) -> bool:
        """True at the call at which all processes agree to stop, after one of them was sent SIGTERM.

        They agree on a number that is still to come: so calls are counted, whether steps are done between them or not.
        """
        self._asked += 1
        return self._manager.reached_preemption(self._asked)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of `step`, placed and typed as `like` (shapes, dtypes and shardings), and its meta data.

        Raises:
            StorageError: a file is damaged, or the checkpoint is of another architecture: all differences are listed.
        """
        all_or_none(lambda: self.verify(step))
        rest = {"step": like.step, "optimizer": like.optimizer, "carry": like.carry}
        self._check_architecture(step, {"params": like.params, "training": rest})
        with self._naming(step):
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(like.params),
                    training=ocp.args.StandardRestore(rest),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        training = found["training"]
        state = TrainState(training["step"], found["params"], training["optimizer"], training["carry"])
        return state, found["meta"]

    def restore_params(self, step: int, like: Any) -> Any:
        """Only the parameters of `step`, as `restore` returns them."""
        all_or_none(lambda: self.verify(step))
        self._check_architecture(step, {"params": like})
        return self._restored_params(step, like)

    def restore_params_as_saved(self, step: int) -> Any:
        """Only the parameters of `step`, whatever their tree, whole on every device.

        Raises:
            StorageError: a file is damaged.
        """
        all_or_none(lambda: self.verify(step))
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere()),
            dict(self._manager.item_metadata(step)["params"]),
            is_leaf=_is_described,
        )
        return self._restored_params(step, like)

    def verify(self, step: int) -> None:
        """Raises StorageError, naming the file, if one of `step` is missing or differs from what was written."""
        try:
            verify(self.folder / str(step), read_json(self._digests(step), Digests))
        except StorageError as error:
            raise StorageError(f"checkpoint of step {step}: {error}") from None

    def fingerprint(self, step: int) -> str:
        """A digest of all files of `step`."""
        return digest(self._digests(step))

    def fingerprints(self, steps: Collection[int]) -> dict[int, str]:
        """Those of `steps` that there are."""
        return {step: self.fingerprint(step) for step in self.steps() if step in steps}

    def newest_sound(self) -> int | None:
        """The newest step that verifies, or None if none was ever saved.

        Raises:
            StorageError: there are checkpoints, and not one is sound.
        """
        found = sorted(self._manager.all_steps(), reverse=True)
        return self.first_sound(found) if found else None

    def first_sound(self, steps: Sequence[int]) -> int:
        """The first of `steps` that verifies. Damaged ones before it go to `quarantine/`, with a word.

        The first process looks, for all of them.

        Raises:
            StorageError: not one is sound.
        """
        together("checkpoints are listed")
        step = agreed(self._first_that_verifies(steps) if is_first() else 0)
        self._manager.reload()
        if step == _NONE:
            raise StorageError(f"{self.folder}: none of the checkpoints {steps} is sound; they are in quarantine/")
        return step

    def close(self) -> None:
        """Waits for what is under way."""
        self.finish()
        self._manager.close()

    def _restored_params(self, step: int, like: Any) -> Any:
        with self._naming(step):
            return self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(like)))["params"]

    def _digests(self, step: int) -> Path:
        return self.folder / f"digests-{step}.json"

    def _first_that_verifies(self, steps: Sequence[int]) -> int:
        for step in steps:
            try:
                self.verify(step)
                return step
            except StorageError as error:
                self._quarantine(step, error)
        return _NONE

    def _quarantine(self, step: int, error: StorageError) -> None:
        target = self.folder / "quarantine" / str(step)
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "_")
        (self.folder / str(step)).rename(target)
        self._digests(step).unlink(missing_ok=True)
        print(f"warning: {error}; moved to {target}", file=sys.stderr)

    def _forget_deleted(self) -> None:
        """Drops the digests of steps that the preservation policy has deleted."""
        kept = {str(step) for step in self._manager.all_steps()}
        for path in self.folder.glob("digests-*.json"):
            if path.stem.removeprefix("digests-") not in kept:
                path.unlink()

    def _check_architecture(self, step: int, like: dict[str, Any]) -> None:
        metadata = self._manager.item_metadata(step)
        problems = [line for item, tree in like.items() for line in _mismatches(metadata[item], tree)]
        if problems:
            shown = "\n  ".join(problems[:20])
            raise StorageError(
                f"checkpoint of step {step} in {self.folder} is of another architecture than this config:\n  {shown}"
            )

    def _naming(self, step: int) -> "_NamingErrors":
        return _NamingErrors(self.folder / str(step))


class _Protects(policies.PreservationPolicy):
    """Keeps what `steps` names at the time."""

    def __init__(self, steps: Callable[[], Collection[int]]) -> None:
        self.steps = steps

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.steps()
        return [checkpoint.step in kept for checkpoint in checkpoints]


class _NamingErrors:
    """Orbax reports a full disk as a ValueError of many lines; this names the step and the cure."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, ValueError) and any(sign in str(error) for sign in _FULL):
            raise StorageError(
                f"{self.path}: the disk is full; earlier checkpoints are intact, free some space and start again"
            ) from error
        if isinstance(error, OSError):
            with naming_storage_errors(self.path):
                raise error


def _mismatches(found: Any, expected: Any) -> list[str]:
    """Lines for the arrays that are missing, superfluous, or of another shape or dtype."""
    a, b = _described(found), _described(expected)
    return [f"{name}: checkpoint {a.get(name, 'has none')}, config {b.get(name, 'has none')}"
            for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]  # fmt: skip


def _described(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_described)
    return {path_name(path): f"{x.dtype.name}{list(x.shape)}" for path, x in leaves if hasattr(x, "dtype")}


def _is_described(node: Any) -> bool:
    return hasattr(node, "dtype") and hasattr(node, "shape")
