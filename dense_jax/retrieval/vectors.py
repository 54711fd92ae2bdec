"""A folder of embeddings on disk: shards of float32 rows, their ids, and what made them.

vectors-00000-of-00003.npy ...  memory-mappable; passage p stands in shard p // shard_size
ids.json                        the document id of every passage
manifest.json                   written last: count, views, width, what made them, and a digest of each file

A passage has one vector, or n views of it: then those of passage p are rows p n to p n + n - 1.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dense_jax.arrays import Float, Int, np
from dense_jax.artifact import verify_together
from dense_jax.errors import StorageError
from dense_jax.io import Ids, digest, is_written, read_json
from dense_jax.schemas import VectorsManifest

MANIFEST = "manifest.json"
IDS = "ids.json"


class Vectors:
    """The embeddings of a corpus, read through memory maps."""

    def __init__(self, folder: Path) -> None:
        """Opens a finished folder.

        Raises:
            StorageError: it is unfinished, or a file is missing or cut short. `verify` finds changed bytes too.
        """
        self.folder = folder
        if not is_written(folder / MANIFEST):
            raise StorageError(f"{folder}: holds no finished embeddings ({MANIFEST} is missing); run `dense-jax embed`")
        self.manifest: dict[str, Any] = read_json(folder / MANIFEST, VectorsManifest)
        self.width: int = self.manifest["width"]
        self.views: int = self.manifest.get("views", 1)
        self._shards = [_mapped(folder / name, self.width) for name in sorted(self.manifest["files"]) if name != IDS]
        if (found := sum(map(len, self._shards))) != len(self):
            raise StorageError(f"{folder}: holds {found} vectors but its manifest promises {len(self)}; embed again")

    def __len__(self) -> int:
        return self.passages * self.views

    @property
    def passages(self) -> int:
        """How many passages they are of."""
        return self.manifest["count"]

    @functools.cached_property
    def ids(self) -> list[str]:
        """The document id of each passage; documents of several passages stand there several times."""
        return read_json(self.folder / IDS, Ids)

    @property
    def fingerprint(self) -> str:
        """Equal for equal embeddings made by the same parameters, wherever the folder lies."""
        return digest(self.folder / MANIFEST)

    def blocks(self) -> Iterator[Float[np.ndarray, "p d"]]:
        """The shards in the order of rows, as memory maps."""
        return iter(self._shards)

    @property
    def starts(self) -> list[int]:
        """The first row of each shard."""
        return [0, *self._ends[:-1].tolist()]

    def array(self) -> Float[np.ndarray, "p d"]:
        """All vectors: a memory map where there is one shard, a copy in memory where there are several."""
        return self.part(0, 1)

    def part(self, number: int, of: int) -> Float[np.ndarray, "p d"]:
        """The vectors of shards `number`, `number` + `of`, ..., as `array` gives all."""
        own = self._shards[number::of]
        return own[0] if len(own) == 1 else np.concatenate([np.empty((0, self.width), np.float32), *own])

    def rows(self, number: int, of: int) -> Int[np.ndarray, " p"]:
        """The rows of a part's vectors."""
        shards = zip(self.starts[number::of], self._shards[number::of], strict=True)
        return np.concatenate([np.arange(0), *(np.arange(start, start + len(shard)) for start, shard in shards)])

    def sizes(self, parts: int) -> list[int]:
        """How many vectors each of so many parts has."""
        return [sum(map(len, self._shards[number::parts])) for number in range(parts)]

    @functools.cached_property
    def _ends(self) -> Int[np.ndarray, " s"]:
        """One past the last row of each shard."""
        return np.cumsum([len(shard) for shard in self._shards])

    def take(self, rows: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "*n d"]:
        """The vectors of `rows`; zeros for a row of -1."""
        taken = np.zeros((*rows.shape, self.width), np.float32)
        ends = self._ends
        shards = np.where(rows < 0, -1, np.searchsorted(ends, rows, side="right"))
        for i in np.unique(shards[shards >= 0]).tolist():
            here = shards == i
            taken[here] = self._shards[i][rows[here] - (ends[i] - len(self._shards[i]))]
        return taken

    def verify(self) -> None:
        """Reads every file and compares its digest; of several processes each reads its share.

        Raises:
            StorageError: naming a file that has changed since it was written.
        """
        try:
            verify_together(self.folder, self.manifest["files"])
        except StorageError as error:
            raise StorageError(f"{error}; remove {self.folder} and run `dense-jax embed` again") from None


def _mapped(path: Path, width: int) -> Float[np.ndarray, "p d"]:
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; embed again, finished shards are kept") from None
    except (ValueError, EOFError) as error:
        raise StorageError(f"{path}: damaged ({error}); delete it and embed again") from None
    if shard.dtype != np.float32 or shard.shape[1:] != (width,):
        raise StorageError(f"{path}: holds {shard.dtype} of shape {shard.shape}, not float32 rows of width {width}")
    return shard
