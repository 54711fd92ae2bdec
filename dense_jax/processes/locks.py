"""Locks: one process at a time writes a folder.

A lock is an advisory lock on a file, which the system releases when its process ends, even by a kill. The file names
the process that holds it.
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
from dense_jax.processes.multihost import broadcast, on_process_0

_PAUSE = 0.2  # seconds between looks at a lock that is held


@contextlib.contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for all processes, which call this together; the first one takes it.

    Raises:
        ConfigError: another program holds it. The message begins with `what`, such as "WORKDIR is being trained", and
            names the other process.
        StorageError: the file system has no locks.
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
    """Return the lock file of the process that writes `folder`; it is next to the folder."""
    return folder.with_name(f"{folder.name}.lock")


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold the lock file `path` once no other process does; the block may remove the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, path):
                yield
                return


@contextlib.contextmanager
def all_in_turn(path: Path, give_up: Callable[[float], bool]) -> Iterator[bool]:
    """Hold the lock file `path` for all processes, which call this together; the first one takes it.

    While another program holds it, all call `give_up` repeatedly with the seconds they have waited. Once that returns
    True they remove the file, lock a new one and get True: the other program keeps a lock on the removed file.
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
    """Take the lock file `path` and let `files` close it; return False if another program holds or removed it."""
    with contextlib.ExitStack() as opened:
        lock = opened.enter_context(path.open("a"))
        taken = _take(lock) and _is_at(lock, path)
        if taken:
            files.push(opened.pop_all())
        return taken


def _take(lock: IO[str]) -> bool:
    """Take the lock; return False if another program holds it."""
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
    """Return False if the file was removed after it was opened: a lock on it excludes no one."""
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
