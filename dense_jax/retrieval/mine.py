"""Hard negatives: documents that a retriever ranks high for a training query and that are no known answer.

The rules are those of sentence-transformers. Known positives and documents with their text are left out, then documents
that score too close to the lowest positive, then the best `skip` of the rest. Of what is left, the best or random ones
are taken.

    FOLDER/claim.json             written first: the settings, and the retriever
           part-00000.jsonl ...   finished queries, so that an interrupted call continues
           manifest.json          written last: claim, digests
    FOLDER.jsonl                  all parts in one file: Tevatron's format with document ids, and scores
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import orjson

from dense_jax.arrays import Float, Int, first_occurrences, np
from dense_jax.artifact import Manifest, claim, finish, is_finished, read_manifest, verify_files
from dense_jax.config.retrieval import FusionConfig, Margin, MineConfig, Pick
from dense_jax.config.tree import to_dict
from dense_jax.data.dedup import text_numbers
from dense_jax.errors import require
from dense_jax.io import Settings, digests, is_written, whole_file, write_json
from dense_jax.processes.locks import lock_of, only_one
from dense_jax.processes.multihost import is_process_0, on_process_0
from dense_jax.retrieval.bm25 import BM25, top_rows
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, encode_queries
from dense_jax.retrieval.fusion import FusedRanking, fuse_query
from dense_jax.retrieval.index import Index
from dense_jax.terminal.progress import progress_bar
from dense_jax.types import PassageCollection, Tower, TrainingQuery, TrainingSet

_PART = 4_096  # queries: what an interrupted call repeats at most
_DIGITS = 6  # of scores after the point

Rows = Int[np.ndarray, " _"]


class QueryRanking(NamedTuple):
    """Documents that a retriever found for one query, and the scores of the query's positives."""

    rows: Rows  # documents, best first; -1: an empty place
    scores: Float[np.ndarray, " k"]
    positives: Float[np.ndarray, " _"]  # scores of the query's positives


class MinedNegatives(NamedTuple):
    """Chosen negatives of one query, best first."""

    rows: Rows
    scores: Float[np.ndarray, " n"]
    too_close: int  # documents that the margin left out


@runtime_checkable
class Retriever(Protocol):
    """Ranking of documents for queries, with the scores of given positives."""

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]: ...


@dataclass(frozen=True)
class BM25Retriever:
    """BM25 as a retriever."""

    bm25: BM25

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]:
        return [
            _search_result(scores, own, k) for scores, own in zip(self.bm25.scores(queries), positives, strict=True)
        ]


class DenseRetriever:
    """A query tower with an index over vectors of the documents."""

    def __init__(self, index: Index, tower: Tower, tokenizer: Tokenizes) -> None:
        self.index, self.tokenizer = index, tokenizer
        self.tower = TowerOnMesh(tower, index.mesh)

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]:
        vectors = encode_queries(queries, self.tower, self.tokenizer)
        ranking = self.index.search(vectors, k)
        own = [(self._views(rows) @ vector).max(1) for rows, vector in zip(positives, vectors, strict=True)]
        return [QueryRanking(*found) for found in zip(ranking.rows, ranking.scores, own, strict=True)]

    def _views(self, documents: Rows) -> Float[np.ndarray, "r n d"]:
        """Return the vectors of each document, read from the disk: in memory, a process may hold only a part."""
        vectors = self.index.vectors
        return vectors.take(documents[:, None] * vectors.views + np.arange(vectors.views))


@dataclass(frozen=True)
class HybridRetriever:
    """BM25 and dense retrieval of the same documents, fused; `fusion.depth` is at least the k of every call."""

    bm25: BM25Retriever
    dense: Retriever
    fusion: FusionConfig

    def find(self, queries: Sequence[str], positives: Sequence[Rows], k: int) -> list[QueryRanking]:
        """Return the ranking of each query; a positive that neither side ranks scores as any such document."""
        depth = min(self.fusion.depth, len(self.bm25.bm25.ids))
        lexical, dense = (side.find(queries, positives, depth) for side in (self.bm25, self.dense))
        return [
            _fused(fuse_query(one.rows, one.scores, other.rows, other.scores, self.fusion), own, k)
            for one, other, own in zip(lexical, dense, positives, strict=True)
        ]


def mine(
    queries: TrainingSet,
    documents: PassageCollection,
    retriever: Retriever,
    config: MineConfig,
    folder: Path,
    made_by: Settings,
) -> Path:
    """Write FOLDER.jsonl, each query with its positives and its chosen negatives, and return its path.

    All processes search together, and the first one writes. `queries` samples queries about `documents`. Random
    negatives depend on a query's number only. `made_by` identifies the retriever, as JSON values.

    Raises:
        ConfigError: `folder` was begun with other settings or another `made_by`, or another process mines there.
        StorageError: a finished part has changed.
    """
    with only_one(lock_of(folder), f"{folder} is being mined"):
        on_process_0(lambda: claim(folder, to_dict(config) | {"made_by": made_by}))
        if on_process_0(lambda: is_finished(folder)):
            on_process_0(
                lambda: verify_files(folder, read_manifest(folder, Manifest, "negatives", "mine")["files"], "mine")
            )
        else:
            _mine_parts(queries, documents, retriever, config, folder)
            on_process_0(lambda: finish(folder, {}, digests(folder, "part-*.jsonl")))
        result = folder.with_suffix(".jsonl")
        on_process_0(lambda: _write_lines(result, (path.read_bytes() for path in sorted(folder.glob("part-*.jsonl")))))
    return result


def _mine_parts(
    queries: TrainingSet, documents: PassageCollection, retriever: Retriever, config: MineConfig, folder: Path
) -> None:
    """Write the missing parts."""
    ids, texts = documents.ids(), text_numbers(documents)
    with progress_bar("mine", len(queries), "queries", silent=not is_process_0()) as shown:
        for start in range(0, len(queries), _PART):
            rows, path = range(start, min(start + _PART, len(queries))), folder / f"part-{start // _PART:05}.jsonl"
            if not on_process_0(functools.partial(is_written, path)):
                lines = b"".join(_mined(queries, rows, retriever, config, ids, texts))
                on_process_0(functools.partial(_write_lines, path, [lines]))
            shown.update(len(rows))


def summary(mined: Path, config: MineConfig) -> dict[str, Any]:
    """Return counts of a mined file, to be printed."""
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
        ConfigError: a guide is configured, and the retriever has several vectors a passage.
    """
    require(
        not config.guide or views == 1,
        f"mine.guide=True needs one vector a passage, and this model has {views}; leave it out",
    )


def write_guide(queries: TrainingSet, retriever: DenseRetriever, folder: Path) -> None:
    """Write the vectors of all queries and documents, with their ids, for `corpus.guide`."""
    texts = [queries.document(row) for row in range(len(queries))]
    blocks = [[query.text for query in texts[start : start + _PART]] for start in range(0, len(texts), _PART)]
    vectors = [encode_queries(block, retriever.tower, retriever.tokenizer) for block in blocks]
    write_json(folder / "queries.json", [query.id for query in texts])
    write_json(folder / "documents.json", retriever.index.vectors.ids)
    for name, rows in (("queries", np.concatenate(vectors)), ("documents", retriever.index.vectors.array())):
        with whole_file(folder / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, rows, allow_pickle=False)


def choose_negatives(
    found: QueryRanking, own: Rows, texts: Int[np.ndarray, " p"], config: MineConfig, number: int
) -> MinedNegatives:
    """Return the negatives of query `number` with the positives `own`; documents of equal text share one of `texts`."""
    count = min(int((found.rows >= 0).sum()), config.depth + len(own))
    rows, scores = found.rows[:count], found.scores[:count]
    other = ~np.isin(texts[rows], texts[own])
    other &= np.isin(np.arange(count), first_occurrences(texts[rows]))
    far = scores <= _highest_score(found.positives, config)
    left = np.flatnonzero(other & far)[config.skip :]
    if config.pick is Pick.RANDOM and len(left) > config.negatives:
        left = np.sort(np.random.default_rng(number).choice(left, config.negatives, replace=False))
    left = left[: config.negatives]
    return MinedNegatives(rows[left], scores[left], int((other & ~far).sum()))


def _write_lines(path: Path, blocks: Iterable[bytes]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        file.writelines(blocks)


def _mined(
    queries: TrainingSet,
    rows: range,
    retriever: Retriever,
    config: MineConfig,
    ids: list[str],
    texts: Int[np.ndarray, " p"],
) -> Iterator[bytes]:
    """Yield a line for each query of `rows`."""
    texts_of = [queries.document(row) for row in rows]
    own = [_positives(queries, row) for row in rows]
    depth = min(config.depth + max(map(len, own)), len(ids))
    results = retriever.find([query.text for query in texts_of], own, depth)
    for query, positives, row, found in zip(texts_of, own, rows, results, strict=True):
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


def _search_result(scores: Float[np.ndarray, " p"], own: Rows, k: int) -> QueryRanking:
    rows = top_rows(scores, k)
    return QueryRanking(rows, scores[rows], scores[own])


def _fused(found: FusedRanking, own: Rows, k: int) -> QueryRanking:
    scores = dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
    positives = np.array([scores.get(row, found.unranked) for row in own.tolist()], np.float32)
    return QueryRanking(found.rows[:k], found.scores[:k], positives)


def _highest_score(positives: Float[np.ndarray, " _"], config: MineConfig) -> float:
    """Return the highest score of a negative, by the lowest score of the positives."""
    lowest = float(positives.min())
    match config.margin:
        case Margin.NONE:
            return np.inf
        case Margin.ABSOLUTE:
            return lowest - config.margin_size
        case Margin.RELATIVE:
            return lowest - abs(lowest) * config.margin_size
