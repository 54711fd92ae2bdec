"""A retriever on a test collection: figures, the run behind them, and the table that people read."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dense_jax.config import require
from dense_jax.io import write_json
from dense_jax.markdown import plain
from dense_jax.retrieval import runs
from dense_jax.retrieval.beir import TestSet
from dense_jax.retrieval.metrics import HEADLINE, Metrics, score
from dense_jax.retrieval.runs import Run
from dense_jax.retrieval.search import TextSearch, by_document

DEEPEST = 100  # ranks that the measures look at
_EMPTY_SHOWN = 5  # places in a note
_SPACED = "ids hold white space, which a TREC run cannot express: there it is percent-encoded, as %20, and % as %25"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a reader must know before comparing the figures."""

    queries: int  # behind every mean
    without_results: int  # of them, each counting 0
    without_text: int  # judged queries that the collection gives no text for; excluded
    missing_documents: int  # judged documents that the corpus lacks; they stay in the denominators
    identical_ids: int  # results dropped because their id is their query's, as BEIR does
    identical_relevant: int  # of them, judged relevant: then ids that mean different things may have met by chance
    identical_kept: int  # results with their query's id that are not dropped


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one retriever, with the run behind them."""

    collection: str
    scores: Metrics
    counts: Counts
    run: Run
    spaced_ids: bool = False  # an id of a query or a document holds white space
    empty_queries: tuple[str, ...] = ()  # file:line of the first of those that are left out

    def notes(self, row: str = "") -> list[str]:
        """A sentence for each count that is not as it should be; those about the ranking name `row`, its table row."""
        other = " and another text" if self.counts.identical_ids else ""
        empty = f"; empty: {', '.join(self.empty_queries)}" if self.empty_queries else ""
        of_ranking = {
            "without_results": "queries found nothing and count 0",
            "identical_ids": "results had their query's own id and were dropped, as BEIR does",
            "identical_relevant": "of these were judged relevant: rename the queries unless they are documents",
            "identical_kept": f"results have their query's own id{other}, and are kept; "
            "evaluate.drop_same_id=always drops them, as BEIR does",
        }
        of_test_set = {
            "without_text": f"judged queries have no text and are left out{empty}",
            "missing_documents": "judged documents are not in the corpus and cannot be found",
        }
        place = f"{self.collection}, {row}" if row else self.collection
        spaced = [f"{self.collection}: {_SPACED}"] if self.spaced_ids else []
        return [*self._counted(place, of_ranking), *self._counted(self.collection, of_test_set), *spaced]

    def _counted(self, place: str, texts: Mapping[str, str]) -> list[str]:
        counts = dataclasses.asdict(self.counts)
        return [f"{place}: {counts[name]} {text}" for name, text in texts.items() if counts[name]]


@dataclass(frozen=True, slots=True)
class EvaluatedRetriever:
    """A retriever, and what it found."""

    name: str  # in the table
    file: str  # of its figures and its run, without the ending
    step: int | None  # of its checkpoint; None: of BM25
    result: Evaluation


def evaluate(
    find: TextSearch, ids: list[str], test_set: TestSet, depth: int, own: frozenset[str] | None = None
) -> Evaluation:
    """Ranks `depth` documents for every query of `test_set` and scores them.

    `ids` names the rows that `find` returns; a document of several passages is as good as its best one. The queries
    `own`, or all, do not find the document with their id (see `same_ids`).

    Raises:
        ConfigError: `depth` is too small for the measures.
    """
    check_depth(depth)
    k = min(len(ids), depth + 1)  # one more, for the query's own document
    ranking = by_document(find, list(test_set.queries.values()), ids.__getitem__, k, len(ids))
    found = runs.from_ranking(ranking, test_set.queries, ids)
    kept, identical = runs.without_identical(found, own)
    run = runs.truncate(kept, depth)
    counts = Counts(
        queries=len(test_set.queries),
        without_results=sum(not scores for scores in run.values()),
        without_text=len(test_set.unknown_queries),
        missing_documents=len(test_set.missing_documents(ids)),
        identical_ids=len(identical),
        identical_relevant=sum(test_set.qrels[query].get(query, 0) > 0 for query in identical),
        identical_kept=sum(query in scores for query, scores in run.items()),
    )
    spaced = any(map(runs.holds_space, (*test_set.queries, *ids)))
    collection, empty = f"{test_set.name}/{test_set.split}", test_set.empty_queries[:_EMPTY_SHOWN]
    return Evaluation(collection, score(run, test_set.qrels), counts, run, spaced, empty)


def check_depth(depth: int) -> None:
    """
    Raises:
        ConfigError: `depth` is too small for the measures.
    """
    require(depth >= DEEPEST, f"evaluate.depth={depth} is less than the {DEEPEST} documents that Recall@100 looks at")


def write(folder: Path, name: str, result: Evaluation, step: int | None = None) -> None:
    """Writes `folder/name.json`, the figures, and `folder/name.trec`, the run; `step` is that of the checkpoint."""
    run = runs.percent_encoded(result.run) if result.spaced_ids else result.run
    runs.write_trec_run(folder / f"{name}.trec", run, name)
    about = {
        "collection": result.collection,
        "split": result.collection.rpartition("/")[2],
        "step": step,
        "counts": dataclasses.asdict(result.counts),
    }
    write_json(folder / f"{name}.json", about | dataclasses.asdict(result.scores))


def table(rows: Mapping[str, Evaluation]) -> str:
    """The headline figures as a Markdown table, a line for each of `rows`."""
    return markdown([["", *HEADLINE], *([name, *_figures(result)] for name, result in rows.items())])


def markdown(cells: list[list[str]]) -> str:
    """Rows of cells, the header first, as a Markdown table that is aligned for people too; cells may hold any text."""
    cells = [[plain(cell) for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [_line(row, widths) for row in cells]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]])


def _figures(result: Evaluation) -> list[str]:
    return [f"{result.scores.mean[name]:.3f}" for name in HEADLINE]


def _line(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"
