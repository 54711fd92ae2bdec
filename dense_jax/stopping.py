"""What SIGTERM does to a stage: it ends within seconds, and what it has finished is on disk.

Python calls a signal's handler between two instructions, so a stage that is inside of one long call, such as ScaNN's
building of an index, would notice it minutes later. A thread gives it five seconds, and then ends the process: all that
is written becomes visible when it is whole (files.py), so that nothing is lost but the part at hand.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from dense_jax.errors import Stopped

GRACE = 5.0  # seconds
_MESSAGE = "stopped; finished parts are kept, start the same command to continue"


@contextlib.contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """SIGTERM raises Stopped in the block, or ends the process where that takes too long; a second one does at once.

    To be used by the main thread. `train` replaces this by JAX's own handling.
    """
    written, read = socket.socketpair()  # the system writes to it whatever the main thread is at
    written.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(read,), daemon=True, name="SIGTERM")
    before = signal.signal(signal.SIGTERM, _raise), signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    watcher.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.set_wakeup_fd(before[1])
        written.close()  # ends the watcher
        watcher.join()
        read.close()


def _raise(number: int, frame: FrameType | None) -> None:
    raise Stopped(_MESSAGE)


def _forget() -> None:
    """A worker process that is ended by SIGTERM would tell our watcher so."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(signals: socket.socket) -> None:
    """Waits for SIGTERM, then for a second one or GRACE, and ends the process; returns where the block ends before."""
    while received := signals.recv(1):
        if received[0] == signal.SIGTERM:
            signals.settimeout(GRACE)
            with contextlib.suppress(TimeoutError):
                if not signals.recv(1):
                    return
            print(f"dense-jax: {_MESSAGE}", file=sys.stderr, flush=True)
            os._exit(Stopped.code)
