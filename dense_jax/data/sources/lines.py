"""Lines of text files, plain or packed (`.gz`, `.xz`), in bounded memory, also of binary files."""

import codecs
import contextlib
import gzip
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BufferedReader
from typing import IO, Any, NamedTuple, cast

from dense_jax.data.sources.rejects import RowError, each
from dense_jax.errors import DataError
from dense_jax.io import POINTER, AnyPath, is_pointer
from dense_jax.types import Reject

_PACKED = (".gz", ".xz")
_ENDS = re.compile(r"(\.(jsonl|json|parquet|tsv|csv|txt))?(\.(gz|xz))?$")
_INSPECTED = 4_096  # bytes at a file's start
_MARKS = {  # byte order mark -> encoding; those of UTF-32 begin with those of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_NUL_SHARE = 0.5  # least share of NUL bytes at the places where Latin text in UTF-16 or UTF-32 has them
_LATIN = "; if all of the file is Latin-1, convert it by iconv -f ISO-8859-1 -t UTF-8"


class RawLine(NamedTuple):
    """One line of a file as bytes."""

    number: int  # from 1
    raw: bytes | None  # None: it is longer than the limit


class TextLine(NamedTuple):
    """One line of a file, without its end."""

    number: int  # from 1
    text: str


def lines(path: AnyPath, longest: int) -> Iterator[TextLine | Reject]:
    """The lines of `path` that are not blank; one of more than `longest` bytes is rejected, and not held.

    Line ends of Windows and byte order marks are removed.

    Raises:
        DataError: the file is absent, UTF-16 or UTF-32, or its compression is damaged (with the line of the damage).
    """

    def line(row: RawLine) -> TextLine | None:
        if row.raw is None:
            raise RowError(f"is longer than {longest:,} bytes")
        return TextLine(row.number, decoded(row.raw.rstrip(b"\r\n"))) if row.raw.strip() else None

    return each(raw_lines(path, longest), line, path)


def raw_lines(path: AnyPath, longest: int) -> Iterator[RawLine]:
    """All lines of `path`, blank ones too, with their line ends.

    Raises:
        DataError: as `lines`.
    """
    number = 0
    with _damage_as_data_error(path, lambda: number), _plain_bytes(path) as file:
        while raw := file.readline(longest + 2):
            number += 1
            raw = raw.removeprefix(codecs.BOM_UTF8)  # also within a file, where others were joined to it
            if len(raw.rstrip(b"\r\n")) > longest:
                _skip_line(file, raw, longest)
                yield RawLine(number, None)
            else:
                yield RawLine(number, raw)


def decoded(raw: bytes) -> str:
    """`raw` as text.

    Raises:
        RowError: it holds a NUL byte or is not UTF-8.
    """
    if b"\0" in raw:
        raise RowError("holds a NUL byte")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8 ({error.reason} at byte {error.start}){_LATIN}") from None


def has_surrogate(text: str) -> bool:
    """True if `text` holds half of a UTF-16 pair, which JSON and Python can spell and no file can store."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def whole_content(path: AnyPath) -> bytes:
    """All bytes of `path`, unpacked, without a byte order mark.

    Raises:
        DataError: as `lines`.
    """
    with _damage_as_data_error(path, lambda: 0), _plain_bytes(path) as file:
        return file.read().removeprefix(codecs.BOM_UTF8)


def first_byte(path: AnyPath) -> bytes:
    """The first byte of `path` that is not white space; empty if the start of the file has none.

    Raises:
        DataError: as `lines`.
    """
    with _damage_as_data_error(path, lambda: 0), _plain_bytes(path) as file:
        return file.read(_INSPECTED).removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def form(path: AnyPath) -> str:
    """The ending of a file's name, without that of its compression: `.jsonl`."""
    return path.with_suffix("").suffix if path.suffix in _PACKED else path.suffix


def stem(path: AnyPath) -> str:
    """A file's name without the endings of its form and compression: `dev-v1.1` of dev-v1.1.json.xz."""
    return _ENDS.sub("", path.name, count=1)


@contextlib.contextmanager
def _damage_as_data_error(path: AnyPath, number: Callable[[], int]) -> Iterator[None]:
    """Turn errors of reading into a DataError; `number` returns the last line that was read."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{number() + 1}: the compressed file is damaged ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def _plain_bytes(path: AnyPath) -> Iterator[IO[bytes] | BufferedIOBase]:
    """`path` from its start, unpacked; UTF-16, UTF-32 and pointers of Git LFS are refused."""
    unpack = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, contextlib.nullcontext)
    with path.open("rb") as raw, BufferedReader(cast(Any, raw)) as file:  # a bucket's file reads no line up to a length
        if is_pointer(file.peek(_INSPECTED)):
            raise DataError(f"{path}: {POINTER}")
        with unpack(file) as unpacked:
            if encoding := _wide_encoding(unpacked.read(_INSPECTED)):
                raise DataError(f"{path}: is {encoding}, not UTF-8; convert it by `{_recode_command(path, encoding)}`")
            unpacked.seek(0)
            yield unpacked


def _wide_encoding(start: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or by the NUL bytes of Latin characters; None for other encodings."""
    if marked := next((name for mark, name in _MARKS.items() if start.startswith(mark)), None):
        return marked
    nul = [start[place::4].count(0) > _NUL_SHARE * len(start[place::4]) > 0 for place in range(4)]
    by_place = {
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
        (False, True, False, True): "UTF-16LE",
        (True, False, True, False): "UTF-16BE",
    }
    return by_place.get(tuple(nul))  # pyright: ignore[reportArgumentType]  four values


def _recode_command(path: AnyPath, encoding: str) -> str:
    """A shell command that writes an unpacked UTF-8 copy to the working directory."""
    command = {".gz": "gzip -dc", ".xz": "xz -dc"}.get(path.suffix, "cat")
    name = path.name.removesuffix(path.suffix) if path.suffix in _PACKED else path.name
    return f"{command} {shlex.quote(str(path))} | iconv -f {encoding} -t UTF-8 > {shlex.quote(f'utf8-{name}')}"


def _skip_line(file: IO[bytes] | BufferedIOBase, read: bytes, step: int) -> None:
    while read and not read.endswith(b"\n"):
        read = file.readline(step)
