"""Lists of different lengths as two flat files, read through memory maps: NAME.npy and NAME-ends.npy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dense_jax.errors import StorageError
from dense_jax.io import whole_file


class Ragged:
    """Lists of a pair of files, by number. Pickled as their path."""

    def __init__(self, folder: Path, name: str) -> None:
        """
        Raises:
            StorageError: a file is missing or cut short.
        """
        self.folder, self.name = folder, name
        self.values, self.ends = _mapped(folder / f"{name}.npy"), _mapped(folder / f"{name}-ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> Any:
        """Return list `i` as an array of the written type."""
        return self.values[self.ends[i - 1] if i else 0 : self.ends[i]]

    def __reduce__(self) -> tuple[type["Ragged"], tuple[Path, str]]:
        return Ragged, (self.folder, self.name)


def write_ragged(folder: Path, name: str, lists: Sequence[np.ndarray], dtype: Any) -> None:
    """Write `lists` for `Ragged`, each file whole or not at all."""
    values = np.concatenate([np.empty(0, dtype), *lists]).astype(dtype)
    ends = np.cumsum([len(one) for one in lists], dtype=np.int64)
    for path, array in ((folder / f"{name}.npy", values), (folder / f"{name}-ends.npy", ends)):
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def _mapped(path: Path) -> np.ndarray:
    try:
        # a plain array over the map: slicing numpy's memmap takes several times as long
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; remove its folder and run `dense-jax prepare` again") from None
    except (ValueError, EOFError) as error:
        raise StorageError(f"{path}: damaged ({error}); remove its folder and run `dense-jax prepare` again") from None
