"""Averages of models: one model whose parameters are the mean of those of several, as a folder like that of `export`.

    dense-jax average runs/a runs/b --workdir=runs/mean                  two runs from the same start
    dense-jax average runs/a --last=3 --workdir=runs/mean                the last three checkpoints of a run
    dense-jax average runs/a FOLDER --weights=0.7,0.3 --workdir=runs/mean  a fine-tuned model and what it started from

The mean of models that were fine-tuned from one start is often better than each of them (Wortsman et al. 2022, "Model
soups"), and its mean with the start forgets less of other domains (Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models").
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dense_jax.arrays import np
from dense_jax.config.overrides import LoadedConfig, load_config
from dense_jax.config.remembered import is_remembered, recall_config
from dense_jax.config.training import CheckpointConfig
from dense_jax.config.tree import changed, to_dict
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, require
from dense_jax.hf.config import architecture
from dense_jax.hf.export import ExportReport, export
from dense_jax.hf.model_card import CardContent
from dense_jax.io import writable
from dense_jax.models.encoder import Encoder, MultiViewEncoder
from dense_jax.remote.models import local_model
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.start import fitted
from dense_jax.train.warm_start import RunCheckpoint, origin, parse_run
from dense_jax.types import Tower, Towers
from dense_jax.workdir import Workdir


class NamedModel(NamedTuple):
    """A model to average."""

    name: str
    towers: Towers
    tokenizer: Tokenizer


def average(
    models: Sequence[str | Path], workdir: str | Path, *, weights: Sequence[float] = (), last: int = 0
) -> ExportReport:
    """Write the mean of the parameters of `models`, in float32, to WORKDIR/export, verified like an export.

    A model is a workdir (its best checkpoint by validation.select, else the newest), WORKDIR/checkpoints/STEP, or a
    folder of sentence-transformers or Hugging Face, or ORG/NAME of the Hub. With `last`, the models are the last
    checkpoints of the only run that is named. `weights`, one a model, are divided by their sum; without them the mean
    is plain. Lengths are those of the first model.

    Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", section 2.

    Raises:
        ConfigError: the models differ in architecture, tokenizer, pooling, prompts or similarity; lists in what.
        StorageError: a model is missing or damaged, the disk refuses, or the vectors of the folder differ from ours.
    """
    named = [Path(local_model(str(model))) for model in models]
    places = _last_checkpoints(named, last) if last else named
    require(len(places) > 1, "one model alone has no mean; name another one, or --last=K for K checkpoints of a run")
    shares, target = _shares(weights, len(places)), writable(Path(workdir))
    require(
        parse_run(target) is None,
        f"--workdir={target} is that of a run, whose export the mean would replace; name another one",
    )
    first, params, parts = None, None, []
    for place, share in zip(places, shares, strict=True):
        model = _open_model(place)
        first = first or model
        _check_same(first, model)
        scaled = _scaled([model.towers.query.params, model.towers.passage.params], share)
        params = scaled if params is None else jax.tree.map(np.add, params, scaled)
        parts.append(f"{model.name} (weight {share:.3g})")
    assert first is not None and params is not None
    query, passage = first.towers.query, first.towers.passage
    mean = replace(first.towers, query=replace(query, params=params[0]), passage=replace(passage, params=params[1]))
    bases = {origin(str(place)).model for place in places}
    card = CardContent(
        name=target.absolute().name,
        method="",
        corpus="",
        steps=0,
        batch=0,
        base=f"the mean of the parameters of {', '.join(parts)}",
        base_model=bases.pop() if len(bases) == 1 else "",
    )
    with tempfile.TemporaryDirectory() as folder:
        first.tokenizer.save(Path(folder))
        return export(mean, Path(folder), target / "export", card)


def _shares(weights: Sequence[float], count: int) -> list[float]:
    """The weight of each model in the mean.

    >>> _shares([], 2), _shares([3.0, 1.0], 2)
    ([0.5, 0.5], [0.75, 0.25])
    """
    shown = ",".join(f"{weight:g}" for weight in weights)
    require(len(weights) in (0, count), f"--weights={shown} is not one number for each of {count} models")
    require(
        all(math.isfinite(weight) and weight > 0 for weight in weights),
        f"--weights={shown}: each must be more than 0; leave a model out that is to have none",
    )
    given = list(weights) or [1.0] * count
    return [weight / sum(given) for weight in given]


def _last_checkpoints(models: Sequence[str | Path], count: int) -> list[Path]:
    """The folders of the last `count` checkpoints of a run, without that of step 0, before training."""
    run = parse_run(Path(models[0])) if len(models) == 1 else None
    shown = " ".join(map(str, models))
    require(
        run is not None, f"--last={count} takes the checkpoints of one run, and {shown} is not one; name its workdir"
    )
    assert run is not None
    folder = run.workdir / "checkpoints"
    steps = [step for step in Checkpoints(folder, CheckpointConfig(), read_only=True).steps() if step]
    require(
        1 < count <= len(steps),
        f"--last={count}, but {folder} holds {len(steps)} checkpoints of training; use a number from 2 to that, or "
        "keep more by `dense-jax train --checkpoint.keep`",
    )
    return [folder / str(step) for step in steps[-count:]]


def _open_model(place: Path) -> NamedModel:
    """The model of a run, or of a folder as it is."""
    run = parse_run(place)
    loaded = _config_of(run) if run else load_config(f"pretrained:{place}")
    workdir = run.workdir if run else place
    work = Workdir(workdir, fitted(loaded.config, loaded.given, workdir).config)
    trained = work.trained(run.step if run else -1)
    name = workdir.absolute().name
    return NamedModel(f"{name} at step {trained.step:,}" if run else name, trained.towers, work.tokenizer)


def _config_of(run: RunCheckpoint) -> LoadedConfig:
    require(
        is_remembered(run.workdir),
        f"{run.workdir} remembers no config; name the folder that `dense-jax export` makes of it",
    )
    return recall_config(run.workdir)


def _scaled(params: Any, share: float) -> Any:
    return jax.tree.map(lambda x: np.float32(share) * np.asarray(x, np.float32), params)


def _check_same(first: NamedModel, other: NamedModel) -> None:
    """
    Raises:
        ConfigError: the models differ in more than their parameters and lengths; lists the differences.
    """
    lines = [
        f"{line.name} is {line.old!r} in {first.name}, and {line.new!r} in {other.name}"
        for line in changed(_described(first.towers), _described(other.towers))
    ]
    if first.tokenizer.fingerprint != other.tokenizer.fingerprint:
        lines.append(f"the tokenizer of {other.name} is another one than that of {first.name}")
    if lines:
        raise ConfigError(
            "only models of one architecture, tokenizer, pooling and prompts have a mean, such as runs from one start:"
            "\n  " + "\n  ".join(lines)
        )


def _described(towers: Towers) -> dict[str, Any]:
    """The settings that models with a mean share, in the form of `config.tree.to_dict`."""
    sides = {"query": _shared_settings(towers.query), "passage": _shared_settings(towers.passage)}
    return {**sides, "similarity": towers.similarity.value}


def _shared_settings(tower: Tower) -> dict[str, Any]:
    encoder = tower.encoder
    if not isinstance(encoder, Encoder | MultiViewEncoder):
        raise ConfigError(f"{type(encoder).__name__} cannot be exported, so it has no mean here")
    kept = {"class", "vocab_size", *architecture(encoder.bert)}
    model = {name: value for name, value in to_dict(encoder.bert).items() if name in kept}
    return {
        "encoder": to_dict(encoder) | {"bert": model},
        "layout": tower.layout.value,
        "prompt": tower.prompt,
        "pools_prompt": tower.pools_prompt,
    }
