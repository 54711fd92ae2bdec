"""Sequence packing: several texts in one row of fixed length, to save padding."""

import heapq
from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Array, Batch, Bool, Float, Int
from dense_jax.errors import require
from dense_jax.types import PackedTokens, Tokens

_MOST = 2  # times the mean: texts in a row
_LEAST = 1.5  # times a text's longest length: a row, so that long texts find short ones to share it with
_ROUND = 8  # the length of a row is a multiple of this


def pack_examples(examples: Batch, numbers: Int[np.ndarray, " b"], packing: float) -> Batch:
    """`examples` with their texts packed: see `pack_masked` for masked ones, `pack` for all other `Tokens` [b *g l].

    Other arrays stay as they are.

    Raises:
        ConfigError: the texts do not fill whole rows.
    """
    if "weights" in examples:
        return pack_masked(examples, numbers, packing)
    return {
        name: pack(value, numbers, packing) if isinstance(value, Tokens) else value for name, value in examples.items()
    }


def pack(texts: Tokens, numbers: Int[np.ndarray, " b"], packing: float) -> PackedTokens:
    """Texts [b *g l] in rows of the shape that `row_shape` gives: `packing` times the room of padding.

    The texts of a row depend on the texts of this process, and so on the number of processes. If the texts of a row are
    longer than the row, the longest are cut before their last token. `numbers` are the examples' numbers in the global
    batch.

    Raises:
        ConfigError: the texts do not fill whole rows.
    """
    return _place_texts(texts, numbers, packing).tokens(texts)


def pack_masked(examples: Batch, numbers: Int[np.ndarray, " b"], packing: float) -> Batch:
    """Masked texts, packed as by `pack`: tokens [b *g l]; positions, labels and weights [b *g m] of masked tokens.

    All arrays of the result are by row. RetroMAE's texts have further ids [b *g l] and attention masks [b *g l l].

    Raises:
        ConfigError: the texts do not fill whole rows.
    """
    texts = examples["tokens"]
    rows = _place_texts(texts, numbers, packing)
    positions, labels, weights = (_merge_axes(examples[name], 1) for name in ("positions", "labels", "weights"))
    packed = {"tokens": rows.tokens(texts), **rows.masked(positions, labels, weights, texts.mask.shape[-1])}
    if "ids" in examples:
        packed["ids"] = rows.tokens(texts._replace(ids=examples["ids"])).tokens.ids
    if "decoder_view" in examples:
        packed["decoder_view"] = rows.blocks(_merge_axes(examples["decoder_view"], 2))
    return packed


def row_shape(length: int, packing: float) -> tuple[int, int]:
    """Texts in a row on average, a power of two, and tokens of a row, for texts of up to `length` tokens.

    >>> row_shape(128, packing=0.5625), row_shape(256, packing=0.75)
    ((4, 288), (2, 384))
    """
    texts = 1
    while texts * packing < _LEAST:
        texts *= 2
    return texts, -(-round(texts * packing * length) // _ROUND) * _ROUND


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


class _Placement(NamedTuple):
    """The places of t texts in rows of `length` tokens, of up to `most` texts each."""

    row: Int[np.ndarray, " t"]
    slot: Int[np.ndarray, " t"]  # its number in the row
    start: Int[np.ndarray, " t"]
    lengths: Int[np.ndarray, " t"]  # of the texts
    kept: Int[np.ndarray, " t"]  # tokens that fit
    places: Int[np.ndarray, "b *g"]  # the row's number in the global batch times `most`, plus the slot
    rows: int
    length: int
    most: int

    def tokens(self, texts: Tokens) -> PackedTokens:
        """The texts [b *g l] that were placed, packed."""
        of_ids, of_types = (_merge_axes(x, 1) for x in (texts.ids, texts.types))
        text = np.repeat(np.arange(len(self.kept)), self.kept)
        place = np.arange(len(text)) - np.repeat(np.cumsum(self.kept) - self.kept, self.kept)
        source = np.where(place == self.kept[text] - 1, self.lengths[text] - 1, place)
        at, shape = (self.row[text], self.start[text] + place), (self.rows, self.length)
        ids, types = (np.full(shape, x[0, -1], x.dtype) for x in (of_ids, of_types))
        segments, positions = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
        ids[at], types[at] = of_ids[text, source], of_types[text, source]
        segments[at], positions[at] = self.slot[text], place
        starts, cut = np.zeros((self.rows, self.most), np.int32), np.zeros(self.rows, np.int32)
        starts[self.row, self.slot] = np.minimum(self.start, self.length - 1)  # that of an empty text may be the end
        np.add.at(cut, self.row, self.lengths - self.kept)
        return PackedTokens(Tokens(ids, types, segments >= 0), segments, positions, starts, self.places, cut)

    def masked(
        self,
        positions: Int[np.ndarray, "t m"],
        labels: Int[np.ndarray, "t m"],
        weights: Float[np.ndarray, "t m"],
        length: int,
    ) -> Batch:
        """Masked tokens of texts of up to `length` tokens, by row.

        A row has slots for the masked share of its tokens and one more for each text, whose share is rounded. Masked
        tokens of texts that are cut may exceed them, and are then not predicted.
        """
        slots = -(-positions.shape[1] * self.length // length) + self.most
        text, which = np.nonzero((weights > 0) & (positions < self.kept[:, None] - 1))
        order = np.argsort(self.row[text], kind="stable")
        text, which = text[order], which[order]
        slot = np.arange(len(text)) - np.searchsorted(self.row[text], self.row[text])
        fits = slot < slots  # False only in rows whose texts are cut
        text, which = text[fits], which[fits]
        at = self.row[text], slot[fits]
        made = {name: np.zeros((self.rows, slots), np.int32) for name in ("positions", "labels")}
        made["weights"] = np.zeros((self.rows, slots), weights.dtype)
        made["positions"][at] = self.start[text] + positions[text, which]
        made["labels"][at], made["weights"][at] = labels[text, which], weights[text, which]
        return made

    def blocks(self, views: Bool[np.ndarray, "t n n"]) -> Bool[np.ndarray, "r l l"]:
        """Attention masks of the texts, as one of each row; no text sees another."""
        made = np.zeros((self.rows, self.length, self.length), bool)
        for view, row, start, kept, length in zip(views, self.row, self.start, self.kept, self.lengths, strict=True):
            source, own = np.r_[: kept - 1, length - 1], slice(start, start + kept)
            made[row, own, own] = view[np.ix_(source, source)]
        return made


def _place_texts(texts: Tokens, numbers: Int[np.ndarray, " b"], packing: float) -> _Placement:
    """
    Raises:
        ConfigError: the texts do not fill whole rows.
    """
    per_row, length = row_shape(texts.mask.shape[-1], packing)
    lengths = _merge_axes(texts.mask, 1).sum(axis=1)
    require(
        len(lengths) % per_row == 0,
        f"objective.packing={packing} puts {per_row} texts into a row on average, which do not divide the "
        f"{len(lengths)} of a process; use a --batch of a power of two, or --objective.packing=1",
    )
    rows, most, each = len(lengths) // per_row, _MOST * per_row, len(lengths) // len(numbers)
    row, slot, start, kept = (np.zeros(len(lengths), np.int32) for _ in range(4))
    for number, held in enumerate(distribute(lengths, rows, most)):
        row[held], slot[held], kept[held] = number, np.arange(len(held)), _fitted(lengths[held], length)
        start[held] = np.cumsum(kept[held]) - kept[held]
    first_texts = (numbers[:, None] * each + np.arange(each)).reshape(-1)[::per_row]  # of the rows, in the global batch
    places = ((first_texts // per_row)[row] * most + slot).astype(np.int32).reshape(texts.mask.shape[:-1])
    return _Placement(row, slot, start, lengths, kept, places, rows, length, most)


def _fitted(lengths: Int[np.ndarray, " n"], room: int) -> Int[np.ndarray, " n"]:
    """`lengths`, the longest of them cut to one length with which all fit into `room`."""
    longest = int(lengths.max(initial=0))
    while (kept := np.minimum(lengths, longest)).sum() > room:
        longest -= 1
    return kept


def _merge_axes(x: Array | np.ndarray, axes: int) -> np.ndarray:
    """`x` with all axes but the last `axes` as one."""
    return np.asarray(x).reshape(-1, *x.shape[-axes:])
