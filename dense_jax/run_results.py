"""The results of a run, read from its workdir: cost of training, figures of `evaluate` and `answer`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.augmented.qa_metrics import RECALL
from dense_jax.augmented.qa_report import FIGURES, Answered, AnsweredMeans
from dense_jax.config import Config, Precision, Select
from dense_jax.errors import DataError, StorageError
from dense_jax.hf.model_card import CardResult
from dense_jax.io import check_kind, read_json
from dense_jax.remote.paths import absolute
from dense_jax.retrieval.evaluate import Evaluated, EvaluatedFigures, EvaluatedMeans
from dense_jax.retrieval.metrics import HEADLINE
from dense_jax.retrieval.results import set_of, suffix
from dense_jax.train.metrics_files import MetricsLine
from dense_jax.train.same_run import FinishedConfig
from dense_jax.train.validation import History, read_history
from dense_jax.train.warm_start import parse_run

BM25, HYBRID = "BM25", "BM25 + dense"  # rows that every run has
_BEFORE, _AFTER = "before_training", "after_training"  # files of figures, without the ending; BM25 is another

PerQuery = dict[str, dict[str, float]]  # query -> measure -> value


@dataclass(frozen=True)
class SetResult:
    """The figures on one set of queries."""

    step: int | None  # of the checkpoint; None: of BM25
    measures: tuple[str, ...]  # to be shown, the most important one first
    per_query: PerQuery
    set: tuple[str, str]  # the name of the set, which others may have too, and a digest of its content, if known
    place: str = ""  # the setting that names the set; empty: the set that `prepare` held out
    chosen_on: str = ""  # the queries that the weight of a hybrid was chosen on


@dataclass(frozen=True)
class FinishedRun:
    """A workdir that was trained to the end, and evaluated or measured by questions."""

    path: Path
    config: dict[str, Any]
    steps: int
    tokens: float  # real ones, seen in training
    seconds: float  # of training
    results: dict[str, SetResult]  # by the name of the set
    words: dict[str, SetResult]  # the same for BM25
    hybrids: dict[str, SetResult]  # the same for both together
    chosen_by: str = ""  # the rules that chose its checkpoint or stopped it early

    def is_chosen_on(self, found: SetResult) -> bool:
        """True if these rules read queries of the set of `found`."""
        validation = self.config.get("validation", {"folder": "", "split": ""})
        folder, split = validation["folder"], validation["split"]
        return bool(self.chosen_by) and found.place == folder and (not folder or found.set[0].endswith(f"-{split}"))


def read_run(path: Path) -> FinishedRun:
    """Read the results of a run.

    Raises:
        DataError: training or measuring is unfinished, or measuring is older than training.
    """
    ranked = _evaluated(path, file := _AFTER) or _evaluated(path, file := _BEFORE)  # after training, if it had steps
    results = ranked | _answered(path)
    if not (path / "config.json").is_file() or not results:
        raise DataError(
            f"{path}: not trained and evaluated; run `dense-jax train` and `dense-jax evaluate` (or `answer`) there, "
            "without embed.width and embed.precision=int8, whose figures are not compared"
        )
    config = read_json(path / "config.json", FinishedConfig)
    last, history = _last_metrics(path), read_history(path)
    if not has_ended(last["step"], config["steps"], history):
        raise DataError(
            f"{path}: training stands at step {last['step']:,} of {config['steps']:,}; run `dense-jax train` to the "
            "end, and `dense-jax evaluate` after it"
        )
    for name, found in results.items():
        if found.step not in (last["step"], history.best if history is not None else None):
            raise DataError(
                f"{path}: {name} is of step {found.step:,}, but training stands at {last['step']:,}; "
                "run `dense-jax evaluate` (or `answer`) again"
            )
    hybrids = _evaluated(path, hybrid_file(file))
    return FinishedRun(
        path,
        config,
        last["step"],
        last["tokens"],
        last["seconds"],
        results,
        _evaluated(path, BM25),
        {name: found for name, found in hybrids.items() if name in ranked and found.step == ranked[name].step},
        _rules(history),
    )


def row_names(path: Path, config: Config, step: int) -> tuple[str, str]:
    """The name of the row of checkpoint `step` in the table of `evaluate`, and that of its files.

    A run of no steps is named after the model that it starts from. Figures of `embed.width` and of int8 vectors have
    rows and files of their own, which `compare` and the model card do not read.
    """
    name, file = _checkpoint_names(path, config, step)
    width, is_int8 = config.embed.width, config.embed.precision is Precision.INT8
    names = [name, *([f"{width} numbers"] if width else []), *(["int8"] if is_int8 else [])]
    # digits come first, so that the report lists these files before those of whole vectors
    return ", ".join(names), "_".join([*([str(width)] if width else []), *(["8bit"] if is_int8 else []), file])


def _checkpoint_names(path: Path, config: Config, step: int) -> tuple[str, str]:
    """`row_names` of whole float32 vectors."""
    if step == 0:
        return (_start(config) if not config.steps else "") or "before training", _BEFORE
    if _is_end(path, config.steps, step):
        return "after training", _AFTER
    return f"step {step:,} of {config.steps:,}", f"step_{step}"


def hybrid_file(file: str) -> str:
    """The name of the figures of BM25 together with the checkpoint whose figures are in `file`."""
    return f"hybrid_{file}"


def _start(config: Config) -> str:
    """The name of the folder of `init_from`; empty without one."""
    if not config.init_from:
        return ""
    run = parse_run(Path(config.init_from))
    name = absolute(config.init_from if run is None else str(run.workdir)).name
    name += f", step {run.step:,}" if run is not None and run.step >= 0 else ""
    return f"{name} (init_from)" if name in (BM25, HYBRID) else name


def _is_end(path: Path, steps: int, step: int) -> bool:
    """True of the last checkpoint of a training that has ended, and of its best one."""
    last, history = _last_metrics(path)["step"], read_history(path)
    return step == steps or (has_ended(last, steps, history) and step in (last, history.best if history else None))


def has_ended(last: int, steps: int, history: History | None) -> bool:
    """True if training that stands at step `last` has come to its end, by its steps or by its patience."""
    return last == steps or bool(history is not None and history.ended and history.steps[-1] == last)


def measured(path: Path, step: int) -> tuple[CardResult, ...]:
    """The figures of `evaluate` and `answer` for the towers of checkpoint `step`.

    Figures of the reader are left out, since it is no part of the towers.
    """
    results, evaluated = path / "results", {}
    for file in (_BEFORE, f"step_{step}", _AFTER):
        evaluated |= _read_results(path, f"{file}.json", EvaluatedMeans, step)
    ranked = [
        CardResult(of["collection"].rpartition("/")[0] + suffix(results / folder), of["split"], name, of["mean"][name])
        for folder, of in evaluated.items()
        for name in HEADLINE
    ]
    asked = [
        CardResult(of["questions"] + suffix(results / folder), "", name, value)
        for folder, of in _read_results(path, FIGURES, AnsweredMeans, step).items()
        for name, value in of["figures"].items()
        if name.startswith(RECALL)
    ]
    return tuple(ranked + asked)


def read_rankings(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of each ranking in a folder of results, by the name of its file.

    Those of a hybrid are left out where those of its checkpoint are of another step.

    Raises:
        StorageError: a file of figures is damaged.
    """
    paths = {path.stem: path.with_suffix(".json") for path in folder.glob("*.trec")}
    found = {name: read_json(path, EvaluatedFigures) for name, path in paths.items()}
    for name, of in found.items():
        _check_measures({"the mean": of["mean"]}, HEADLINE, paths[name])
        _check_measures(of["per_query"], HEADLINE, paths[name])
    steps = {hybrid_file(name): of["step"] for name, of in found.items()}
    return {name: of for name, of in found.items() if of["step"] == steps.get(name, of["step"])}


def _evaluated(path: Path, file: str) -> dict[str, SetResult]:
    """The figures of `evaluate` in `file`, by test set."""
    return {
        name: _set_result(of, HEADLINE, path, name)
        for name, of in _read_results(path, f"{file}.json", Evaluated).items()
    }


def _answered(path: Path) -> dict[str, SetResult]:
    """The figures of `answer`, by set of questions."""
    found = _read_results(path, FIGURES, Answered)
    return {name: _set_result(of, tuple(of["figures"]), path, name) for name, of in found.items()}


def _set_result(of: dict[str, Any], measures: tuple[str, ...], path: Path, name: str) -> SetResult:
    folder = path / "results" / name
    _check_measures(of["per_query"], measures, folder)
    about, chosen_on = set_of(folder), of.get("fusion", {}).get("chosen_on", "")
    known_by = (about["name"], about["content"])
    return SetResult(of["step"], measures, of["per_query"], known_by, about["place"], chosen_on)


def _check_measures(figures: Mapping[str, Mapping[str, float]], measures: Sequence[str], where: Path) -> None:
    """
    Raises:
        StorageError: one of `figures`, read from `where`, lacks one of `measures`, or is empty.
    """
    lacking = [name for name, of in figures.items() if not of.keys() >= set(measures)]
    if lacking or not figures:
        what = f"lacks some of {', '.join(measures)} of {lacking[0]!r}" if lacking else "has no query"
        raise StorageError(f"{where}: damaged ({what}); run `dense-jax evaluate` (or `answer`) again")


def _read_results(path: Path, file: str, kind: Any, step: int | None = None) -> dict[str, Any]:
    """Each `file` in the results of a workdir, by the name of its folder; with `step`, those of that checkpoint."""
    found = {found.parent.name: read_json(found, kind) for found in sorted(path.glob(f"results/*/{file}"))}
    return {name: of for name, of in found.items() if step is None or of["step"] == step}


def _rules(history: History | None) -> str:
    if history is None or (history.select is Select.NEWEST and not history.patience):
        return ""
    return f"{history.select.value} in {history.measure}, patience {history.patience}"


def _last_metrics(workdir: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl that is whole: a kill or a power cut may have cut one short."""
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in reversed(list(enumerate(lines, start=1))):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        check_kind(value, MetricsLine, f"{path}:{number}")
        return value
    return {"step": 0, "tokens": 0.0, "seconds": 0.0}
