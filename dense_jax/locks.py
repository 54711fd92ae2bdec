"""Locks: one process at a time writes a folder.

A lock is a file that the system releases however its process ends; whoever holds it stands in it.
"""

import contextlib
import fcntl
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import naming_storage_errors
from dense_jax.multihost import broadcast, on_process_0

_PAUSE = 0.2  # seconds between looks at a lock that is held


@contextlib.contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for all processes, which call this together; the first one takes it.

    Raises:
        ConfigError: another program holds it; names its process. `what` it does, such as "WORKDIR is being trained".
        StorageError: the file system refuses locks.
    """
    with contextlib.ExitStack() as held:
        on_process_0(lambda: held.enter_context(alone(path, what)))
        yield


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for this process alone.

    Raises:
        ConfigError, StorageError: as `only_one`.
    """
    with naming_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    with lock:
        if not _take(lock):
            lock.seek(0)
            raise ConfigError(
                f"{what} by {lock.read().strip() or 'another process'} ({path}); wait until it ends, or use another "
                "--workdir"
            )
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def lock_of(folder: Path) -> Path:
    """The lock file of whoever writes `folder`, next to it."""
    return folder.with_name(f"{folder.name}.lock")


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, after waiting for another process to let go of it; the block may remove the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, path):
                yield
                return


@contextlib.contextmanager
def all_in_turn(path: Path, give_up: Callable[[float], bool]) -> Iterator[bool]:
    """Holds the lock file `path` for all processes, which call it together; the first one holds it.

    While another program holds it all ask `give_up` again and again, with the seconds they have waited. Where that is
    true they go on without its leave, and get True: it is left with a lock that nobody asks for any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    began, broken = time.monotonic(), False
    with contextlib.ExitStack() as files:
        while not on_process_0(functools.partial(_taken, path, files)):
            if give_up(float(broadcast(int(time.monotonic() - began)))):
                on_process_0(functools.partial(path.unlink, missing_ok=True))
                broken = True
            else:
                time.sleep(_PAUSE)
        yield broken


def _taken(path: Path, files: contextlib.ExitStack) -> bool:
    """Take the lock file `path`, which `files` then closes; False if another program holds it or just removed it."""
    with contextlib.ExitStack() as opened:
        lock = opened.enter_context(path.open("a"))
        taken = _take(lock) and _is_at(lock, path)
        if taken:
            files.push(opened.pop_all())
        return taken


def _take(lock: IO[str]) -> bool:
    """Take the lock; False if another program holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"{lock.name}: cannot be locked ({error.strerror}); put the workdir on a file system that has locks"
        ) from None
    return True


def _is_at(lock: IO[str], path: Path) -> bool:
    """False if the file was removed after it was opened: a lock on it keeps nobody away."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Return whether another process holds the lock file."""
    try:
        with path.open("r+") as lock:
            return not _take(lock)
    except FileNotFoundError:
        return False
