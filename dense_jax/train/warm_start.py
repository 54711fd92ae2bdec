"""Where parameters come from if not from the random generator: `init_from`, a run of ours or a Hugging Face folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Params
from dense_jax.config import CheckpointConfig
from dense_jax.errors import ConfigError, StorageError
from dense_jax.files import read_json
from dense_jax.models import hf
from dense_jax.models.hf_config import check_same_architecture
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.history import read_history, selected
from dense_jax.train.optimizer import path_name

# The parts of a model. What stands before them in a path is the objective's affair: encoder/, query/, passage/.
_PART = re.compile(r"(?:^|/)((bert|pooler|projection|mlm|condenser|decoder)/.*)$")


@dataclass(frozen=True)
class Run:
    """A checkpoint of a workdir."""

    workdir: Path
    step: int  # -1: the one that probe.select said in training

    @property
    def config(self) -> dict[str, Any]:
        """What it was trained with, as `config_tree.to_dict` gives it."""
        return read_json(self.workdir / "config.json")


def warm_start(params: Params, init_from: str, objective: Any) -> tuple[Params, hf.LoadReport]:
    """`params` of `objective` with every part that `init_from` holds too, and a report on each array.

    `init_from` is a workdir (its newest checkpoint, or what its probe.select says), WORKDIR/checkpoints/STEP, or a
    Hugging Face folder. A part is taken wholly or not at all: encoder, pooler, projection, masked-LM head, Condenser
    head, decoder.

    Raises:
        ConfigError: the model there is not the config's; lists what differs.
        StorageError: there is nothing to be loaded, or it is incomplete, damaged or of another shape.
    """
    run = as_run(Path(init_from))
    return hf.load(params, Path(init_from), objective) if run is None else _from_run(params, run, objective)


def as_run(path: Path) -> Run | None:
    """The run that `path` names; None if it is no workdir."""
    if (path / "config.json").is_file() and not (path / "checkpoints").is_dir():
        return None  # a Hugging Face folder, whatever it is called
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return Run(path.parent.parent, int(path.name))
    if path.name == "checkpoints":
        return Run(path.parent, -1)
    return Run(path, -1) if (path / "checkpoints").is_dir() else None


def _from_run(params: Params, run: Run, objective: Any) -> tuple[Params, hf.LoadReport]:
    check_same_architecture(objective, run.config["objective"], str(run.workdir))
    checkpoints = Checkpoints(run.workdir / "checkpoints", CheckpointConfig(), read_only=True)
    history = read_history(run.workdir) if run.step == -1 else None
    step = run.step if history is None else selected(run.workdir, history.select, history.measure, checkpoints.steps())
    step = checkpoints.existing(step)
    theirs = _by_name(checkpoints.restore_params_as_saved(step))
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    ours = {path_name(path): leaf for path, leaf in leaves}
    taken = {name: found for name in ours if (found := _counterpart(name, theirs, run))}
    _check_whole(ours, taken, run)
    _check_shapes(ours, theirs, taken, run)
    report = hf.LoadReport(
        folder=checkpoints.folder / str(step),
        loaded=list(taken),
        padded={},
        initialised=[name for name in ours if name not in taken],
        ignored=sorted(theirs.keys() - set(taken.values())),
    )
    filled = [jnp.asarray(theirs[taken[name]], leaf.dtype) if name in taken else leaf for name, leaf in ours.items()]
    return jax.tree.unflatten(tree, filled), report


def _by_name(params: Params) -> dict[str, Array]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _counterpart(name: str, theirs: Mapping[str, Array], run: Run) -> str | None:
    """Their name for our array: the same, or the only one of the same place in the same part."""
    if name in theirs:
        return name
    place = _place(name)
    found = [other for other in theirs if place and _place(other) == place]
    if len(found) > 1:
        raise ConfigError(
            f"init_from={run.workdir} has {' and '.join(found)}, and either could become {name}; start from a run with "
            "one encoder, or train one with two"
        )
    return found[0] if found else None


def _place(name: str) -> str | None:
    found = _PART.search(name)
    return found.group(1) if found else None


def _check_whole(ours: Mapping[str, Array], taken: Mapping[str, str], run: Run) -> None:
    if not taken:
        raise StorageError(f"init_from={run.workdir}: nothing in it belongs to the objective's parameters")
    parts = {name: name.removesuffix((_place(name) or name).partition("/")[2]) for name in ours}
    begun = {parts[name] for name in taken}
    missing = [name for name in ours if name not in taken and parts[name] in begun]
    if missing:
        raise StorageError(f"init_from={run.workdir}: it lacks {', '.join(missing[:5])} of a part that it has")


def _check_shapes(ours: Mapping[str, Array], theirs: Mapping[str, Array], taken: Mapping[str, str], run: Run) -> None:
    differ = [
        f"{name} is {list(ours[name].shape)}, but {list(theirs[found].shape)} in {run.workdir}"
        for name, found in taken.items()
        if ours[name].shape != theirs[found].shape
    ]
    if differ:
        raise StorageError("init_from: " + "\n".join(differ[:20]))
