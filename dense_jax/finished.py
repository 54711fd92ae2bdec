"""What training and measuring left in a workdir."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.config import Select
from dense_jax.errors import DataError, StorageError
from dense_jax.files import check_kind, read_json
from dense_jax.model_card import Result
from dense_jax.retrieval.answer_report import FIGURES
from dense_jax.retrieval.answer_scores import RECALL
from dense_jax.retrieval.metrics import HEADLINE
from dense_jax.schemas import Answered, AnsweredMeans, Evaluated, EvaluatedMeans, FinishedConfig, MetricsLine
from dense_jax.train.history import History, read_history

_BEFORE, _AFTER, _WORDS = "before_training.json", "after_training.json", "BM25.json"

PerQuery = dict[str, dict[str, float]]  # query -> measure -> value


@dataclass(frozen=True)
class Found:
    """What was found on one set of queries."""

    step: int | None  # of the checkpoint; None: of BM25
    measures: tuple[str, ...]  # those to show, what counts most first
    per_query: PerQuery


@dataclass(frozen=True)
class Run:
    """A workdir that was trained, and evaluated or asked questions."""

    path: Path
    config: dict[str, Any]
    steps: int
    tokens: float  # real ones, seen in training
    seconds: float  # of training
    results: dict[str, Found]  # by the name of the set
    words: dict[str, Found]  # the same for BM25
    chosen_by: str = ""  # the rules of its probes, where they end it or choose its checkpoint


def read_run(path: Path) -> Run:
    """What training, and `evaluate` or `answer`, left in a workdir.

    Raises:
        DataError: it was not trained to the end, or not measured since.
    """
    # Of a run of no steps there is nothing after.
    results = (_evaluated(path, _AFTER) or _evaluated(path, _BEFORE)) | _answered(path)
    if not (path / "config.json").is_file() or not results:
        raise DataError(
            f"{path}: not trained and evaluated; run `dense-jax train` and `dense-jax evaluate` (or `answer`) there"
        )
    config, last = read_json(path / "config.json", FinishedConfig), _last_metrics(path / "metrics.jsonl")
    probes = read_history(path)
    ended = probes is not None and probes.ended and probes.steps[-1] == last["step"]
    if last["step"] != config["steps"] and not ended:
        raise DataError(
            f"{path}: training stands at step {last['step']:,} of {config['steps']:,}; run `dense-jax train` to the "
            "end, and `dense-jax evaluate` after it"
        )
    for name, found in results.items():
        if found.step not in (last["step"], probes.best if probes is not None else None):
            raise DataError(
                f"{path}: {name} is of step {found.step:,}, but training stands at {last['step']:,}; "
                "run `dense-jax evaluate` (or `answer`) again"
            )
    return Run(
        path,
        config,
        last["step"],
        last["tokens"],
        last["seconds"],
        results,
        _evaluated(path, _WORDS),
        _rules(probes),
    )


def measured(path: Path, step: int) -> tuple[Result, ...]:
    """What `evaluate` and `answer` found of the towers of checkpoint `step`, wherever they were run.

    What a reader made of the passages is left out, since it is no part of the towers.
    """
    evaluated, answered = _read(path, _AFTER, EvaluatedMeans).values(), _read(path, FIGURES, AnsweredMeans).values()
    ranked = [
        Result(found["collection"].rpartition("/")[0], found["split"], name, found["mean"][name])
        for found in evaluated
        if found["step"] == step
        for name in HEADLINE
    ]
    asked = [
        Result(found["questions"], "", name, value)
        for found in answered
        if found["step"] == step
        for name, value in found["figures"].items()
        if name.startswith(RECALL)
    ]
    return tuple(ranked + asked)


def _evaluated(path: Path, file: str) -> dict[str, Found]:
    """What `evaluate` left in `file`, for each test set."""
    return {name: _found(of, HEADLINE, path, name) for name, of in _read(path, file, Evaluated).items()}


def _answered(path: Path) -> dict[str, Found]:
    """What `answer` left, for each set of questions."""
    return {name: _found(of, tuple(of["figures"]), path, name) for name, of in _read(path, FIGURES, Answered).items()}


def _found(of: dict[str, Any], measures: tuple[str, ...], path: Path, name: str) -> Found:
    lacking = [query for query, figures in of["per_query"].items() if not figures.keys() >= set(measures)]
    if lacking or not of["per_query"]:
        what = f"lacks some of {', '.join(measures)} of {lacking[0]!r}" if lacking else "has no query"
        raise StorageError(f"{path / 'results' / name}: damaged ({what}); run `dense-jax evaluate` (or `answer`) again")
    return Found(of["step"], measures, of["per_query"])


def _read(path: Path, file: str, kind: Any) -> dict[str, Any]:
    """Each `file` in the results of a workdir, by the name of the set of queries or questions."""
    return {found.parent.name: read_json(found, kind) for found in sorted(path.glob(f"results/*/{file}"))}


def _rules(probes: History | None) -> str:
    if probes is None or (probes.select is Select.NEWEST and not probes.patience):
        return ""
    return f"{probes.select.value} in {probes.measure}, patience {probes.patience}"


def _last_metrics(path: Path) -> dict[str, Any]:
    """The last line of metrics.jsonl that is whole: a kill or a power cut may have cut one short."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in reversed(list(enumerate(lines, start=1))):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        check_kind(value, MetricsLine, f"{path}:{number}")
        return value
    return {"step": 0, "tokens": 0.0, "seconds": 0.0}
