"""Hard negatives: what a retriever ranks high for a training query, and what is no known answer to it.

The rules are those of sentence-transformers: known positives and what has their text are left out, then what scores too
close to the lowest of them, then the best few of what is left; of the rest the best are taken, or any.

    FOLDER/part-00000.jsonl ...   finished queries, so that an interrupted call goes on
    FOLDER.jsonl                  all of them, written last: Tevatron's form with ids, and the scores beside them
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import orjson

from dense_jax.arrays import Float, Int, first_places, np
from dense_jax.config import Margin, MineConfig, Pick, require
from dense_jax.config.tree import differences, to_dict
from dense_jax.data.dedup import text_numbers
from dense_jax.errors import ConfigError
from dense_jax.io import Settings, is_written, read_json, whole_file, write_json
from dense_jax.locks import lock_of, only_one
from dense_jax.multihost import is_process_0, on_process_0
from dense_jax.progress import bar
from dense_jax.retrieval.bm25 import BM25, top_rows
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, encode_queries
from dense_jax.retrieval.index import Index
from dense_jax.types import PassageCollection, Tower, TrainingQuery, TrainingSet

_PART = 4_096  # queries: what an interrupted call repeats at most
_DIGITS = 6  # of scores after the point
_PLAN = "plan.json"

Rows = Int[np.ndarray, " _"]


class QueryRanking(NamedTuple):
    """What a retriever says of one query."""

    rows: Rows  # documents, best first; -1: no more were found
    scores: Float[np.ndarray, " k"]
    positives: Float[np.ndarray, " _"]  # the scores of the query's own


class MinedNegatives(NamedTuple):
    """What was chosen for one query, best first."""

    rows: Rows
    scores: Float[np.ndarray, " n"]
    too_close: int  # what the margin left out


@runtime_checkable
class Retriever(Protocol):
    """Ranks documents for queries, and scores those that answer them."""

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]: ...


@dataclass(frozen=True)
class BM25Retriever:
    """BM25 as a retriever."""

    bm25: BM25

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]:
        return [_found(scores, own, k) for scores, own in zip(self.bm25.scores(queries), positives, strict=True)]


class DenseRetriever:
    """A trained retriever, by an index over its vectors of the documents."""

    def __init__(self, index: Index, tower: Tower, tokenizer: Tokenizes) -> None:
        self.index, self.tokenizer = index, tokenizer
        self.tower = TowerOnMesh(tower, index.mesh)

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]:
        vectors = encode_queries(queries, self.tower, self.tokenizer)
        ranking = self.index.search(vectors, k)
        own = [(self._views(rows) @ vector).max(1) for rows, vector in zip(positives, vectors, strict=True)]
        return [QueryRanking(*found) for found in zip(ranking.rows, ranking.scores, own, strict=True)]

    def _views(self, documents: Rows) -> Float[np.ndarray, "r n d"]:
        """The vectors of each document, which several processes hold in parts: these are read from the disk."""
        vectors = self.index.vectors
        return vectors.take(documents[:, None] * vectors.views + np.arange(vectors.views))


def mine(
    queries: TrainingSet,
    documents: PassageCollection,
    retriever: Retriever,
    config: MineConfig,
    folder: Path,
    made_by: Any,
) -> Path:
    """Writes `folder`.jsonl, each query with its positives and the negatives that were chosen for it; its path.

    All processes search together, and the first one writes. `queries` draws questions about `documents`. What is taken
    at random depends on a query's number only. `made_by` says what ranked them, as JSON values.

    Raises:
        ConfigError: `folder` was begun with other settings, or from something else than `made_by` says, or another
            process mines there.
    """
    with only_one(lock_of(folder), f"{folder} is being mined"):
        on_process_0(lambda: _claim(folder, {"settings": to_dict(config), "made_by": made_by}))
        return _mine(queries, documents, retriever, config, folder)


def _mine(
    queries: TrainingSet, documents: PassageCollection, retriever: Retriever, config: MineConfig, folder: Path
) -> Path:
    starts = range(0, len(queries), _PART)
    parts = {folder / f"part-{start // _PART:05}.jsonl": start for start in starts}
    with bar("mine", len(queries), "queries", silent=not is_process_0()) as shown:
        ids, texts = documents.ids(), text_numbers(documents)
        for path, start in parts.items():
            rows = range(start, min(start + _PART, len(queries)))
            if not on_process_0(functools.partial(is_written, path)):
                lines = b"".join(_mined(queries, rows, retriever, config, ids, texts))
                on_process_0(functools.partial(_write, path, [lines]))
            shown.update(len(rows))
    result = folder.with_suffix(".jsonl")
    on_process_0(lambda: _write(result, (path.read_bytes() for path in parts)))
    return result


def summary(mined: Path, config: MineConfig) -> dict[str, Any]:
    """What the file holds, for people."""
    rows = [orjson.loads(line) for line in mined.read_bytes().splitlines()]
    counts = np.array([len(row["negative_document_ids"]) for row in rows])
    return {
        "queries": len(rows),
        "negatives": int(counts.sum()),
        f"queries with fewer than {config.negatives}": int((counts < config.negatives).sum()),
        "left out by the margin": sum(row["too_close"] for row in rows),
        "file": str(mined),
    }


def check_guide(config: MineConfig, views: int) -> None:
    """
    Raises:
        ConfigError: a guide is to be written, and the retriever has several vectors of a passage.
    """
    require(
        not config.guide or views == 1,
        f"mine.guide=True needs a guide of one vector a passage, and this one has {views}; leave it out",
    )


def write_guide(queries: TrainingSet, meaning: DenseRetriever, folder: Path) -> None:
    """The vectors of all queries and documents, with their ids, as `corpus.guide` reads them."""
    asked = [queries.document(row) for row in range(len(queries))]
    blocks = [asked[start : start + _PART] for start in range(0, len(asked), _PART)]
    vectors = [encode_queries([query.text for query in block], meaning.tower, meaning.tokenizer) for block in blocks]
    write_json(folder / "queries.json", [query.id for query in asked])
    write_json(folder / "documents.json", meaning.index.vectors.ids)
    for name, rows in (("queries", np.concatenate(vectors)), ("documents", meaning.index.vectors.array())):
        with whole_file(folder / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, rows, allow_pickle=False)


def choose_negatives(
    found: QueryRanking, own: Rows, texts: Int[np.ndarray, " p"], config: MineConfig, number: int
) -> MinedNegatives:
    """The negatives of query `number`, whose positives are `own`; `texts` tells which documents are the same."""
    count = min(int((found.rows >= 0).sum()), config.depth + len(own))
    rows, scores = found.rows[:count], found.scores[:count]
    other = ~np.isin(texts[rows], texts[own])
    other &= np.isin(np.arange(count), first_places(texts[rows]))
    far = scores <= _ceiling(found.positives, config)
    left = np.flatnonzero(other & far)[config.skip :]
    if config.pick is Pick.RANDOM and len(left) > config.negatives:
        left = np.sort(np.random.default_rng(number).choice(left, config.negatives, replace=False))
    left = left[: config.negatives]
    return MinedNegatives(rows[left], scores[left], int((other & ~far).sum()))


def _write(path: Path, blocks: Iterable[bytes]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        file.writelines(blocks)


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / _PLAN
    if not is_written(path):
        write_json(path, plan)
    elif changed := "\n  ".join(differences(read_json(path, Settings), plan)):
        raise ConfigError(f"{folder} holds negatives mined otherwise; delete it:\n  {changed}")


def _mined(
    queries: TrainingSet,
    rows: range,
    retriever: Retriever,
    config: MineConfig,
    ids: list[str],
    texts: Int[np.ndarray, " p"],
) -> Iterator[bytes]:
    """A line for each query of `rows`."""
    asked = [queries.document(row) for row in rows]
    own = [_positives(queries, row) for row in rows]
    depth = min(config.depth + max(map(len, own)), len(ids))
    for query, positives, row, found in zip(
        asked, own, rows, retriever.find([query.text for query in asked], own, depth), strict=True
    ):
        chosen = choose_negatives(found, positives, texts, config, row)
        line = {
            "query_id": query.id,
            "query_text": query.text,
            "positive_document_ids": [ids[i] for i in positives],
            "positive_scores": [round(float(score), _DIGITS) for score in found.positives],
            "negative_document_ids": [ids[i] for i in chosen.rows],
            "negative_scores": [round(float(score), _DIGITS) for score in chosen.scores],
            "too_close": chosen.too_close,
        }
        yield orjson.dumps(line) + b"\n"


def _positives(queries: TrainingSet, row: int) -> Rows:
    question = queries.sample(row, 0, np.random.default_rng(0))
    assert isinstance(question, TrainingQuery)
    return question.positives.rows


def _found(scores: Float[np.ndarray, " p"], own: Rows, k: int) -> QueryRanking:
    rows = top_rows(scores, k)
    return QueryRanking(rows, scores[rows], scores[own])


def _ceiling(positives: Float[np.ndarray, " _"], config: MineConfig) -> float:
    """The highest score that a negative may have, by the lowest of the positives."""
    lowest = float(positives.min())
    match config.margin:
        case Margin.NONE:
            return np.inf
        case Margin.ABSOLUTE:
            return lowest - config.margin_size
        case Margin.RELATIVE:
            return lowest - abs(lowest) * config.margin_size
