"""Evaluation of a retriever on a test collection: figures, the run behind them, and a table."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from dense_jax.config.retrieval import DropSameId
from dense_jax.config.tree import to_dict
from dense_jax.errors import require
from dense_jax.io import Count, write_json
from dense_jax.retrieval import runs
from dense_jax.retrieval.beir import TestSet
from dense_jax.retrieval.fusion import Fusion
from dense_jax.retrieval.metrics import HEADLINE, Metrics, PerQuery, Share, score
from dense_jax.retrieval.runs import Run
from dense_jax.retrieval.search import TextSearch, by_document
from dense_jax.terminal.markdown import plain
from dense_jax.types import Document, Ranking

DEEPEST = 100  # rank of the deepest measure
_EMPTY_SHOWN = 5  # places in a note
_ALL_FROM = 0.5  # share of queries with their document's text above which all are taken for their documents
_SPACED = "ids hold white space, which a TREC run cannot express: there it is percent-encoded, as %20, and % as %25"


class EvaluatedMeans(TypedDict):
    """Content of a file of figures that describes the checkpoint."""

    collection: str
    split: str
    step: Count | None
    mean: dict[str, Share]


class EvaluatedFusion(TypedDict):
    """The settings of a hybrid in its file of figures."""

    method: str
    weight: Share
    depth: Count
    chosen_on: str


class Evaluated(TypedDict):
    """Content of a file of figures that compares queries."""

    step: Count | None
    fusion: NotRequired[EvaluatedFusion]
    per_query: PerQuery


class EvaluatedFigures(EvaluatedMeans, Evaluated):
    """Content of a file of figures."""


@dataclass(frozen=True, slots=True)
class EvaluationCounts:
    """Counts to know before figures are compared."""

    queries: int  # behind every mean
    without_results: int  # of them, each counting 0
    without_text: int  # judged queries without a text in the collection; excluded
    missing_documents: int  # judged documents missing from the corpus; they stay in the denominators
    identical_ids: int  # results dropped because their id is their query's, as BEIR does
    identical_relevant: int  # of them, judged relevant: the equal ids may be a coincidence
    identical_kept: int  # results with their query's id that were kept


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one retriever, with the run behind them."""

    collection: str
    scores: Metrics
    counts: EvaluationCounts
    run: Run
    spaced_ids: bool = False  # an id of a query or a document holds white space
    empty_queries: tuple[str, ...] = ()  # file:line of the first empty queries, which are left out

    def notes(self, row: str = "") -> list[str]:
        """Return a sentence for each count that is not 0; sentences about the ranking name `row`, its table row."""
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
    """A retriever with its evaluation: one row of the table."""

    name: str  # in the table
    file: str  # of its figures and its run, without the ending
    step: int | None  # of its checkpoint; None for BM25
    result: Evaluation
    fusion: Fusion | None = None  # of a hybrid


def evaluate(
    find: TextSearch, ids: list[str], test_set: TestSet, depth: int, own: frozenset[str] | None = None
) -> Evaluation:
    """Rank `depth` documents for every query of `test_set` and score the ranking.

    `ids` are the document ids of the rows that `find` returns; a document of several passages is ranked by its best
    one. The queries `own`, or all, do not find the document with their id (see `own_documents`).

    Raises:
        ConfigError: `depth` is too small for the measures.
    """
    k = min(len(ids), depth + 1)  # one more, for the query's own document
    ranking = by_document(find, list(test_set.queries.values()), ids.__getitem__, k, len(ids))
    return score_ranking(ranking, ids, test_set, depth, own)


def score_ranking(
    ranking: Ranking, ids: list[str], test_set: TestSet, depth: int, own: frozenset[str] | None = None
) -> Evaluation:
    """Score the first `depth` documents of a ranking for the queries of `test_set`; otherwise as `evaluate`.

    Each document is in the ranking once, and the ranking goes to `depth` + 1, as far as there are documents.

    Raises:
        ConfigError: `depth` is too small for the measures.
    """
    check_depth(depth)
    found = runs.from_ranking(ranking, test_set.queries, ids)
    kept, identical = runs.without_identical(found, own)
    run = runs.truncate(kept, depth)
    counts = EvaluationCounts(
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


def own_documents(
    drop: DropSameId,
    queries: Mapping[str, str],
    ids: Sequence[str],
    documents_of: Callable[[Sequence[int]], Iterable[Document]],
) -> frozenset[str]:
    """Return the ids of those `queries` (id -> text) that are documents themselves and must not find themselves.

    `ids` are the document ids of the corpus's rows; `documents_of` returns the documents of rows. With `auto` a query
    is its document if both have the same text, apart from white space and case. If at least half of the queries with a
    document's id are their documents, as in ArguAna, all of them count; else equal ids are a coincidence.
    """
    rows: dict[str, list[int]] = {}
    for row, identifier in enumerate(ids if drop is not DropSameId.NEVER else ()):
        if identifier in queries:
            rows.setdefault(identifier, []).append(row)
    if drop is not DropSameId.AUTO:
        return frozenset(rows)
    same = frozenset(query for query, own in rows.items() if _is_same_text(queries[query], list(documents_of(own))))
    return frozenset(rows) if len(same) >= _ALL_FROM * len(rows) else same


def check_depth(depth: int) -> None:
    """
    Raises:
        ConfigError: `depth` is too small for the measures.
    """
    require(
        depth >= DEEPEST,
        f"evaluate.depth={depth} is less than the {DEEPEST} documents of Recall@100; use at least {DEEPEST}",
    )


def write(folder: Path, row: EvaluatedRetriever) -> None:
    """Write `folder/FILE.json`, the figures, and `folder/FILE.trec`, the run, of one row of the table."""
    result = row.result
    run = runs.percent_encoded(result.run) if result.spaced_ids else result.run
    runs.write_trec_run(folder / f"{row.file}.trec", run, row.file)
    about = {
        "collection": result.collection,
        "split": result.collection.rpartition("/")[2],
        "step": row.step,
        "counts": dataclasses.asdict(result.counts),
    }
    if row.fusion:
        about["fusion"] = to_dict(row.fusion.config) | {"chosen_on": row.fusion.chosen_on}
    write_json(folder / f"{row.file}.json", about | dataclasses.asdict(result.scores))


def table(rows: Mapping[str, Evaluation]) -> str:
    """Return the headline figures as a Markdown table, one line for each of `rows`."""
    return markdown([["", *HEADLINE], *([name, *_figures(result)] for name, result in rows.items())])


def markdown(cells: list[list[str]]) -> str:
    """Return rows of cells, the header first, as an aligned Markdown table; cells may hold any text."""
    cells = [[plain(cell) for cell in row] for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [_table_line(row, widths) for row in cells]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], _table_line(rule, widths), *lines[1:]])


def _figures(result: Evaluation) -> list[str]:
    return [f"{result.scores.mean[name]:.3f}" for name in HEADLINE]


def _table_line(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"


def _is_same_text(query: str, passages: Sequence[Document]) -> bool:
    """Return whether `query` is the title, the text or both of a document, given as its passages."""
    title, text = passages[0].title, "".join(passage.text for passage in passages)
    return _without_spaces(query) in {_without_spaces(title), _without_spaces(text), _without_spaces(title + text)}


def _without_spaces(text: str) -> str:
    return "".join(text.split()).casefold()
