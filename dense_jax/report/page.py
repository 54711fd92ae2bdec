"""The report of a run: one HTML page, of which everything is read from the workdir."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup

from dense_jax.arrays import np
from dense_jax.artifact import MANIFEST
from dense_jax.augmented.qa_report import FIGURES, AnsweredMeans
from dense_jax.config import Config
from dense_jax.config.tree import without_folders
from dense_jax.data.preparation.collection import open_collection
from dense_jax.data.preparation.prepare import prepared_counts
from dense_jax.data.preparation.scan import REJECTS
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.errors import ConfigError, DataError, UserError
from dense_jax.io import read_json, short_digest
from dense_jax.remote.paths import absolute
from dense_jax.report import findings
from dense_jax.report.charts import Series, line_chart
from dense_jax.report.examples import QueryExample, examples, reference
from dense_jax.report.html import write_page
from dense_jax.report.tables import TESTED, ResultTable, RetrieverResult, result_tables
from dense_jax.retrieval.beir import read_test_set
from dense_jax.retrieval.index import IndexManifest
from dense_jax.retrieval.metrics import HEADLINE
from dense_jax.retrieval.results import set_of
from dense_jax.retrieval.sample import content_of_test_set
from dense_jax.run_results import has_ended
from dense_jax.terminal.progress import format_duration
from dense_jax.terminal.show import settings
from dense_jax.train.metrics import COLLAPSE
from dense_jax.train.metrics_files import read_metrics
from dense_jax.train.optimizer import make_schedule
from dense_jax.train.validation import PREFIX, History, read_history
from dense_jax.train.warm_start import origin
from dense_jax.types import Document
from dense_jax.workdir import Workdir

REPORT = "report.html"
_POINTS = 200  # of a curve
_TOGETHER = (  # collapse metrics that share a chart, with what they show
    (("rank_me",), "Directions that the vectors use; a small number is a collapse"),
    (("mean_cosine",), "Mean cosine of two different passages; near 1 all point one way"),
    (("alignment", "uniformity"), "Distance of a query to its passage; how close all vectors are (-4: spread out)"),
    (("query_norm", "passage_norm"), "Lengths of the vectors; they should not grow without end"),
    (("view_perplexity", "local_variation"), "How many views win, and by how much; near 1 and 0 all are the same"),
    (("encoder_distance",), "Distance of the two encoders"),
)


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption."""

    title: str
    about: str
    svg: Markup


@dataclass(frozen=True)
class Illustrated:
    """A table of results with examples, or the reason why it has none."""

    table: ResultTable
    against: str
    gained: Sequence[QueryExample] = ()
    lost: Sequence[QueryExample] = ()
    note: str = ""


def write_report(work: Workdir) -> Path:
    """Write the report of the run in `work` to `report.html`, and return its path.

    Raises:
        ConfigError: `prepare` has not finished.
        StorageError: a file of the run is damaged.
    """
    path = work.written / REPORT
    write_page(path, "run.html", _page_content(work))
    return path


def _page_content(work: Workdir) -> dict[str, Any]:
    """The values that the template names."""
    config, lines, history = work.config, read_metrics(work.path), read_history(work.path)
    tables = [table for place in work.places for table in result_tables(place)]
    answers = [path for place in work.places for path in sorted(place.glob(f"results/*/{FIGURES}"))]
    indexes = [row for place in work.places for row in _indexes(place)]
    facts, counts = _facts(config, lines), _counts(work)
    return {
        "name": work.path.absolute().name,
        "facts": facts | counts,
        "findings": [*_findings(work, lines, history, tables, counts, indexes)],
        "measures": HEADLINE,
        "tested": TESTED,
        "results": [_illustrated(work, table) for table in tables],
        "answers": [(path.parent.name, read_json(path, AnsweredMeans)["figures"]) for path in answers],
        "charts": [*_charts(config, lines)],
        "indexes": indexes,
        "settings": settings(without_folders(config)),
    }


def _facts(config: Config, lines: findings.Lines) -> dict[str, str]:
    """Method, start, corpus and cost of the training."""
    last = lines[-1] if lines else {"step": 0, "tokens": 0, "seconds": 0}
    start = origin(config.init_from).words or "random numbers"
    public = without_folders(config)
    speed = last["tokens"] / last["seconds"] if last["seconds"] else 0
    return {
        "method": type(config.objective).__name__,
        "started from": start,
        "corpus": ", ".join(public.corpus.sources),
        "steps": f"{int(last['step']):,} of {config.steps:,}",
        "batch": f"{config.batch:,} examples",
        "tokens seen": f"{last['tokens']:,.0f}",
        "training time": format_duration(last["seconds"]),
        "speed": f"{speed:,.0f} tokens/s",
    }


def _counts(work: Workdir) -> dict[str, str]:
    """The counts of `prepare`; empty for a run without prepared passages."""
    if not work.is_prepared:
        return {}
    try:
        store = work.passages
    except ConfigError:  # of questions to learn from, which the config does not name
        return {}
    counts = prepared_counts(store) if isinstance(store, PassageStore) else {"examples": len(store)}
    return {name: f"{n:,}" if isinstance(n, int) else str(n) for name, n in counts.items() if name != "folder"}


def _findings(
    work: Workdir,
    lines: findings.Lines,
    history: History | None,
    tables: Sequence[ResultTable],
    counts: Mapping[str, str],
    indexes: Sequence[Mapping[str, Any]],
) -> Iterator[findings.Finding]:
    config, step = work.config, int(lines[-1]["step"]) if lines else 0
    ended, store = has_ended(step, config.steps, history), work.passages if counts else None
    visits = config.steps * config.batch / len(store) if isinstance(store, PassageStore) else None
    yield from findings.of_training(lines, step, config.steps, ended, visits)
    yield from findings.of_validation(history, ended)
    yield from findings.of_results(tables)
    if counts:
        yield from findings.of_data(*_rejected(work.prepared / REJECTS))
    for index in indexes:
        yield from findings.of_index(index["name"], index["recall"])


def _rejected(path: Path) -> tuple[int, str]:
    """The number of rejected rows, and the first of them."""
    rows = path.read_bytes().splitlines() if path.is_file() else []
    if not rows:
        return 0, ""
    first = orjson.loads(rows[0])
    return len(rows), f"{Path(first['file']).name}:{first['line']} ({first['reason']})"


def _illustrated(work: Workdir, table: ResultTable) -> Illustrated:
    against = reference(table)
    if against is None:
        return Illustrated(table, "", note="There is nothing to compare with: only one retriever was measured.")
    try:
        gained, lost = _examples(work, table, against)
    except UserError as error:
        return Illustrated(table, against.name, note=f"No examples are shown: {error}")
    return Illustrated(table, against.name, gained, lost)


def _examples(
    work: Workdir, table: ResultTable, against: RetrieverResult
) -> tuple[list[QueryExample], list[QueryExample]]:
    about = set_of(table.folder)
    folder = absolute(about["place"]) if about["place"] else work.prepared / "test"
    test_set = read_test_set(folder, table.split)
    if about["content"] and about["content"] != short_digest(content_of_test_set(folder, table.split, work.asked)):
        raise DataError(f"{folder} has changed since it was evaluated")
    documents = (row for row in open_collection(str(folder), work.asked) if isinstance(row, Document))
    return examples(table, against, test_set, documents)


def _indexes(place: Path) -> Iterator[dict[str, Any]]:
    """Each finished index of a workdir, with the recall that was measured when it was built."""
    for path in sorted(place.glob(f"index/*/{MANIFEST}")):
        found = read_json(path, IndexManifest)
        searched = ", ".join(f"{name} {value}" for name, value in found.get("scann", {}).items())
        yield {
            "name": path.parent.name,
            "kind": found["kind"],
            "vectors": found["count"],
            "searched": searched,
            "recall": found["recall@10"],
        }


def _charts(config: Config, lines: findings.Lines) -> Iterator[Chart]:
    """The curves of a run; a metric that was not logged has none."""
    for name, about in (("loss", ""), ("gradient_norm", "Before clipping"), ("utility", "What passages add to a word")):
        if series := _series(lines, {name: name}):
            yield Chart(name.replace("_", " "), about, line_chart(series))
    if lines:
        yield Chart("learning rate", "By its schedule", line_chart(_learning_rate(config)))
    if series := _series(lines, {PREFIX + name: name for name in HEADLINE}):
        yield Chart("validation", "On the validation sample", line_chart(series, points=True))
    for names, about in _TOGETHER:
        if series := _series(lines, {COLLAPSE + name: name for name in names}):
            yield Chart(" and ".join(series).replace("_", " "), about, line_chart(series))


def _learning_rate(config: Config) -> Series:
    schedule, steps = make_schedule(config.optimizer, config.steps), np.linspace(0, config.steps, _POINTS)
    return {"learning rate": list(zip(steps.tolist(), np.asarray(schedule(steps)).tolist(), strict=True))}


def _series(lines: findings.Lines, names: Mapping[str, str]) -> Series:
    """The logged metrics among `names` (metric -> name in the legend), at most `_POINTS` points of each."""
    found = {shown: [(line["step"], line[name]) for line in lines if name in line] for name, shown in names.items()}
    return {shown: points[:: max(1, math.ceil(len(points) / _POINTS))] for shown, points in found.items() if points}
