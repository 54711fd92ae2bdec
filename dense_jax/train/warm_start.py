"""Initial parameters from a checkpoint of an earlier run or from a Hugging Face folder: `init_from`.

The reader of an objective may come from another place: `init_reader_from`.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import jax
import jax.numpy as jnp
from typing_extensions import TypedDict

from dense_jax.arrays import Array, Params
from dense_jax.config import CheckpointConfig, Config
from dense_jax.errors import ConfigError, StorageError, require
from dense_jax.hf import tensors
from dense_jax.hf.config import check_same_architecture, transformer_folder
from dense_jax.io import Count, read_json
from dense_jax.processes.multihost import is_process_0
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.optimizer import path_name
from dense_jax.train.validation import read_history, selected_step

# Parts of a model in a parameter path, after the objective's own prefix: encoder/, query/, passage/.
_PART = re.compile(r"(?:^|/)((bert|pooler|dense|projection|mlm|spans|condenser|decoder)/.*)$")
_READER = "reader"  # parameters that read passages; the others retrieve them


_Method = TypedDict("_Method", {"class": NotRequired[str]})


class _PassagesPlace(TypedDict):
    workdir: str


class _StartConfig(TypedDict):
    """Content of config.json of a run that another one starts from."""

    seed: int
    steps: Count
    objective: _Method
    passages: _PassagesPlace
    init_from: str


@dataclass(frozen=True)
class RunCheckpoint:
    """Checkpoint of a workdir."""

    workdir: Path
    step: int  # -1: the best one by the run's validation.select

    @property
    def config(self) -> dict[str, Any]:
        """Config of the run, as `config.tree.to_dict` writes it."""
        return read_json(self.workdir / "config.json", _StartConfig)


def initial_weights(config: Config, params: Params) -> Params:
    """`params` with the weights that the config starts from, after a report on standard error."""
    started, reports = with_initial_weights(params, config)
    for report in reports if is_process_0() else ():
        print(report, file=sys.stderr)
    return started


def with_initial_weights(params: Params, config: Config) -> tuple[Params, list[tensors.LoadReport]]:
    """Replace initial `params` by the weights in the config's init_from and init_reader_from; return reports too.

    Raises:
        ConfigError: init_reader_from is set, but the objective has no reader; or an error of `warm_start`.
        StorageError: an error of `warm_start`.
    """
    if not config.init_reader_from:
        sources = {"init_from": params}
    else:
        require(
            _READER in params,
            f"init_reader_from={config.init_reader_from} initialises a reader, but {type(config.objective).__name__} "
            "has no reader; leave it out",
        )
        towers = {name: part for name, part in params.items() if name != _READER}
        sources = {"init_from": towers, "init_reader_from": {_READER: params[_READER]}}
    started, reports = {}, []
    for setting, part in sources.items():
        if place := getattr(config, setting):
            part, report = warm_start(part, place, config.objective, setting)
            reports.append(report)
        started |= part
    return started, reports


def warm_start(
    params: Params, init_from: str, objective: Any, setting: str = "init_from"
) -> tuple[Params, tensors.LoadReport]:
    """Fill `params`, all or part of those of `objective`, from `init_from`; return them with a report on each array.

    `init_from` is a workdir (its best checkpoint by validation.select, else the newest), WORKDIR/checkpoints/STEP, or a
    Hugging Face folder; errors call it `setting`. Parts are taken completely or not at all: encoder, pooler,
    projection, masked-LM head, span scorer, Condenser head, decoder. A reader is filled from a reader, or else from the
    only encoder; other parameters are never filled from a reader.

    Raises:
        ConfigError: the model in `init_from` is not that of the config; lists the differences.
        StorageError: the weights are missing, incomplete, damaged or of another shape.
    """
    run = parse_run(Path(init_from))
    if run is None:
        return tensors.load_params(params, Path(init_from), objective)
    return _from_run(params, run, objective, f"{setting}={run.workdir}")


def parse_run(path: Path) -> RunCheckpoint | None:
    """Return the run that `path` names; None if it is not a workdir."""
    if (path / "config.json").is_file() and not (path / "checkpoints").is_dir():
        return None  # a Hugging Face folder, whatever it is called
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return RunCheckpoint(path.parent.parent, int(path.name))
    if path.name == "checkpoints":
        return RunCheckpoint(path.parent, -1)
    return RunCheckpoint(path, -1) if (path / "checkpoints").is_dir() else None


def init_fingerprint(init_from: str) -> str:
    """Digest of the weights in `init_from`, independent of their path; empty if `init_from` is empty.

    Raises:
        StorageError: `init_from` holds no weights.
    """
    if not init_from:
        return ""
    if run := parse_run(Path(init_from)):
        checkpoints, step = _checkpoint(run)
        return checkpoints.fingerprint(step)
    return tensors.weights_fingerprint(Path(init_from))


def _checkpoint(run: RunCheckpoint) -> tuple[Checkpoints, int]:
    """Return the checkpoints of a run, and the step that it selects."""
    checkpoints = Checkpoints(run.workdir / "checkpoints", CheckpointConfig(), read_only=True)
    history = read_history(run.workdir) if run.step == -1 else None
    step = (
        run.step
        if history is None
        else selected_step(run.workdir, history.select, history.measure, checkpoints.steps())
    )
    return checkpoints, checkpoints.existing(step)


class Origin(NamedTuple):
    """Origin of a model's initial weights."""

    words: str  # description; empty: random numbers
    model: str  # Hugging Face model at the start of the chain of runs; empty: random numbers


def origin(init_from: str) -> Origin:
    """Trace the origin of `init_from` through earlier runs as far as they still exist."""
    if not init_from:
        return Origin("", "")
    run = parse_run(Path(init_from))
    if run is None:
        name = Path(init_from).absolute().name
        return Origin(name, name)
    name = run.workdir.absolute().name
    if not (run.workdir / "config.json").is_file():
        return Origin(f"the run {name}", "")
    config = run.config
    steps = config["steps"] if run.step == -1 else run.step
    before = origin(config["init_from"])
    start = f"which started from {before.words}" if before.words else "which started from random numbers"
    method = config["objective"].get("class", "of an unknown method")
    return Origin(f"the run {name} ({method}, {steps:,} steps), {start}", before.model)


def tokenizer_folder(init_from: str) -> Path:
    """Folder of the tokenizer of `init_from`, even if a run was moved together with its shared workdir."""
    run = parse_run(Path(init_from))
    if run is None:
        return transformer_folder(Path(init_from))
    shared = run.config["passages"]["workdir"]
    places = [Path(shared), run.workdir.parent / Path(shared).name] if shared else []
    folders = [place / "tokenizer" for place in (*places, run.workdir)]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _from_run(params: Params, run: RunCheckpoint, objective: Any, source: str) -> tuple[Params, tensors.LoadReport]:
    check_same_architecture(objective, run.config["objective"], str(run.workdir))
    checkpoints, step = _checkpoint(run)
    theirs = _by_name(checkpoints.restore_params_as_saved(step))
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    ours = {path_name(path): leaf for path, leaf in leaves}
    taken = {name: found for name in ours if (found := _counterpart(name, theirs, source))}
    _check_whole(ours, taken, source)
    _check_shapes(ours, theirs, taken, source)
    report = tensors.LoadReport(
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


def _counterpart(name: str, theirs: Mapping[str, Array], source: str) -> str | None:
    """Name of the checkpoint's array for our `name`: the same name, or the only array at the same place of a part."""
    if name in theirs:
        return name
    place = _place(name)
    found = [other for other in _of_same_kind(name, theirs) if place and _place(other) == place]
    if len(found) > 1:
        cure = (
            "name a run with one encoder, or a Hugging Face folder, by --init_reader_from"
            if _reads(name)
            else "start from a run with one encoder, or train one with two"
        )
        raise ConfigError(f"{source} has {' and '.join(found)}, and either could become {name}; {cure}")
    return found[0] if found else None


def _of_same_kind(name: str, theirs: Iterable[str]) -> list[str]:
    """Candidates for our array `name`: those of a reader if it is a reader's and there are any, else all others."""
    readers = [other for other in theirs if _reads(other)]
    return readers if readers and _reads(name) else [other for other in theirs if not _reads(other)]


def _reads(name: str) -> bool:
    return name.startswith(f"{_READER}/")


def _place(name: str) -> str | None:
    found = _PART.search(name)
    return found.group(1) if found else None


def _check_whole(ours: Mapping[str, Array], taken: Mapping[str, str], source: str) -> None:
    if not taken:
        raise StorageError(f"{source}: holds no parameters of this objective; name a run or model with the same parts")
    parts = {name: name.removesuffix((_place(name) or name).partition("/")[2]) for name in ours}
    begun = {parts[name] for name in taken}
    missing = [name for name in ours if name not in taken and parts[name] in begun]
    if missing:
        raise StorageError(f"{source}: a part is incomplete: {', '.join(missing[:5])} is missing; name another run")


def _check_shapes(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], taken: Mapping[str, str], source: str
) -> None:
    differ = [
        f"{name} is {list(ours[name].shape)}, but {list(theirs[found].shape)} there"
        for name, found in taken.items()
        if ours[name].shape != theirs[found].shape
    ]
    if differ:
        raise StorageError(f"{source}: " + "\n".join(differ[:20]))
