"""Consistency filter: pairs whose passage a retriever ranks high among random passages stay, the others go.

Wang et al. 2022, "Text Embeddings by Weakly-Supervised Contrastive Pre-training" (E5), section 3.1: a pair stays if its
passage is among the best two of a million.

    FOLDER/claim.json             written first: the settings of the pool, and the retriever
           part-00000.jsonl ...   finished queries, so that an interrupted call continues
           manifest.json          claim, digests of the parts
           kept/SOURCE.jsonl      written last: the pairs that stay, a file of pairs for each source, each with its rank
           dropped/SOURCE.jsonl   the others
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import orjson
from jax.sharding import Mesh

from dense_jax.arrays import Array, Float, Int, np
from dense_jax.artifact import Manifest, claim, digests_together, finish, is_finished, read_manifest, verify_together
from dense_jax.config.retrieval import FilterConfig
from dense_jax.data.dedup import first_of_each_text
from dense_jax.data.sampler import permuted
from dense_jax.data.stores.query_store import QueryStore
from dense_jax.io import Settings, is_written, whole_file
from dense_jax.mesh import batch_sharding, batch_shards
from dense_jax.processes.locks import lock_of, only_one
from dense_jax.processes.multihost import all_or_none, is_process_0, on_process_0, process_share
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, encode_queries
from dense_jax.retrieval.vectors import Vectors
from dense_jax.terminal.progress import progress_bar

_PART = 4_096  # queries: what an interrupted call repeats at most
_PAIRS = 1_024  # pairs scored at a time
_BLOCK = 16_384  # passages scored at a time on one device: 64 MiB of scores


class _Part(NamedTuple):
    path: Path
    source: str
    rows: range  # of the queries


def filter_pairs(
    queries: QueryStore,
    vectors: Vectors,
    tower: TowerOnMesh,
    tokenizer: Tokenizes,
    config: FilterConfig,
    folder: Path,
    made_by: Settings,
) -> dict[str, Any]:
    """Rank the passage of each pair, write what stays and what goes, and return counts.

    `vectors` are those of the queries' documents. All processes call it, and rank a share each. `made_by` identifies
    retriever and queries, as JSON values. Another `config.k` divides the same ranks.

    Raises:
        ConfigError: `folder` was begun with other settings or another `made_by`, or another process filters there.
        StorageError: a finished part has changed.
    """
    parts = _parts_of_sources(queries, folder)
    names = [part.path.name for part in parts]
    with only_one(lock_of(folder), f"{folder} is being filtered"):
        settings: Settings = {"pool": config.pool, "seed": config.seed, "made_by": made_by}
        on_process_0(lambda: claim(folder, settings))
        if on_process_0(lambda: is_finished(folder)):
            verify_together(folder, read_manifest(folder, Manifest, "pairs", "filter")["files"], "filter")
        else:
            _rank_parts(queries, vectors, tower, tokenizer, config, parts)
            files = digests_together(folder, names)
            on_process_0(lambda: finish(folder, {}, files))
        return on_process_0(lambda: _split_by_rank(parts, config.k, folder))


class Pool:
    """Passages that a query's own one competes with, in the memory of a mesh's devices."""

    def __init__(
        self,
        vectors: Callable[[Int[np.ndarray, " p"]], Float[np.ndarray, "p n d"]],
        rows: Int[np.ndarray, " p"],
        mesh: Mesh,
    ) -> None:
        """`rows` are those of the passages, no two of which have one text. `vectors` returns those of some rows."""
        self._blocks: list[tuple[Array, Array]] = []
        size = min(_BLOCK, -(-max(len(rows), 1) // batch_shards(mesh))) * batch_shards(mesh)
        for start in range(0, len(rows), size):
            own = rows[start : start + size].astype(np.int32)
            own = np.pad(own, (0, size - len(own)), constant_values=-1)
            block = (vectors(own), own)
            self._blocks.append(jax.device_put(block, batch_sharding(mesh)))

    def count_better(
        self, queries: Float[np.ndarray, "q d"], scores: Float[np.ndarray, " q"], own: Int[np.ndarray, " q"]
    ) -> Int[np.ndarray, " q"]:
        """Return for each query the number of passages other than `own`, its own one, that score above `scores`."""
        padding = (0, -len(queries) % _PAIRS)
        queries, scores, own = (
            np.pad(queries, (padding, (0, 0))), np.pad(scores, padding), np.pad(own.astype(np.int32), padding)
        )  # fmt: skip
        found = [
            sum(_count_better(queries[some], scores[some], own[some], *block) for block in self._blocks)
            for some in (slice(start, start + _PAIRS) for start in range(0, len(queries), _PAIRS))
        ]
        return np.concatenate([np.broadcast_to(np.asarray(one), _PAIRS) for one in found])[: len(queries) - padding[1]]


def pool_rows(queries: QueryStore, config: FilterConfig) -> Int[np.ndarray, " p"]:
    """Return the rows of `config.pool` random documents, or of all, without a second one of the same text."""
    rows = np.flatnonzero(first_of_each_text(queries.documents) == np.arange(len(queries.documents)))
    if not 0 < config.pool < len(rows):
        return rows
    return rows[np.sort(permuted(np.arange(config.pool), len(rows), (config.seed,)))]


def passage_vectors(vectors: Vectors, rows: Int[np.ndarray, " p"]) -> Float[np.ndarray, "p n d"]:
    """Return the vectors of each passage; zeros for a row of -1."""
    views = np.where(rows[:, None] < 0, -1, rows[:, None] * vectors.views + np.arange(vectors.views))
    return vectors.take(views)


def _parts_of_sources(queries: QueryStore, folder: Path) -> list[_Part]:
    found = [
        (source.name, range(start, min(start + _PART, source.rows.stop)))
        for source in queries.parts()
        for start in range(source.rows.start, source.rows.stop, _PART)
    ]
    return [_Part(folder / f"part-{number:05}.jsonl", *part) for number, part in enumerate(found)]


def _rank_parts(
    queries: QueryStore,
    vectors: Vectors,
    tower: TowerOnMesh,
    tokenizer: Tokenizes,
    config: FilterConfig,
    parts: list[_Part],
) -> None:
    """Write the missing parts, each process its share."""
    pool = all_or_none(lambda: Pool(partial(passage_vectors, vectors), pool_rows(queries, config), tower.mesh))
    own, rounds = process_share(parts), -(-len(parts) // jax.process_count())

    def write(number: int) -> None:
        if number < len(own) and not is_written(own[number].path):
            with whole_file(own[number].path) as written, written.open("wb") as file:
                file.writelines(_rank_lines(queries, own[number].rows, vectors, pool, tower, tokenizer))

    with progress_bar("filter", len(queries), "queries", silent=not is_process_0()) as shown:
        for number in range(rounds):
            all_or_none(partial(write, number))
            shown.update(sum(len(part.rows) for part in parts[number * jax.process_count() :][: jax.process_count()]))


def _rank_lines(
    queries: QueryStore, rows: range, vectors: Vectors, pool: Pool, tower: TowerOnMesh, tokenizer: Tokenizes
) -> Iterator[bytes]:
    """Yield a line for each pair of the queries of `rows`."""
    texts = queries.texts(rows)
    positives = [question.positives.rows for question in queries.samples(rows, 0)]
    pairs = np.repeat(np.arange(len(rows)), [*map(len, positives)])
    own = np.concatenate(positives)
    encoded = encode_queries([query.text for query in texts], tower, tokenizer)[pairs]
    scores = np.einsum("qd,qnd->qn", encoded, passage_vectors(vectors, own)).max(axis=1)
    better = pool.count_better(encoded, scores, own)
    for pair, document, count in zip(pairs.tolist(), queries.documents.texts(own.tolist()), better, strict=True):
        positive = {"id": document.id, "title": document.title, "text": document.text}
        query = {"query_id": texts[pair].id, "query": texts[pair].text}
        yield orjson.dumps(query | {"positive": positive, "rank": 1 + int(count)}) + b"\n"


@jax.jit
def _count_better(
    queries: Float[Array, "q d"],
    scores: Float[Array, " q"],
    own: Int[Array, " q"],
    vectors: Float[Array, "p n d"],
    rows: Int[Array, " p"],
) -> Int[Array, " q"]:
    found = jnp.einsum("qd,pnd->qpn", queries, vectors, precision=jax.lax.Precision.HIGHEST).max(axis=-1)
    others = (rows >= 0)[None] & (rows[None] != own[:, None])
    return jnp.sum((found > scores[:, None]) & others, axis=1)


def _split_by_rank(parts: list[_Part], k: int, folder: Path) -> dict[str, Any]:
    """Write the pairs of rank `k` or better to FOLDER/kept, the others to FOLDER/dropped; return their numbers."""
    counts: dict[str, Any] = {"pairs": 0, "kept": 0, "dropped": 0}
    for source in dict.fromkeys(part.source for part in parts):
        kept, dropped = _split_files(
            [part.path for part in parts if part.source == source], k, folder, file_name(source)
        )
        added = {"pairs": kept + dropped, "kept": kept, "dropped": dropped}
        counts |= {name: counts[name] + number for name, number in added.items()}
        counts[f"of {source}"] = f"{kept:,} of {kept + dropped:,} kept"
    return {**counts, "folder": str(folder)}


def file_name(source: str) -> str:
    """Return the name of the file of a source's pairs.

    >>> file_name("answers.parquet"), file_name("titles.jsonl")
    ('answers.parquet.jsonl', 'titles.jsonl')
    """
    return f"{source.replace('/', '_').removesuffix('.jsonl')}.jsonl"


def _split_files(parts: list[Path], k: int, folder: Path, name: str) -> tuple[int, int]:
    """Write the lines of `parts` to two files; return the numbers of lines that stay and that go."""
    counts = [0, 0]
    with ExitStack() as opened:
        files: list[BinaryIO] = []
        for side in ("kept", "dropped"):
            written = opened.enter_context(whole_file(folder / side / name))
            files.append(opened.enter_context(written.open("wb")))
        for part in parts:
            with part.open("rb") as lines:
                for line in lines:
                    side = int(orjson.loads(line)["rank"] > k)
                    files[side].write(line)
                    counts[side] += 1
    return counts[0], counts[1]
