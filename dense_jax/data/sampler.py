"""The row that the i-th example of a run is made from: a function of seed and i, whatever the length of the run.

Of several sources, one is drawn for each example or for each batch, with probability proportional to its weight times
its share of all tokens to the power `sampling_power`. Each source has an order of its own, and the i-th example takes
the i-th row of it: so an epoch of a source takes no row twice, and a row that it skips may come in the next.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np
import xxhash

from dense_jax.arrays import Float, Int
from dense_jax.config.data import LoaderConfig, Mixing, Order
from dense_jax.errors import DataError, require
from dense_jax.types import SourceRows

Texts = Callable[[Sequence[int], int], Sequence[Sequence[int]]]  # rows and epoch -> numbers of the texts of each

_ROUNDS = 6  # of the network that permutes rows; 4 are pseudo-random in theory
_OPEN = 8  # batches that are kept: those that threads work at


class Sampler:
    """Rows by index of the example. Endless."""

    def __init__(
        self,
        parts: Sequence[SourceRows],
        config: LoaderConfig,
        seed: int,
        batch: int,
        texts: Texts = lambda rows, _: [(row,) for row in rows],
    ) -> None:
        """`batch` examples have one source with `mixing=batch`, and share no text with `order=distinct`.

        `texts` maps rows and an epoch to the numbers of the texts of each row's example.

        Raises:
            ConfigError: there are weights, and not one for each source.
        """
        self.parts = parts
        self.order = config.order
        self.seed = seed
        self.together = batch if config.mixing is Mixing.BATCH else 1
        weights = _weights(parts, config)
        self.shares = shares([part.tokens for part in parts], config.sampling_power, weights)
        self._bounds = np.cumsum(self.shares)[:-1].tolist()
        self._orders = {
            source: _DistinctOrder(part, seed, batch, texts)
            if config.order is Order.DISTINCT
            else _Order(len(part.rows), config, seed)
            for source, part in enumerate(parts)
            if part.rows
        }

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


def _weights(parts: Sequence[SourceRows], config: LoaderConfig) -> Sequence[float]:
    """The weight of each source, 0 without rows."""
    names = ", ".join(part.name for part in parts)
    require(
        len(config.weights) in (0, len(parts)),
        f"loader.weights has {len(config.weights)} numbers, and there are {len(parts)} sources to learn from: {names}; "
        "give one for each, in this order",
    )
    weights = config.weights or (1.0,) * len(parts)
    return [weight if part.rows else 0.0 for weight, part in zip(weights, parts, strict=True)]


def shares(tokens: Sequence[int], power: float, weights: Sequence[float]) -> Float[np.ndarray, " _"]:
    """The probability that each source is drawn with: its weight times its share of `tokens` to the power `power`.

    >>> shares([100, 900], power=0.5, weights=[1.0, 1.0])
    array([0.25, 0.75])
    """
    found = np.array(weights) * (np.array(tokens) / sum(tokens)) ** power
    return found / found.sum()


class _DistinctOrder:
    """The rows of one source in whole batches, in each of which no text comes twice.

    Every epoch is a fresh permutation, of which each batch has a stretch. It takes the rows from the start of the
    stretch on that share no text with those it has; for each row that it passes over, a row of the next stretch comes
    twice in the epoch. So a batch depends on its number only, and no other one is read for it. Each source is arranged
    by itself: a batch may hold the same text from two of them.
    """

    def __init__(self, part: SourceRows, seed: int, batch: int, texts: Texts) -> None:
        self.part, self.seed, self.batch, self.texts = part, seed, batch, texts
        self.batches = max(1, len(part.rows) // batch)  # of an epoch
        self._arranged: dict[int, Int[np.ndarray, " b"]] = {}  # the last ones, by their numbers

    def __getitem__(self, index: int) -> int:
        number, place = divmod(index, self.batch)
        found = self._arranged.get(number)
        if found is None:
            found = self._arrange(number)
            last = [*self._arranged.items()][1 - _OPEN :]  # at once: another thread may be here too, and finds the same
            self._arranged = {**dict(last), number: found}
        return int(found[place])

    def epoch(self, index: int) -> int:
        return index // (self.batch * self.batches)

    def _arrange(self, number: int) -> Int[np.ndarray, " b"]:
        """
        Raises:
            DataError: no batch can be made.
        """
        epoch, turn = divmod(number, self.batches)
        count = len(self.part.rows)
        taken: list[int] = []
        used: set[int] = set()
        for start in range(0, count, self.batch):
            places = turn * count // self.batches + np.arange(start, min(start + self.batch, count))
            rows = permuted(places % count, count, (self.seed, epoch)) + self.part.rows.start
            for row, texts in zip(rows.tolist(), self.texts(rows.tolist(), epoch), strict=True):
                if used.isdisjoint(texts):
                    taken.append(row - self.part.rows.start)
                    used.update(texts)
                if len(taken) == self.batch:
                    return np.array(taken)
        raise DataError(
            f"{self.part.name or 'the corpus'}: no batch={self.batch} can be made of {count:,} queries in which no "
            f"text comes twice; the largest has {len(taken)}: use a smaller --batch, or --loader.order=shuffle"
        )


def permuted(places: Int[np.ndarray, " n"], count: int, seed: tuple[int, ...]) -> Int[np.ndarray, " n"]:
    """The numbers at `places` of a permutation of range(count), which is drawn by `seed` and never held.

    A Feistel network over the next power of 4, applied again to numbers of `count` or more. Black and Rogaway 2002,
    "Ciphers with Arbitrary Finite Domains".

    >>> sorted(permuted(np.arange(7), 7, (0,)).tolist())
    [0, 1, 2, 3, 4, 5, 6]
    """
    half = np.uint64(max(1, (count.bit_length() + 1) // 2))
    mask, keys = (np.uint64(1) << half) - np.uint64(1), np.random.default_rng(seed).integers(1 << 63, size=_ROUNDS)
    found = places.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys.astype(np.uint64):
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[outside] = (left << half) | right
        outside = found >= count
    return found.astype(np.int64)


def _mixed(x: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The finalizer of SplitMix64, in the upper bits of which each bit of `x` counts; these come first."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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
