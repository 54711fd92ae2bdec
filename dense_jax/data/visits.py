"""Which passage the i-th example of a run starts from: a function of seed and i, whatever the length of the run.

Of several sources, one is drawn for each example or for each batch, with probability proportional to its share of all
tokens to the power `sampling_power`. Each source has an order of its own, and the i-th example takes what stands at i
in it: within a pass over a source no passage is visited twice, and one that is passed over has its chance in the next.
"""

import bisect
from collections.abc import Sequence

import numpy as np
import xxhash

from dense_jax.arrays import Float, Int
from dense_jax.config import LoaderConfig, Mixing, Order
from dense_jax.contracts import Part


class Visits:
    """Rows by index. Endless."""

    def __init__(self, parts: Sequence[Part], config: LoaderConfig, seed: int, batch: int) -> None:
        """`batch` are the examples that have one source where `mixing` says so."""
        self.parts = parts
        self.seed = seed
        self.together = batch if config.mixing is Mixing.BATCH else 1
        self.shares = shares([part.tokens for part in parts], config.sampling_power)
        self._bounds = np.cumsum(self.shares)[:-1].tolist()
        self._orders = [_Order(len(part.rows), config, seed) for part in parts]

    def __getitem__(self, index: int) -> int:
        source = self._source(index)
        return self.parts[source].rows[self._orders[source][index]]

    def epoch(self, index: int) -> int:
        """How many passes over its source the visit of `index` comes after."""
        return self._orders[self._source(index)].epoch(index)

    def another(self, index: int, rng: np.random.Generator) -> int:
        """A row drawn at random from the source of `index`."""
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


class _Order:
    """In which order the passages of one source are visited, numbered from 0."""

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
            beside = {e: p for e, p in self.permutations.items() if abs(e - epoch) == 1}  # two may be open at once
            self.permutations = {**beside, epoch: found}
        return found
