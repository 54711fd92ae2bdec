"""The row that the i-th example of a run is made from: a function of seed and i, whatever the length of the run.

Of several sources, one is drawn for each example or for each batch, with probability proportional to its share of all
tokens to the power `sampling_power`. Each source has an order of its own, and the i-th example takes the i-th row of
it: so an epoch of a source takes no row twice, and a row that it skips may come in the next.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np
import xxhash

from dense_jax.arrays import Float, Int
from dense_jax.config.data import LoaderConfig, Mixing, Order
from dense_jax.errors import DataError, require
from dense_jax.types import SourceRows

Texts = Callable[[int, int], Sequence[int]]  # row and epoch -> numbers of its texts


class Sampler:
    """Rows by index of the example. Endless."""

    def __init__(
        self,
        parts: Sequence[SourceRows],
        config: LoaderConfig,
        seed: int,
        batch: int,
        texts: Texts = lambda row, _: (row,),
    ) -> None:
        """`batch` examples have one source with `mixing=batch`, and share no text with `order=distinct`.

        `texts` maps a row and an epoch to the numbers of the texts of its example.
        """
        self.parts = parts
        self.order = config.order
        self.seed = seed
        self.together = batch if config.mixing is Mixing.BATCH else 1
        self.shares = shares([part.tokens for part in parts], config.sampling_power)
        self._bounds = np.cumsum(self.shares)[:-1].tolist()
        if config.order is Order.DISTINCT:
            self._orders = [_DistinctOrder(part, seed, batch, texts) for part in parts]
        else:
            self._orders = [_Order(len(part.rows), config, seed) for part in parts]

    def __getitem__(self, index: int) -> int:
        source = self._source(index)
        return self.parts[source].rows[self._orders[source][index]]

    def epoch(self, index: int) -> int:
        """Number of epochs of its source before the example of `index`."""
        return self._orders[self._source(index)].epoch(index)

    def another(self, index: int, rng: np.random.Generator) -> int:
        """A row drawn at random from the source of `index`.

        Raises:
            ConfigError: the order is distinct, which such a row would break.
        """
        require(
            self.order is not Order.DISTINCT,
            "loader.order=distinct arranges whole batches, and here an example cannot be made of what was arranged; "
            "use --loader.order=shuffle",
        )
        rows = self.parts[self._source(index)].rows
        return rows[int(rng.integers(len(rows)))]

    def _source(self, index: int) -> int:
        if len(self.parts) == 1:
            return 0
        draw = f"{self.seed} {index // self.together}".encode()
        return bisect.bisect(self._bounds, xxhash.xxh3_64_intdigest(draw) / 2**64)  # numpy's generator takes 40 us


def shares(tokens: Sequence[int], power: float) -> Float[np.ndarray, " _"]:
    """The probability that each source is drawn with: its share of `tokens` to the power `power`, normalised.

    >>> shares([100, 900], power=0.5)
    array([0.25, 0.75])
    """
    weights = (np.array(tokens) / sum(tokens)) ** power
    return weights / weights.sum()


class _DistinctOrder:
    """The rows of one source in whole batches, in each of which no text comes twice.

    Every epoch is a fresh permutation. A passage that shares a text with a batch waits for a later one; batches that
    are not full when all passages are placed are left out of that epoch. Each source is arranged by itself: a batch may
    hold the same text from two of them.
    """

    def __init__(self, part: SourceRows, seed: int, batch: int, texts: Texts) -> None:
        self.part, self.seed, self.batch, self.texts = part, seed, batch, texts
        self._starts: tuple[int, ...] = (0,)  # of the epochs that are known
        self._arranged: dict[int, Int[np.ndarray, " p"]] = {}  # of those that are open

    def __getitem__(self, index: int) -> int:
        epoch = self.epoch(index)
        return int(self._epoch(epoch)[index - self._starts[epoch]])

    def epoch(self, index: int) -> int:
        starts = self._starts
        while index >= starts[-1]:
            starts = (*starts, starts[-1] + len(self._epoch(len(starts) - 1)))
        if len(starts) > len(self._starts):
            self._starts = starts  # at once: another thread may be here too, and finds the same
        return bisect.bisect(starts, index) - 1

    def _epoch(self, epoch: int) -> Int[np.ndarray, " p"]:
        found = self._arranged.get(epoch)
        if found is None:
            found = self._arrange(epoch)
            adjacent = {e: rows for e, rows in self._arranged.items() if abs(e - epoch) == 1}
            self._arranged = {**adjacent, epoch: found}
        return found

    def _arrange(self, epoch: int) -> Int[np.ndarray, " p"]:
        """
        Raises:
            DataError: not one batch can be made.
        """
        rows = np.random.default_rng((self.seed, epoch)).permutation(len(self.part.rows))
        filled = _FirstFit(self.batch)
        for row in rows.tolist():
            filled.add(row, frozenset(self.texts(self.part.rows[row], epoch)))
        if not filled.full:
            raise DataError(
                f"{self.part.name or 'the corpus'}: no batch={self.batch} can be made of {len(rows):,} queries in "
                f"which no text comes twice; the largest has {max(len(rows) for rows in filled.rows)}: "
                "use a smaller --batch, or --loader.order=shuffle"
            )
        return np.concatenate([np.array(batch, np.uint32) for batch in filled.full])


class _FirstFit:
    """Batches that are being filled: a row goes to the first one that has room for it and shares none of its texts.

    For each text it keeps the number of first batches that are full or have the text, so that the rows of a common
    text skip them.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.rows: list[list[int]] = []  # of each batch
        self.full: list[list[int]] = []  # those that are full, in the order in which they became so
        self._texts: list[set[int]] = []
        self._from = 0  # batches before it are full
        self._from_of: dict[int, int] = {}  # text -> batches before it are full or have the text

    def add(self, row: int, texts: frozenset[int]) -> None:
        place = max((self._first_without(text) for text in texts), default=self._from)
        while self._begun(place) and not (self._room(place) and self._texts[place].isdisjoint(texts)):
            place += 1
        if not self._begun(place):
            self.rows.append([])
            self._texts.append(set())
        self.rows[place].append(row)
        self._texts[place] |= texts
        if not self._room(place):
            self.full.append(self.rows[place])
        while self._begun(self._from) and not self._room(self._from):
            self._from += 1

    def _first_without(self, text: int) -> int:
        place = max(self._from, self._from_of.get(text, 0))
        while self._begun(place) and (not self._room(place) or text in self._texts[place]):
            place += 1
        self._from_of[text] = place
        return place

    def _begun(self, place: int) -> bool:
        return place < len(self.rows)

    def _room(self, place: int) -> bool:
        return len(self.rows[place]) < self.batch


class _Order:
    """The order of the rows of one source, numbered from 0."""

    def __init__(self, passages: int, config: LoaderConfig, seed: int) -> None:
        self.passages = passages
        self.order = config.order
        self.seed = seed
        self.permutations: dict[int, Int[np.ndarray, " p"]] = {}  # of the epochs that are open
        starts = np.arange(config.readers) * passages // config.readers
        nudge = np.random.default_rng(seed).integers(max(1, passages // config.readers), size=config.readers)
        self.starts = (starts + nudge) % passages

    def __getitem__(self, index: int) -> int:
        if self.order is Order.SHUFFLE:
            epoch, place = divmod(index, self.passages)
            return int(self._permutation(epoch)[place])
        turn, reader = divmod(index, len(self.starts))
        return int((self.starts[reader] + turn) % self.passages)

    def epoch(self, index: int) -> int:
        return index // self.passages

    def _permutation(self, epoch: int) -> Int[np.ndarray, " p"]:
        found = self.permutations.get(epoch)
        if found is None:
            found = np.random.default_rng((self.seed, epoch)).permutation(self.passages).astype(np.uint32)
            adjacent = {e: p for e, p in self.permutations.items() if abs(e - epoch) == 1}  # two may be open at once
            self.permutations = {**adjacent, epoch: found}
        return found
