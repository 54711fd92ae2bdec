"""Files that are either whole or absent, their digests, and those that are read from a bucket."""

import contextlib
import errno
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import xxhash
from etils import epath

from dense_jax.errors import ConfigError, MachineError, StorageError, require

AnyPath = Path | epath.Path  # to be read: of a disk, or of a bucket
_CHUNK = 1 << 22  # bytes read at a time
_POINTER_START = b"version https://git-lfs.github.com/spec/"
POINTER = "a Git LFS pointer, not the file itself; fetch it by `git lfs pull` in its repository"
_BUCKETS = {"gs://": "gcsfs", "s3://": "s3fs"}  # the packages that read them


def located(name: str) -> AnyPath:
    """The path that a person means by `name`: gs://BUCKET/..., s3://BUCKET/..., or one of this machine.

    Raises:
        MachineError: the package that reads such a bucket is missing.
    """
    found = next((start for start in _BUCKETS if name.startswith(start)), None)
    if found is None:
        return Path(name).expanduser()
    if importlib.util.find_spec(_BUCKETS[found]) is None:
        raise MachineError(f"{name}: needs {_BUCKETS[found]}; pip install 'dense_jax[{found[:2]}]'")
    return epath.Path(name)


def absolute(name: str) -> AnyPath:
    """As `located`, with a name: `.` and `..` have none."""
    path = located(name)
    return Path(os.path.abspath(path)) if isinstance(path, Path) else path  # noqa: PTH100  links keep their names


def check_on_disk(name: str, setting: str) -> None:
    """
    Raises:
        ConfigError: `setting` names a place in a bucket, where only data are read from.
    """
    require(
        not name.startswith(tuple(_BUCKETS)),
        f"{setting}={name} lies in a bucket, from which data are read, but no models and workdirs; mount the bucket "
        "and name the folder there",
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, renamed to `path` once the block ends; a block that fails leaves `path` as it was.

    The content reaches the disk before the name does, so that neither a kill nor a power cut leaves half a file.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    partial = path.with_name(f".{path.name}.partial")
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)


@contextlib.contextmanager
def naming_storage_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write below `path` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"{path}: the disk is full; free some space and start again, finished parts stay"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{path}: may not be written ({error.strerror})") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in `path`.

    Raises:
        StorageError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        check_no_pointer(path)
        raise StorageError(f"{path}: damaged ({error})") from None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises:
        StorageError: the file is missing or damaged, or holds another kind of value.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise StorageError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def text_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, without their line ends (of Unix or Windows).

    `str.splitlines` would also cut at U+0085, U+2028 and six more characters, which a line may hold.
    """
    lines = path.read_bytes().decode("utf-8").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def check_no_pointer(path: Path) -> None:
    """
    Raises:
        StorageError: `path` is a pointer of Git LFS: the file itself has not been fetched.
    """
    with path.open("rb") as file:
        if is_pointer(file):
            raise StorageError(f"{path}: {POINTER}")


def is_pointer(file: IO[bytes]) -> bool:
    """Return whether a file that was just opened is a pointer of Git LFS; it can be read from its start again."""
    start = file.read(len(_POINTER_START))
    file.seek(0)
    return start == _POINTER_START


def digest(path: AnyPath) -> str:
    """The xxh3-128 of a file's bytes, in hex."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def json_digest(value: Any) -> str:
    """The xxh3-128 of a JSON value, in hex."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def short_digest(value: Any) -> str:
    """The first eight digits of `json_digest`: enough to keep the folders of a workdir apart."""
    return json_digest(value)[:8]


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """Relative name -> digest, for every file of `folder` that `pattern` finds."""
    return {str(p.relative_to(folder)): digest(p) for p in sorted(folder.glob(pattern)) if p.is_file()}


def verify(folder: Path, expected: dict[str, str]) -> None:
    """Checks every file of `expected` against its digest.

    Raises:
        StorageError: naming the first file that is missing or changed.
    """
    for name, known in expected.items():
        path = folder / name
        if not path.is_file():
            raise StorageError(f"{path}: missing")
        if (found := digest(path)) != known:
            raise StorageError(
                f"{path}: digest {found} is not the recorded {known}: the file has changed since it was written"
            )


def writable(folder: Path) -> Path:
    """`folder`, created if need be, after a trial write.

    Raises:
        ConfigError: it cannot be created or written, said before any work is done.
    """
    trial = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink(missing_ok=True)  # several processes may try at once
    except OSError as error:
        raise ConfigError(f"--workdir={folder} is not writable ({error.strerror}); name another folder") from None
    return folder
