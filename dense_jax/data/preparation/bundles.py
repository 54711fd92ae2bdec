"""Plan of independent parts of a corpus, with the same shards as in one pass over it.

documents              -> bundles of consecutive documents of one source
bundle                 -> its groups, and how many passages each has
counts of all bundles  -> ends of the shards of each source, by the rule of `StoreWriter`
slices of bundles      -> shard

Running text is arranged as the lines of each document, and cut into chunks when a shard is made.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import orjson

from dense_jax.arrays import Int
from dense_jax.data.preparation import running_text
from dense_jax.data.stores.shards import Group
from dense_jax.types import Document

GroupCounts = Int[np.ndarray, " g"]  # passages of each group


class Slice(NamedTuple):
    """Groups of one bundle."""

    bundle: int
    start: int
    stop: int


ShardPlan = list[list[Slice]]  # of one shard: runs of groups, each cut into chunks by itself; or one run of all


class BundleCounts(NamedTuple):
    """Counts of a bundle, a number for each group."""

    passages: GroupCounts
    documents: GroupCounts
    left_out: GroupCounts
    tokens: GroupCounts


def bundles(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    """Runs of `documents` with at least `characters`; the last may have fewer."""
    bundle: list[Document] = []
    size = 0
    for document in documents:
        bundle.append(document)
        size += len(document.title) + len(document.text)
        if size >= characters:
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


def pack_documents(documents: Sequence[Document]) -> bytes:
    """A bundle as bytes: a line for each document."""
    return b"\n".join(orjson.dumps([document.id, document.title, document.text]) for document in documents)


def unpack_documents(packed: bytes) -> list[Document]:
    """The documents in the bytes of `pack_documents`."""
    return [Document(*orjson.loads(line)) for line in packed.split(b"\n")]


def count_groups(groups: Sequence[Group]) -> BundleCounts:
    """The counts of a bundle, for the plan of shards."""
    rows = [
        (len(group.entries), group.documents, group.left_out, sum(len(entry.tokens) for entry in group.entries))
        for group in groups
    ]
    return BundleCounts(*np.array(rows, np.int64).reshape(-1, 4).T)


def pack_groups(groups: Sequence[Group]) -> bytes:
    """Groups as bytes, for workers of the same version."""
    return pickle.dumps(list(groups), pickle.HIGHEST_PROTOCOL)


def unpack_groups(packed: bytes) -> list[Group]:
    """The groups in the bytes of `pack_groups`."""
    return pickle.loads(packed)


def plan_shards(bundle_counts: Sequence[BundleCounts], shard_size: int, chunk: int = 0) -> list[ShardPlan]:
    """The groups of each shard of a source with bundles of such counts; `chunk` tokens a chunk, or no chunks if 0."""
    if not bundle_counts:
        return []
    sizes = [len(counts.passages) for counts in bundle_counts]
    if not chunk:
        passages = np.concatenate([counts.passages for counts in bundle_counts])
        return [[run] for run in slices(sizes, full_ends(passages, shard_size))]
    tokens = np.concatenate([counts.tokens for counts in bundle_counts])
    ends = full_ends(tokens, running_text.GROUP)
    tokens_per_run = np.diff(np.cumsum([0, *tokens])[[0, *ends]])
    runs = slices(sizes, ends)
    return [runs[start:stop] for start, stop in pairwise([0, *full_ends(-(-tokens_per_run // chunk), shard_size)])]


def full_ends(passages: GroupCounts, shard_size: int) -> list[int]:
    """One past the last group of each shard: the first with which the shard has `shard_size` passages, or the last.

    Trailing groups without passages belong to no shard.

    >>> full_ends(np.array([3, 0, 2, 0, 4, 1, 0]), shard_size=4)
    [3, 5, 7]
    """
    total = np.cumsum(passages)
    ends: list[int] = []
    written = 0
    while written < total[-1:].sum():
        end = min(int(np.searchsorted(total, written + shard_size)) + 1, len(total))
        ends.append(end)
        written = int(total[end - 1])
    return ends


def slices(sizes: Sequence[int], ends: Sequence[int]) -> list[list[Slice]]:
    """Consecutive runs of groups, given by their `ends`, as slices of bundles of `sizes` groups.

    >>> [[tuple(part) for part in run] for run in slices([2, 3], [1, 4, 5])]
    [[(0, 0, 1)], [(0, 1, 2), (1, 0, 2)], [(1, 2, 3)]]
    """
    first = np.cumsum([0, *sizes]).tolist()
    return [
        [
            Slice(bundle, max(start - first[bundle], 0), min(stop, first[bundle + 1]) - first[bundle])
            for bundle in range(len(sizes))
            if start < first[bundle + 1] and first[bundle] < stop
        ]
        for start, stop in pairwise([0, *ends])
    ]
