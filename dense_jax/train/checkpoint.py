"""Checkpoints of the training state, used only if they are complete and verified. The only importer of Orbax.

A step counts once Orbax has written its commit marker and we have sealed it with the digests of all its files: Orbax
alone silently restores flipped bits and silently casts a changed dtype. The marker is a file, since renaming a folder
is not atomic in a mounted bucket. Older steps are deleted afterwards: a sealed checkpoint is always on the disk.
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
from dense_jax.config.training import CheckpointConfig
from dense_jax.errors import DataError, NonFiniteError, StorageError
from dense_jax.io import digest, naming_storage_errors
from dense_jax.mesh import replicated_on_all_devices
from dense_jax.processes.multihost import all_or_none, barrier, is_process_0, on_process_0
from dense_jax.train.checkpoint_files import CheckpointFiles, check_space
from dense_jax.train.optimizer import path_name
from dense_jax.train.state import TrainState

_DATA = "data"  # the key of the digests of the data in a checkpoint's metadata
_FILE = 4_096  # bytes of overhead of an array
_NAMED = 5  # arrays in an error message
_FULL = ("No space left", "RESOURCE_EXHAUSTED", "Disk quota", "File too large")


def has_checkpoint(folder: Path) -> bool:
    """Return True if `folder` holds a sealed checkpoint."""
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
        self._polled = 0  # number of calls of `preempted`
        self._unsealed: int | None = None  # a step whose save is under way
        self._are_finite = jax.jit(_are_finite)
        if not read_only:
            on_process_0(self._prepare_folder)
        options = ocp.CheckpointManagerOptions(
            atomicity_options=ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE),
            cleanup_tmp_directories=False,  # under COMMIT_FILE, Orbax would delete every folder without a marker
            enable_async_checkpointing=not read_only,
            create=False,
            read_only=read_only,
        )
        handlers = {  # registered here, so that a new manager can describe existing checkpoints
            "params": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Sealed steps, oldest first."""
        return self.files.steps()

    def existing(self, step: int) -> int:
        """Return `step` if its checkpoint exists; for -1 the newest step.

        Raises:
            StorageError: the checkpoint does not exist.
        """
        without = self.files.without_digests()
        steps = [sealed for sealed in self.steps() if sealed not in without]
        if step in without or (step == -1 and without and not steps):
            self.verify(without[-1] if step == -1 else step)  # its message names the missing file and the fix
        if not steps:
            raise StorageError(f"{self.folder} holds no checkpoint; run `dense-jax train` first")
        if step not in (-1, *steps):
            raise StorageError(f"{self.folder} has no checkpoint of step {step}; use one of {steps}")
        if step == -1 and without and without[-1] > steps[-1]:
            reason = self.files.missing_digests(without[-1])
            print(f"warning: step {steps[-1]:,} is used, not {without[-1]:,}: {reason}", file=sys.stderr)
        return steps[-1] if step == -1 else step

    def check_space(self, like: TrainState, copies: int) -> None:
        """Check that the disk has room for `copies` more checkpoints of a state such as `like`.

        Raises:
            StorageError: it has not.
        """
        arrays = jax.tree.leaves(like)
        need = copies * sum(x.size * x.dtype.itemsize + _FILE for x in arrays)
        on_process_0(lambda: check_space(self.folder, need, f"{copies} more checkpoint{'s' if copies > 1 else ''}"))

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Copy `state` to the host and start to write it in the background.

        Raises:
            NonFiniteError: the state holds NaN or infinity; nothing is written.
            StorageError: this save could not start, or the one before it failed.
        """
        self.finish()
        if broken := self.non_finite(state):
            raise NonFiniteError(f"step {step}: NaN or infinity in {', '.join(broken)}; this state is not saved")
        self.check_space(state, copies=1)
        if on_process_0(lambda: self.files.begin(step)):
            self._manager.reload()  # Orbax may have listed the entry that was moved away
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
        """Names of the first few arrays of `state` with NaN or infinity."""
        found = np.asarray(self._are_finite(state))
        names = [path_name(path) for path, x in jax.tree_util.tree_leaves_with_path(state) if _is_float(x)]
        return [name for name, fine in zip(names, found, strict=True) if not fine][:_NAMED]

    def protect(self, step: int) -> None:
        """Keep the checkpoint of `step`, which exists or is saved next, and release the one protected before."""
        self._protected.append(step)

    def hold(self, steps: Callable[[], Collection[int]]) -> None:
        """Keep the checkpoints that `steps()` names at each later save."""
        self._held = steps

    def poll(self) -> None:
        """Seal a finished save; return at once if it is still running."""
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            self.finish()

    def finish(self) -> None:
        """Wait for the running save and seal it with its digests.

        Raises:
            StorageError: the save failed; earlier steps are intact.
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
        """Return True at the call at which all processes agree to stop, after SIGTERM reached one of them.

        Several processes agree by JAX; a single one is in no cluster and reads `stop_requested`.
        They agree on the number of a future call, so calls are counted, whether or not steps are done between them.
        """
        self._polled += 1
        return self._stop_requested() or self._manager.reached_preemption(self._polled)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restore the state of `step`, with the shapes, dtypes and shardings of `like`, and its metadata.

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
        """Restore only the parameters of `step`, with the shapes, dtypes and shardings of `like`."""
        all_or_none(lambda: self.verify(step))
        self._check_architecture(step, {"params": like})
        with self._naming(step):
            found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        self._check_data(step, found["meta"].get(_DATA, {}))
        return self._restored_params(step, like)

    def restore_params_as_saved(self, step: int) -> Any:
        """Restore only the parameters of `step`, whatever their tree, replicated on every device.

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
        """Compare the files of `step` with their digests.

        Raises:
            StorageError: a file is missing or differs; names it.
        """
        self.files.verify(step)

    def fingerprint(self, step: int) -> str:
        """Digest of all files of `step`."""
        return digest(self.files.digests_path(step))

    def fingerprints(self, steps: Collection[int]) -> dict[int, str]:
        """Digests of those `steps` that exist."""
        return {step: self.fingerprint(step) for step in self.steps() if step in steps}

    def newest_sound(self) -> int | None:
        """Return the newest step that verifies; None if no trained step was ever saved and step 0 is not sound.

        Damaged newer steps move to `quarantine/`, with a warning. Process 0 verifies for all processes.

        Raises:
            StorageError: trained steps were saved, but none is sound: continuing would start over.
        """
        return self._reloaded(on_process_0(self._newest_sound))

    def first_sound(self, steps: Sequence[int]) -> int:
        """Return the first of `steps` that verifies; damaged ones before it move to `quarantine/`, with a warning.

        Process 0 verifies for all processes.

        Raises:
            StorageError: none of them is sound.
        """
        barrier("checkpoints are listed")
        step = self._reloaded(on_process_0(lambda: self.files.first_sound(steps)))
        if step is None:
            raise StorageError(f"{self.folder}: none of the checkpoints {steps} is sound; they are in quarantine/")
        return step

    def put_aside(self, step: int, reason: str) -> None:
        """Move the checkpoint of `step` to `quarantine/`, with a warning that gives the `reason`."""
        on_process_0(lambda: self.files.put_aside(step, reason))
        self._manager.reload()

    def close(self) -> None:
        """Wait for the running save and close the manager."""
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
        """Return `step` after Orbax has listed the folder again, without the entries that were moved away."""
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
    """Context that turns Orbax's many error types into a StorageError that names the step and the fix."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, (OSError, ValueError, KeyError)) or isinstance(
            error, TimeoutError
        ):  # of other processes
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
    """Return True for each floating-point array without NaN and infinity."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(state) if _is_float(x)])


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _mismatches(found: Any, expected: Any) -> list[str]:
    """Lines about arrays that are missing, superfluous, or of another shape or dtype."""
    a, b = _types_by_name(found), _types_by_name(expected)
    return [f"{name}: checkpoint {a.get(name, 'has none')}, config {b.get(name, 'has none')}"
            for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]  # fmt: skip


def _types_by_name(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_described)
    return {path_name(path): f"{x.dtype.name}{list(x.shape)}" for path, x in leaves if hasattr(x, "dtype")}


def _is_described(node: Any) -> bool:
    return hasattr(node, "dtype") and hasattr(node, "shape")
