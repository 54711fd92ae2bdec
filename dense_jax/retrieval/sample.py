"""A fixed sample of a test collection for validation, small enough to be searched again and again.

    FOLDER/claim.json    written first: the collection, and the sizes of the sample
           corpus.jsonl queries.jsonl qrels/SPLIT.tsv    BEIR's layout
           manifest.json    written last: claim and digests

The sample depends on ids alone, so that runs of other seeds, corpora and methods compare. Relevant documents are easier
to find among fewer documents: the figures are higher than those of the whole collection.
"""

import functools
import sys
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

import xxhash

from dense_jax.artifact import Manifest, check_settings, claim, finish, is_finished, read_manifest, verify_files
from dense_jax.config import Config
from dense_jax.data.beir_folder import write_beir
from dense_jax.data.preparation.collection import open_collection
from dense_jax.data.sources.judgements import beir_files
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, Settings, digest
from dense_jax.processes.locks import in_turn, lock_of
from dense_jax.retrieval.beir import TestSet, read_test_set
from dense_jax.terminal.progress import progress
from dense_jax.types import Document, Reject

_SEED = 1  # of the order of ids; held-out queries were chosen with 0, and the two orders must be unrelated


def make_sample(root: Path, folder: AnyPath, split: str, config: Config) -> Path:
    """Write the sample of `config.validation` of a test collection to a folder of `root`, if it is missing.

    Raises:
        ConfigError, DataError, StorageError: errors of `write_sample`.
        DataError: the collection lacks the split.
    """
    settings, whole = config.validation, read_test_set(folder, split)
    target = root / f"{whole.name}-{split}-{settings.queries}-{settings.documents}".replace(".", "_")
    documents = _documents_of(progress(open_collection(str(folder), config), "sample", None, "documents"))
    made_from, sizes = content_of_test_set(folder, split, config), (settings.queries, settings.documents)
    with in_turn(lock_of(target)):
        write_sample(target, whole, documents, queries=sizes[0], size=sizes[1], made_from=made_from)
    return target


def content_of_test_set(folder: AnyPath, split: str, config: Config) -> dict[str, Any]:
    """JSON values that distinguish a test set from others: its documents, queries and judgements."""
    files = {path.name: digest(path) for path in beir_files(folder, split)}
    return {"corpus": open_collection(str(folder), config).fingerprint(), "files": files}


def write_sample(
    folder: Path,
    test_set: TestSet,
    documents: Iterable[Document],
    *,
    queries: int,
    size: int,
    made_from: Settings,
) -> None:
    """Write up to `queries` queries, their relevant documents, and other documents up to `size` in all.

    A finished sample is verified and kept. `made_from` identifies the collection, as JSON values.

    Raises:
        ConfigError: `folder` holds another sample.
        DataError: no query has a relevant document.
        StorageError: a file of the finished sample has changed.
    """
    settings = made_from | {"split": test_set.split, "queries": queries, "documents": size}
    check_settings(folder, settings)
    if is_finished(folder):
        verify_files(folder, read_manifest(folder, Manifest, "sample", "train")["files"], "train")
        return
    relevant = {query: {d for d, grade in own.items() if grade >= 1} for query, own in test_set.qrels.items()}
    chosen = nsmallest(queries, (query for query, found in relevant.items() if found), key=_sample_order)
    if not chosen:
        raise DataError(f"{test_set.name}: no query of {test_set.split} has a document of grade 1 or more")
    wanted = set().union(*(relevant[query] for query in chosen))
    key = functools.partial(_document_order, wanted=wanted)
    kept = nsmallest(max(size, len(wanted)), documents, key=key)
    texts = {query: test_set.queries[query] for query in chosen}
    claim(folder, settings)
    write_beir(folder, kept, texts, {query: test_set.qrels[query] for query in chosen}, test_set.split)
    names = ("corpus.jsonl", "queries.jsonl", f"qrels/{test_set.split}.tsv")
    finish(folder, {}, {name: digest(folder / name) for name in names})


def _documents_of(rows: Iterable[Document | Reject]) -> Iterator[Document]:
    """The documents among `rows`. After the last row a note names the first rejected one."""
    rejects: list[Reject] = []
    for row in rows:
        if isinstance(row, Document):
            yield row
        else:
            rejects.append(row)
    if rejects:
        count = f"{len(rejects):,} rows are left out of the sample, such as"
        print(f"note: {count} {rejects[0].where} ({rejects[0].reason})", file=sys.stderr)


def _sample_order(identifier: str) -> int:
    """Return the place of a query or a document in the order whose beginning is the sample."""
    return xxhash.xxh3_64_intdigest(identifier.encode(), seed=_SEED)


def _document_order(document: Document, wanted: set[str]) -> int:
    """`_sample_order` with the `wanted` documents first."""
    return -1 if document.id in wanted else _sample_order(document.id)
