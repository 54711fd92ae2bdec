"""One process at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from dense_jax.agreement import is_first
from dense_jax.errors import ConfigError


@contextlib.contextmanager
def only_one(path: Path, doing: str) -> Iterator[None]:
    """Holds the lock file `path` for this process; the system lets go of it however the process ends.

    Raises:
        ConfigError: naming the process that holds it; `doing` says what it does, such as "is being trained".
    """
    if not is_first():  # the lock is the main process's, for all of them
        yield
        return
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ConfigError(f"--workdir={path.parent} {doing} by {lock.read().strip()}; use another") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, after waiting for another process to let go of it."""
    if not is_first():  # the lock is the main process's, for all of them
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether another process holds the lock file."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
