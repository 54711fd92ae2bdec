"""A fixed sample of a test collection, in BEIR's layout itself: small enough to be searched again and again.

FOLDER/corpus.jsonl queries.jsonl qrels/SPLIT.tsv
       sample.json                                   written last: what it is a sample of

The ids alone decide what is in it, so that runs of other seeds, corpora and methods compare. Among fewer documents the
relevant ones are easier to find: its figures are higher than those of the whole collection.
"""

from collections.abc import Iterable
from heapq import nsmallest
from pathlib import Path
from typing import Any

import xxhash

from dense_jax.artifact import refuse_changes
from dense_jax.data.beir_folder import write_beir
from dense_jax.errors import DataError
from dense_jax.io import Settings, is_written, read_json, write_json
from dense_jax.retrieval.beir import TestSet
from dense_jax.types import Document

_ABOUT = "sample.json"
_SEED = 1  # of the order of ids; held-out queries were chosen with 0, and the two must not be related


def write_sample(
    folder: Path,
    test_set: TestSet,
    documents: Iterable[Document],
    *,
    queries: int,
    size: int,
    made_from: dict[str, Any],
) -> None:
    """Up to `queries` queries with all that is relevant for them, and other documents, up to `size` in all.

    Does nothing if that was done before. `made_from` says of what, as JSON values.

    Raises:
        ConfigError: `folder` holds another sample.
        DataError: no query has a relevant document.
    """
    about = made_from | {"split": test_set.split, "queries": queries, "documents": size}
    if is_written(folder / _ABOUT):
        refuse_changes(folder, read_json(folder / _ABOUT, Settings), about)
        return
    relevant = {query: {d for d, grade in own.items() if grade >= 1} for query, own in test_set.qrels.items()}
    chosen = nsmallest(queries, (query for query, found in relevant.items() if found), key=_place)
    if not chosen:
        raise DataError(f"{test_set.name}: no query of {test_set.split} has a document of grade 1 or more")
    wanted = set().union(*(relevant[query] for query in chosen))
    kept = nsmallest(max(size, len(wanted)), documents, key=lambda document: _place(document.id, document.id in wanted))
    texts = {query: test_set.queries[query] for query in chosen}
    write_beir(folder, kept, texts, {query: test_set.qrels[query] for query in chosen}, test_set.split)
    write_json(folder / _ABOUT, about)


def _place(identifier: str, first: bool = False) -> int:
    """Where a query or a document stands in the order that the sample is the beginning of."""
    return -1 if first else xxhash.xxh3_64_intdigest(identifier.encode(), seed=_SEED)
