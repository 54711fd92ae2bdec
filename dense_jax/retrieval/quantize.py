"""Vectors as int8 codes: each dimension has 255 equal steps between the least and the largest value of a sample.

The codes are those of sentence-transformers' `quantize_embeddings`, rounded to the nearest and clipped. Queries stay
float32, so that every score is the inner product of a float query and a vector that is off by half a step at most.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dense_jax.arrays import Float, Int
from dense_jax.errors import StorageError
from dense_jax.io import whole_file
from dense_jax.retrieval.vector_search import VectorSearch
from dense_jax.types import Ranking

_STEPS, _LEAST = 255, -128


@dataclass(frozen=True)
class Ranges:
    """The least and the largest value of each dimension.

    >>> ranges = Ranges(np.float32([-1, 0]), np.float32([1, 0]))
    >>> codes = ranges.encode(np.float32([[-1, 0], [0.5, 0], [7, 0]]))
    >>> codes.tolist(), ranges.decode(codes).round(2).tolist()
    ([[-128, -128], [63, -128], [127, -128]], [[-1.0, 0.0], [0.5, 0.0], [1.0, 0.0]])
    """

    least: Float[np.ndarray, " d"]
    largest: Float[np.ndarray, " d"]

    @classmethod
    def of(cls, sample: Float[np.ndarray, "p d"]) -> "Ranges":
        """The ranges of the vectors of a sample."""
        return cls(sample.min(0), sample.max(0))

    @classmethod
    def read(cls, path: Path) -> "Ranges":
        """The ranges in a file of `write`.

        Raises:
            StorageError: the file is missing or damaged.
        """
        try:
            least, largest = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(
                f"{path}: missing or damaged ({error}); remove {path.parent} and run `dense-jax embed` again"
            ) from None
        return cls(least, largest)

    def write(self, path: Path) -> None:
        """Write the ranges as an array [2 d].

        Raises:
            StorageError: the disk is full or refuses.
        """
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, np.stack([self.least, self.largest]), allow_pickle=False)

    @cached_property
    def step(self) -> Float[np.ndarray, " d"]:
        """The distance between two codes; 1 in a dimension of one value."""
        widths = self.largest - self.least
        return np.where(widths > 0, widths / np.float32(_STEPS), np.float32(1))

    @cached_property
    def zero(self) -> Float[np.ndarray, " d"]:
        """The value of code 0."""
        return self.least - _LEAST * self.step

    def encode(self, vectors: Float[np.ndarray, "p d"]) -> Int[np.ndarray, "p d"]:
        """The nearest codes, int8."""
        codes = np.rint((vectors - self.least) / self.step) + _LEAST
        return np.clip(codes, _LEAST, _LEAST + _STEPS).astype(np.int8)

    def decode(self, codes: Int[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
        """The float32 values of `codes`."""
        return codes * self.step + self.zero

    def search(self, find: VectorSearch) -> VectorSearch:
        """A search in vectors from `find`, one in their codes: q · (c step + zero) = (q step) · c + q · zero."""

        def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
            found = find(queries * self.step, k)
            return Ranking(found.scores + (queries @ self.zero)[:, None], found.rows)

        return search
