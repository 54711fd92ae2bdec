"""ArrayRecord files: written whole, read at random across several files."""

import bisect
import errno
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dense_jax.artifact import verify_files
from dense_jax.errors import StorageError
from dense_jax.io import Digests, whole_file

_OPTIONS = "group_size:1,uncompressed"  # reads one record without its neighbours; token ids hardly compress
_SMALL = 1 << 20  # bytes; ArrayRecord's own checksums see a changed bit only in larger files
_FULL = ("No space left", "File too large", "quota")  # the library's words for a full disk


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write `records` to `path`, whole or not at all.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    with whole_file(path) as partial:
        try:
            writer = ArrayRecordWriter(str(partial), _OPTIONS)
            for record in records:
                writer.write(record)
            writer.close()
        except RuntimeError as error:
            if any(sign in str(error) for sign in _FULL):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise StorageError(f"{path}: cannot be written ({error})") from error


def verify_records(folder: Path, files: Digests) -> None:
    """Compare the small ones of `files` with their digests; a read checks the others.

    Raises:
        StorageError: a file is missing, or a small one has changed.
    """
    verify_files(folder, {name: known for name, known in files.items() if _is_small(folder / name)}, "prepare")


class Records:
    """Random access to the records of several files, numbered across them. A file is opened at its first read."""

    def __init__(self, paths: Sequence[Path], counts: Sequence[int]) -> None:
        """`counts` are the expected numbers of records of `paths`; a file with another number is damaged."""
        self.paths = list(paths)
        self.starts = [0, *itertools.accumulate(counts)]
        self._readers: dict[int, ArrayRecordReader] = {}

    def __len__(self) -> int:
        return self.starts[-1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_readers": {}}  # a reader cannot be pickled

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """Return the records of `rows` in their order; one call is about ten times faster than a call per row.

        Raises:
            IndexError: a row is out of range.
            StorageError: a file is missing or damaged.
        """
        if len(rows) and not 0 <= min(rows) <= max(rows) < len(self):
            raise IndexError(f"rows {min(rows)} to {max(rows)} of {len(self)}")
        places: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(bisect.bisect_right(self.starts, row) - 1, []).append(place)
        found = [b""] * len(rows)
        for file, wanted in places.items():
            records = self._read_file(file, [int(rows[place]) - self.starts[file] for place in wanted])
            for place, record in zip(wanted, records, strict=True):
                found[place] = record
        return found

    def _read_file(self, file: int, positions: list[int]) -> list[bytes]:
        path = self.paths[file]
        try:
            if file not in self._readers:
                self._readers[file] = self._opened(file)
            return self._readers[file].read(positions)
        except RuntimeError as error:
            raise StorageError(
                f"{path}: damaged ({error}); remove its folder and run `dense-jax prepare` again"
            ) from error

    def _opened(self, file: int) -> ArrayRecordReader:
        path, expected = self.paths[file], self.starts[file + 1] - self.starts[file]
        if not path.is_file():
            raise StorageError(f"{path}: missing; remove its folder and run `dense-jax prepare` again")
        reader = ArrayRecordReader(str(path))
        if reader.num_records() != expected:
            raise StorageError(
                f"{path}: damaged, {reader.num_records()} records instead of {expected}; remove its folder and run "
                "`dense-jax prepare` again"
            )
        return reader


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size < _SMALL
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; remove its folder and run `dense-jax prepare` again") from None
