"""Files: written whole or not at all, read as JSON, and compared by digests."""

import contextlib
import errno
import fcntl
import functools
import glob
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import xxhash
from etils import epath
from pydantic import Field, TypeAdapter, ValidationError

from dense_jax.errors import ConfigError, DataError, StorageError, UserError, require

AnyPath = Path | epath.Path  # to read from: on a disk, or in a bucket

# Types of JSON values. Numbers are bounded, so that a damaged file cannot ask for an array of an absurd size.
Count = Annotated[int, Field(ge=0, lt=1 << 48)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]  # of one axis of a parameter
Settings = dict[str, Any]
Digests = dict[str, str]  # name -> digest
Ids = list[str]

_CHUNK = 1 << 22  # bytes read at a time
_POINTER_START = b"version https://git-lfs.github.com/spec/"
POINTER = "a Git LFS pointer, not the file itself; fetch it by `git lfs pull` in its repository"
_CURES: dict[type[UserError], str] = {
    StorageError: "restore it from a copy, or remove it and run again what wrote it",
    ConfigError: "correct it, or fetch the folder again",
    DataError: "correct it, or fetch it again",
}
_REFUSALS = (  # the system's reasons not to write a file, independent of its content
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.EIO, errno.ESTALE,
)  # fmt: skip
_PATTERN = "\\*?[]"  # characters of a path that Orbax reads as a glob pattern or a slash


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, renamed to `path` when the block ends; an error leaves `path` unchanged.

    The file and its name are on the disk when this returns: a power cut leaves the old file or the new one. Several
    processes may write one path: each has its own temporary name, and the last to end wins.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with naming_storage_errors(path):
        new = _made_folders(path.parent)
        _remove_abandoned(path)
        try:
            with _locked(partial):
                yield partial
                sync(partial)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        for folder in (path.parent, *new):
            sync(folder)


def is_written(path: Path) -> bool:
    """Return whether `path` is a file with content; a power cut leaves an empty file where one was not synced."""
    return path.is_file() and path.stat().st_size > 0


def sync(path: Path) -> None:
    """Wait until the disk has the bytes of a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Hold a lock on a new file, if the file system has locks, until the block or the process ends."""
    with partial.open("xb") as held:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _made_folders(folder: Path) -> list[Path]:
    """Create `folder`, and return the folders that have got a new entry."""
    new = [above.parent for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of killed processes; a process that still writes holds a lock on its own."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError), partial.open("r+b") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


@contextlib.contextmanager
def naming_storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write below `path` into a StorageError with the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"{path}: the disk is full; free some space and start again, finished parts stay"
            ) from error
        if error.errno in _REFUSALS:
            raise StorageError(f"{path}: may not be written ({error.strerror})") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_strings(path: Path, strings: Iterable[str]) -> None:
    """Writes a list as `write_json` does, in the memory of one string, where that takes some 150 bytes for each."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        before = "[\n"
        for string in strings:
            file.write(f"{before}  {json.dumps(string, ensure_ascii=False)}")
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def read_json(path: Path, kind: Any = Any, error: type[UserError] = StorageError) -> Any:
    """Return the value in `path`, of the type `kind`, such as a TypedDict.

    Raises:
        StorageError: the file is a pointer of Git LFS.
        UserError: of the class `error`: the file is missing or empty, is not JSON, or holds another kind of value.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as refused:
        raise error(f"{path}: cannot be read ({refused.strerror})") from None
    if not raw.strip():
        raise error(f"{path}: damaged (it is empty, as a power cut leaves a file); {_CURES[error]}")
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise error(f"{path}: damaged (it is nested too deeply); {_CURES[error]}") from None
    except ValueError as wrong:  # not JSON, not UTF-8, or a number of thousands of digits
        check_no_pointer(path)
        raise error(f"{path}: damaged ({wrong}); {_CURES[error]}") from None
    check_kind(value, kind, str(path), error)
    return value


def check_kind(value: Any, kind: Any, where: str, error: type[UserError] = StorageError) -> None:
    """
    Raises:
        UserError: of the class `error`: the JSON value `value`, read from `where`, is not of the type `kind`.
    """
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as wrong:
        first, more = wrong.errors(include_url=False, include_context=False)[0], wrong.error_count() - 1
        place = ".".join(map(str, first["loc"])) or "the value"
        raise error(
            f"{where}: damaged ({place}: {first['msg']}; it is {_shortened(first['input'])}"
            f"{f', and {more:,} more' if more else ''}); {_CURES[error]}"
        ) from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _shortened(value: Any) -> str:
    """Return a value of any depth and length in a form for an error."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    return f"{value!r:.60}"


def text_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, without their line ends (of Unix or Windows).

    `str.splitlines` would also cut at U+0085, U+2028 and six more characters, which may be part of a line.
    """
    lines = path.read_bytes().decode("utf-8").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def check_no_pointer(path: Path) -> None:
    """
    Raises:
        StorageError: `path` is a pointer of Git LFS: the file itself has not been fetched.
    """
    with path.open("rb") as file:
        if is_pointer(file.read(len(_POINTER_START))):
            raise StorageError(f"{path}: {POINTER}")


def is_pointer(start: bytes) -> bool:
    """Return whether a file that starts with these bytes, 40 or more, is a pointer of Git LFS."""
    return start.startswith(_POINTER_START)


def digest(path: AnyPath) -> str:
    """Return the xxh3-128 of a file's bytes, in hex."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def json_digest(value: Any) -> str:
    """Return the xxh3-128 of a JSON value, in hex."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def short_digest(value: Any) -> str:
    """Return the first eight digits of `json_digest`: enough to distinguish the folders of a workdir."""
    return json_digest(value)[:8]


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """Return relative name -> digest of every file of `folder` that matches `pattern`."""
    return {str(p.relative_to(folder)): digest(p) for p in sorted(folder.glob(pattern)) if p.is_file()}


def verify(folder: Path, expected: dict[str, str]) -> None:
    """Compare every file of `expected` with its digest.

    Raises:
        StorageError: names the first file that is missing or changed.
    """
    for name, known in expected.items():
        path = folder / name
        if not path.is_file():
            raise StorageError(f"{path}: missing")
        if (found := digest(path)) != known:
            raise StorageError(
                f"{path}: digest {found} is not the recorded {known}: the file has changed since it was written"
            )


def check_name(folder: Path) -> Path:
    """`folder`, if checkpoints can be read in it.

    Raises:
        ConfigError: its path has a character that Orbax takes for a pattern.
    """
    odd = sorted({character for character in str(folder.absolute()) if character in _PATTERN})
    require(
        not odd,
        f"--workdir={folder}: {' and '.join(odd)} in the path would be read as a pattern by the checkpoint library; "
        "name a folder without it",
    )
    return folder


def writable(folder: Path, cure: str = "name another folder") -> Path:
    """`folder`, created if need be, after a trial write; an error ends with `cure`.

    Raises:
        ConfigError: it cannot be created or written, or checkpoints in it could not be read; said before any work.
    """
    check_name(folder)
    trial = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink(missing_ok=True)  # several processes may try at once
    except OSError as error:
        raise ConfigError(f"{folder} is not writable ({error.strerror}); {cure}") from None
    return folder
