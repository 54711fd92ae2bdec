"""Embeddings of a corpus on disk: shards of rows, float32 or int8, and the document id of each passage.

    FOLDER/claim.json                       written first: the settings that made the rest
           vectors-00000-of-00003.npy ...   memory-mappable; passage p is in shard p // shard_size
           ids.json                         the document id of every passage
           ranges.npy                       of int8: the least and the largest value of each dimension
           manifest.json                    written last: claim, count, views, width, type, digests

A passage has one vector, or n views: rows p n to p n + n - 1 are those of passage p.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict

from dense_jax.arrays import Float, Int, np
from dense_jax.artifact import MANIFEST, read_manifest, verify_together
from dense_jax.errors import StorageError
from dense_jax.io import Count, Digests, Ids, Settings, Size, digest, read_json
from dense_jax.retrieval.quantize import Ranges

IDS, RANGES = "ids.json", "ranges.npy"
_AGAIN = "run `dense-jax embed` again"


class _VectorSettings(TypedDict):
    made_by: Settings


class _VectorsManifest(TypedDict):
    settings: _VectorSettings
    files: Digests
    count: Count
    views: Size
    width: Size
    dtype: Literal["float32", "int8"]


class Vectors:
    """Embeddings of a corpus, read through memory maps: float32, whatever their type on disk."""

    def __init__(self, folder: Path) -> None:
        """Open a finished folder.

        Raises:
            StorageError: it is unfinished, or a file is missing or cut short. `verify` also finds changed bytes.
        """
        self.folder = folder
        self.manifest = read_manifest(folder, _VectorsManifest, "embeddings", "embed")
        self.width: int = self.manifest["width"]
        self.views: int = self.manifest["views"]
        self.dtype: str = self.manifest["dtype"]
        self.ranges = Ranges.read(folder / RANGES) if self.dtype == "int8" else None
        shards = sorted(self.manifest["files"].keys() - {IDS, RANGES})
        self._shards = [_map_shard(folder / name, self.width, self.dtype) for name in shards]
        if (found := sum(map(len, self._shards))) != len(self):
            raise StorageError(
                f"{folder}: holds {found} vectors, but its manifest counts {len(self)}; remove {folder} and {_AGAIN}"
            )

    def __len__(self) -> int:
        return self.passages * self.views

    @property
    def passages(self) -> int:
        """Number of passages."""
        return self.manifest["count"]

    @property
    def made_by(self) -> Settings:
        """JSON values that identify the parameters and the collection."""
        return self.manifest["settings"]["made_by"]

    @functools.cached_property
    def ids(self) -> list[str]:
        """Document id of each passage; the passages of one document repeat it."""
        return read_json(self.folder / IDS, Ids)

    @property
    def fingerprint(self) -> str:
        """Digest of the embeddings and of what made them, independent of the folder's place."""
        return digest(self.folder / MANIFEST)

    def blocks(self) -> Iterator[Float[np.ndarray, "p d"]]:
        """Iterate over the shards in the order of rows; float32 ones are memory maps."""
        return map(self._decoded, self._shards)

    @property
    def starts(self) -> list[int]:
        """First row of each shard."""
        return [0, *self._ends[:-1].tolist()]

    def array(self) -> Float[np.ndarray, "p d"]:
        """Return all vectors: a memory map of a single shard, a copy in memory of several."""
        return self.part(0, 1)

    def part(self, number: int, of: int) -> Float[np.ndarray, "p d"]:
        """Return the vectors of shards `number`, `number` + `of`, ..., as `array` returns all."""
        return self._decoded(self.stored_part(number, of))

    def stored_part(self, number: int, of: int) -> Float[np.ndarray, "p d"] | Int[np.ndarray, "p d"]:
        """Return the rows of `part` as they are stored: vectors, or codes of `ranges`."""
        own = self._shards[number::of]
        return own[0] if len(own) == 1 else np.concatenate([np.empty((0, self.width), self.dtype), *own])

    def rows(self, number: int, of: int) -> Int[np.ndarray, " p"]:
        """Return the row of each vector of a part."""
        shards = zip(self.starts[number::of], self._shards[number::of], strict=True)
        return np.concatenate([np.arange(0), *(np.arange(start, start + len(shard)) for start, shard in shards)])

    def sizes(self, parts: int) -> list[int]:
        """Return the number of vectors in each of `parts` parts."""
        return [sum(map(len, self._shards[number::parts])) for number in range(parts)]

    @functools.cached_property
    def _ends(self) -> Int[np.ndarray, " s"]:
        """One past the last row of each shard."""
        return np.cumsum([len(shard) for shard in self._shards])

    def take(self, rows: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "*n d"]:
        """Return the vectors of `rows`; zeros for a row of -1."""
        taken = np.zeros((*rows.shape, self.width), np.float32)
        ends = self._ends
        shards = np.where(rows < 0, -1, np.searchsorted(ends, rows, side="right"))
        for i in np.unique(shards[shards >= 0]).tolist():
            here = shards == i
            taken[here] = self._decoded(self._shards[i][rows[here] - (ends[i] - len(self._shards[i]))])
        return taken

    def _decoded(self, rows: np.ndarray) -> Float[np.ndarray, "p d"]:
        return rows if self.ranges is None else self.ranges.decode(rows)

    def verify(self) -> None:
        """Compare every file with its digest; each process reads its share.

        Raises:
            StorageError: names a file that changed since it was written.
        """
        verify_together(self.folder, self.manifest["files"], "embed")

    def verify_ids(self) -> None:
        """`verify` of the ids alone."""
        verify_together(self.folder, {IDS: self.manifest["files"][IDS]}, "embed")


def _map_shard(path: Path, width: int, dtype: str) -> np.ndarray:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; remove {path.parent} and {_AGAIN}") from None
    except (ValueError, EOFError) as error:
        raise StorageError(f"{path}: damaged ({error}); remove {path.parent} and {_AGAIN}") from None
    if shard.dtype != dtype or shard.shape[1:] != (width,):
        raise StorageError(
            f"{path}: holds {shard.dtype} of shape {shard.shape}, not {dtype} rows of width {width}; remove "
            f"{path.parent} and {_AGAIN}"
        )
    return shard
