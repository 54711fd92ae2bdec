"""Sequence packing: several texts in one row of fixed length, to save padding."""

import heapq

import numpy as np

from dense_jax.arrays import Int
from dense_jax.types import PackedTokens, Tokens

_MOST = 2  # times the mean: texts in a row


def pack(texts: Tokens, numbers: Int[np.ndarray, " b"], per_row: int, length: int) -> PackedTokens:
    """`texts` in rows of `length` tokens, `per_row` of them in a row on average.

    The texts of a row depend on the texts of this process, and so on the number of processes. If the texts of a row are
    longer than the row, the longest is cut before its last token. `numbers` are the texts' numbers in the global batch;
    every `per_row` of that batch make a row of the global result.
    """
    of_ids, of_types, mask = (np.asarray(x) for x in texts)
    lengths, most = mask.sum(axis=1), _MOST * per_row
    rows = distribute(lengths, len(lengths) // per_row, most)
    shape = len(rows), length
    ids, types = (np.full(shape, x[0, -1], x.dtype) for x in (of_ids, of_types))
    segments, positions = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    starts, cut = np.zeros((len(rows), most), np.int32), np.zeros(len(rows), np.int32)
    places = np.zeros(len(lengths), np.int32)
    for row, held in enumerate(rows):
        kept = _fitted(lengths[held], length)
        cut[row] = lengths[held].sum() - kept.sum()
        bounds = np.concatenate([[0], np.cumsum(kept)])
        starts[row, : len(held)] = bounds[:-1]
        places[held] = numbers[row * per_row] // per_row * most + np.arange(len(held))
        for segment, (text, start, end) in enumerate(zip(held, bounds[:-1], bounds[1:], strict=True)):
            source = np.r_[0 : end - start - 1, lengths[text] - 1]
            ids[row, start:end], types[row, start:end] = of_ids[text, source], of_types[text, source]
            segments[row, start:end], positions[row, start:end] = segment, np.arange(end - start)
    return PackedTokens(
        Tokens(ids, types, segments >= 0), segments, positions, starts, places.reshape(-1, per_row), cut
    )


def distribute(lengths: Int[np.ndarray, " b"], rows: int, most: int) -> list[list[int]]:
    """The texts of each of `rows` rows, `most` at most: the longest first, each into the row with the most room.

    >>> distribute(np.array([5, 1, 4, 2]), rows=2, most=4)
    [[0, 1], [2, 3]]
    """
    held: list[list[int]] = [[] for _ in range(rows)]
    by_fill = [(0, row) for row in range(rows)]
    for text in np.argsort(-lengths, kind="stable").tolist():
        fill, row = heapq.heappop(by_fill)
        held[row].append(text)
        if len(held[row]) < most:
            heapq.heappush(by_fill, (fill + int(lengths[text]), row))
    return held


def _fitted(lengths: Int[np.ndarray, " n"], room: int) -> Int[np.ndarray, " n"]:
    """`lengths`, the longest of them shortened until all fit into `room`."""
    kept = lengths.copy()
    while kept.sum() > room:
        kept[kept.argmax()] -= 1
    return kept
