"""Checkpoints that are complete and verified, or not used. The only importer of Orbax.

A step counts once Orbax has written its commit marker and we have written the digests of all its files: Orbax alone
restores flipped bits silently, and casts a changed dtype silently. The marker is a file, since renaming a folder is no
commit where the folder lies in a mounted bucket. Older steps are deleted only after that, by us: so at every moment a
sealed checkpoint is on the disk.
"""

import errno
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dense_jax.arrays import Array, Bool
from dense_jax.config import CheckpointConfig
from dense_jax.errors import DataError, NonFiniteError, StorageError
from dense_jax.io import digest, naming_storage_errors
from dense_jax.mesh import replicated_on_all_devices
from dense_jax.multihost import all_or_none, barrier, is_process_0, on_process_0
from dense_jax.train.checkpoint_files import CheckpointFiles, check_space
from dense_jax.train.optimizer import path_name
from dense_jax.train.state import TrainState

_DATA = "data"  # the key of the digests of the data in a checkpoint's meta data
_FILE = 4_096  # bytes that an array takes besides its own
_NAMED = 5  # arrays in an error message
_FULL = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota", "File too large")


def has_checkpoint(folder: Path) -> bool:
    """True if `folder` holds a checkpoint that was sealed with its digests."""
    return any((folder / path.stem.removeprefix("digests-")).is_dir() for path in folder.glob("digests-*.json"))


class Checkpoints:
    """The checkpoints of one workdir, saved in the background.

    `data` has digests (JSON values) of what they are used with: saved with each checkpoint, and compared where one is
    restored. `stop_requested` is true once this process was sent a signal that JAX does not see to.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        *,
        read_only: bool = False,
        data: Mapping[str, Any] | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.config, self.data = folder.absolute(), config, dict(data or {})
        self.files = CheckpointFiles(self.folder)
        self._held: Callable[[], Collection[int]] = tuple
        self._protected: list[int] = []  # the best step last; before it those kept until its checkpoint is sealed
        self._stop_requested = stop_requested
        self._asked = 0  # how often `preempted` was
        self._unsealed: int | None = None  # a step whose save is under way
        self._are_finite = jax.jit(_are_finite)
        if not read_only:
            on_process_0(self._prepare_folder)
        options = ocp.CheckpointManagerOptions(
            atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
            cleanup_tmp_directories=False,  # under COMMIT_FILE, Orbax takes every folder without a marker for its own
            enable_async_checkpointing=not read_only,
            create=False,
            read_only=read_only,
        )
        handlers = {  # named here, so that a fresh manager can describe what it finds
            "params": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """The steps that are complete and have digests, oldest first."""
        return self.files.steps()

    def existing(self, step: int) -> int:
        """`step` if there is such a checkpoint; for -1 the newest.

        Raises:
            StorageError: there is none.
        """
        without = self.files.without_digests()
        steps = [sealed for sealed in self.steps() if sealed not in without]
        if step in without or (step == -1 and without and not steps):
            self.verify(without[-1] if step == -1 else step)  # its message names the missing file and the way out
        if not steps:
            raise StorageError(f"{self.folder} holds no checkpoint; run `dense-jax train` first")
        if step not in (-1, *steps):
            raise StorageError(f"{self.folder} has no checkpoint of step {step}; there are {steps}")
        if step == -1 and without and without[-1] > steps[-1]:
            reason = self.files.missing_digests(without[-1])
            print(f"warning: step {steps[-1]:,} is used, not {without[-1]:,}: {reason}", file=sys.stderr)
        return steps[-1] if step == -1 else step

    def check_space(self, like: TrainState, copies: int) -> None:
        """
        Raises:
            StorageError: the disk has no room for `copies` more checkpoints of a state such as `like`.
        """
        arrays = jax.tree.leaves(like)
        need = copies * sum(x.size * x.dtype.itemsize + _FILE for x in arrays)
        on_process_0(lambda: check_space(self.folder, need, f"{copies} more checkpoint{'s' if copies > 1 else ''}"))

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Copies `state` to the host and starts to write it; the device goes on at once.

        Raises:
            NonFiniteError: the state holds NaN or infinity; nothing is written.
            StorageError: this save could not start, or the one before it failed.
        """
        self.finish()
        if broken := self.non_finite(state):
            raise NonFiniteError(f"step {step}: NaN or infinity in {', '.join(broken)}; this state is not saved")
        self.check_space(state, copies=1)
        if on_process_0(lambda: self.files.begin(step)):
            self._manager.reload()  # Orbax may have taken what was there for a checkpoint
        rest = {"step": state.step, "optimizer": state.optimizer, "carry": state.carry}
        with self._naming(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    training=ocp.args.StandardSave(rest),
                    meta=ocp.args.JsonSave(meta | {_DATA: self.data}),
                ),
                force=True,
            )
        self._unsealed = step

    def non_finite(self, state: TrainState) -> list[str]:
        """The names of arrays of `state` with NaN or infinity, a few of them."""
        found = np.asarray(self._are_finite(state))
        names = [path_name(path) for path, x in jax.tree_util.tree_leaves_with_path(state) if _is_float(x)]
        return [name for name, fine in zip(names, found, strict=True) if not fine][:_NAMED]

    def protect(self, step: int) -> None:
        """Keeps the checkpoint of `step`, which is there or is saved next, and lets go of the one kept so before."""
        self._protected.append(step)

    def hold(self, steps: Callable[[], Collection[int]]) -> None:
        """Keeps the checkpoints that `steps` names whenever one is saved."""
        self._held = steps

    def poll(self) -> None:
        """Seals a save that has come to its end; returns at once if one is still under way."""
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            self.finish()

    def finish(self) -> None:
        """Waits for the save under way and seals it with its digests.

        Raises:
            StorageError: it failed; earlier steps are intact.
        """
        step, self._unsealed = self._unsealed, None
        if step is None:
            return
        with self._naming(step):
            self._manager.wait_until_finished()
            if step in self._protected:
                del self._protected[: self._protected.index(step)]
            if is_process_0():
                self.files.seal(step)
                newest = self.steps()[-self.config.keep :]
                self.files.delete_all_but({0, *newest, *self._protected, *self._held()})

    def preempted(self) -> bool:
        """True at the call at which all processes agree to stop, after one of them was sent SIGTERM.

        JAX does that for several processes; one alone has no cluster and agrees with nobody.
        They agree on a number that is still to come: so calls are counted, whether steps are done between them or not.
        """
        self._asked += 1
        return self._stop_requested() or self._manager.reached_preemption(self._asked)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of `step`, placed and typed as `like` (shapes, dtypes and shardings), and its meta data.

        Raises:
            StorageError: a file is damaged, or the checkpoint is of another architecture: all differences are listed.
            DataError: the checkpoint is of other data.
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
        self._check_data(step, found["meta"].pop(_DATA, {}))
        training = found["training"]
        state = TrainState(training["step"], found["params"], training["optimizer"], training["carry"])
        return state, found["meta"]

    def restore_params(self, step: int, like: Any) -> Any:
        """Only the parameters of `step`, as `restore` returns them."""
        all_or_none(lambda: self.verify(step))
        self._check_architecture(step, {"params": like})
        with self._naming(step):
            found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        self._check_data(step, found["meta"].get(_DATA, {}))
        return self._restored_params(step, like)

    def restore_params_as_saved(self, step: int) -> Any:
        """Only the parameters of `step`, whatever their tree, whole on every device.

        Raises:
            StorageError: a file is damaged.
        """
        all_or_none(lambda: self.verify(step))
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_on_all_devices()),
            dict(self._manager.item_metadata(step)["params"]),
            is_leaf=_is_described,
        )
        return self._restored_params(step, like)

    def verify(self, step: int) -> None:
        """Raises StorageError, naming the file, if one of `step` is missing or differs from what was written."""
        self.files.verify(step)

    def fingerprint(self, step: int) -> str:
        """A digest of all files of `step`."""
        return digest(self.files.digests_path(step))

    def fingerprints(self, steps: Collection[int]) -> dict[int, str]:
        """Those of `steps` that there are."""
        return {step: self.fingerprint(step) for step in self.steps() if step in steps}

    def newest_sound(self) -> int | None:
        """The newest step that verifies, or None if no trained step was ever saved and step 0 is not sound.

        Damaged newer ones go to `quarantine/`, with a warning. The first process looks, for all of them.

        Raises:
            StorageError: trained steps were saved, and not one is sound: to go on would be to start over.
        """
        return self._reloaded(on_process_0(self._newest_sound))

    def first_sound(self, steps: Sequence[int]) -> int:
        """The first of `steps` that verifies. Damaged ones before it go to `quarantine/`, with a warning.

        The first process looks, for all of them.

        Raises:
            StorageError: not one is sound.
        """
        barrier("checkpoints are listed")
        step = self._reloaded(on_process_0(lambda: self.files.first_sound(steps)))
        if step is None:
            raise StorageError(f"{self.folder}: none of the checkpoints {steps} is sound; they are in quarantine/")
        return step

    def put_aside(self, step: int, reason: str) -> None:
        """Moves the checkpoint of `step` to `quarantine/`, with a warning that gives the `reason`."""
        on_process_0(lambda: self.files.put_aside(step, reason))
        self._manager.reload()

    def close(self) -> None:
        """Waits for what is under way."""
        self.finish()
        self._manager.close()

    def _restored_params(self, step: int, like: Any) -> Any:
        with self._naming(step):
            return self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(like)))["params"]

    def _prepare_folder(self) -> None:
        with naming_storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.files.recover()
        if self.config.recompute_digests:
            self.files.recompute_digests()

    def _newest_sound(self) -> int | None:
        found = self.files.found()
        trained = self.files.first_sound([step for step in reversed(found) if step > 0])
        if trained is None and (lost := self.files.lost()):
            raise StorageError(self.files.lost_message(lost))
        return trained if trained is not None else self.files.first_sound([step for step in found if step == 0])

    def _reloaded(self, step: int | None) -> int | None:
        """`step`, once Orbax knows what was put aside before it was found."""
        self._manager.reload()
        return step

    def _check_architecture(self, step: int, like: dict[str, Any]) -> None:
        metadata = self._manager.item_metadata(step)
        problems = [line for item, tree in like.items() for line in _mismatches(metadata[item], tree)]
        if problems:
            shown = "\n  ".join(problems[:20])
            raise StorageError(
                f"checkpoint of step {step} in {self.folder} is of another architecture than this config:\n  {shown}"
            )

    def _check_data(self, step: int, theirs: Mapping[str, Any]) -> None:
        if other := [name for name, ours in self.data.items() if theirs.get(name, ours) != ours]:
            raise DataError(
                f"{self.folder / str(step)} was trained with another content of {', '.join(other)} than this workdir "
                "has; use the workdir that the checkpoint is of, or copy that as a whole"
            )

    def _naming(self, step: int) -> "_NamingErrors":
        return _NamingErrors(self.folder / str(step))


class _NamingErrors:
    """Orbax reports what the disk refuses as errors of many kinds and lines; this names the step and the cure."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, (OSError, ValueError, KeyError)) or isinstance(error, TimeoutError):  # of processes
            return
        if any(sign in str(error) for sign in _FULL):
            raise StorageError(
                f"{self.path}: the disk is full; earlier checkpoints are intact, free some space and start again"
            ) from error
        with naming_storage_errors(self.path):
            if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
                raise error
        reason = next(iter(str(error).splitlines()), "")
        raise StorageError(
            f"{self.path}: Orbax could not read or write it ({type(error).__name__}: {reason})"
        ) from error


def _are_finite(state: TrainState) -> Bool[Array, " n"]:
    """True for each array of floating-point numbers that holds neither NaN nor infinity."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(state) if _is_float(x)])


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


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
