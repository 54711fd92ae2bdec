"""Lines of text files, plain or compressed, in bounded memory whatever the file holds."""

import contextlib
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import IO

from dense_jax.errors import DataError
from dense_jax.files import POINTER, AnyPath, is_pointer

_BOM = b"\xef\xbb\xbf"
_PACKED = (".gz", ".xz")
_ENDS = re.compile(r"(\.(jsonl|json|parquet|tsv|csv|txt))?(\.(gz|xz))?$")
_LOOKED_AT = 4_096  # bytes


class RowError(Exception):
    """What is wrong with one line."""


def lines(path: AnyPath, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, content) of each line of `path` that is not blank; None for one of more than `longest` bytes.

    Line ends of Windows and a byte order mark are taken off. `.gz` and `.xz` files are unpacked on the way.

    Raises:
        DataError: there is no such file, or its compression is damaged (with the line where it broke off).
    """
    number = 0
    with _naming_damage(path, lambda: number), _opened(path) as file:
        while raw := file.readline(longest + 2):
            number += 1
            if number == 1:
                raw = raw.removeprefix(_BOM)
            if len(raw.rstrip(b"\r\n")) > longest:
                _skip_line(file, raw, longest)
                yield number, None
            elif raw.strip():
                yield number, raw.rstrip(b"\r\n")


def content(path: AnyPath) -> bytes:
    """All of `path`, unpacked, without a byte order mark.

    Raises:
        DataError: as `lines`.
    """
    with _naming_damage(path, lambda: 0), _opened(path) as file:
        return file.read().removeprefix(_BOM)


def first_byte(path: AnyPath) -> bytes:
    """The first byte of `path` that is no white space; none if there is no such.

    Raises:
        DataError: as `lines`.
    """
    with _naming_damage(path, lambda: 0), _opened(path) as file:
        return file.read(_LOOKED_AT).removeprefix(_BOM).lstrip()[:1]


def form(path: AnyPath) -> str:
    """The end of a file's name, before that of its compression: `.jsonl`."""
    return path.with_suffix("").suffix if path.suffix in _PACKED else path.suffix


def stem(path: AnyPath) -> str:
    """A file's name without the ends that tell its form and compression: `dev-v1.1` of dev-v1.1.json.xz."""
    return _ENDS.sub("", path.name, count=1)


def decoded(raw: bytes) -> str:
    """The text of a line.

    Raises:
        RowError: NUL bytes, or not UTF-8.
    """
    if b"\0" in raw:
        raise RowError("holds a NUL byte")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8 ({error.reason} at byte {error.start})") from None


def has_surrogate(text: str) -> bool:
    """Whether `text` holds half of a UTF-16 pair: what JSON and Python can spell and no file can store."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


@contextlib.contextmanager
def _naming_damage(path: AnyPath, number: Callable[[], int]) -> Iterator[None]:
    """Turns what reading can raise into a DataError; `number` gives the last line that was read."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{number() + 1}: the compressed file is damaged ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _opened(path: AnyPath) -> Iterator[IO[bytes] | BufferedIOBase]:
    with path.open("rb") as file:
        if is_pointer(file):
            raise DataError(f"{path}: {POINTER}")
        match path.suffix:
            case ".gz":
                with gzip.open(file) as unpacked:
                    yield unpacked
            case ".xz":
                with lzma.open(file) as unpacked:
                    yield unpacked
            case _:
                yield file


def _skip_line(file: IO[bytes] | BufferedIOBase, read: bytes, step: int) -> None:
    while read and not read.endswith(b"\n"):
        read = file.readline(step)
