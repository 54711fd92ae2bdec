"""SIGTERM and Ctrl-C: a stage ends within seconds, and its finished parts are on disk.

Python calls a signal handler between two instructions, so a stage inside one long call, such as ScaNN building an
index, would notice the signal minutes later. A thread gives the stage five seconds and then ends the process. Files
appear under their names only when they are complete (io.py), so only the part at hand is lost.

Ctrl-C becomes a SIGTERM to this process. Several processes that train leave SIGTERM to JAX; a single trainer reads
`StopSignals.came` after each step. Only the watcher thread receives SIGINT. All other threads block it, and so do child
processes, to which a terminal sends it as well: the trainer stops the workers that read its data.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from dense_jax.errors import Stopped

GRACE = 5.0  # seconds for the stage to end
_RESEND = 1.0  # seconds until the signal is sent again
INTERRUPTED = 128 + signal.SIGINT  # the exit status after Ctrl-C
_MESSAGE = "stopped; finished parts are kept, start the same command to continue"


@dataclass
class StopSignals:
    """Signals received so far."""

    came: bool = False
    raised: bool = False  # Stopped, in the stage
    deferred: bool = False  # the stage looks at `came`, and saves before it stops
    interrupted: bool = False  # by Ctrl-C
    at_once: bool = False  # nothing is at work, so the process can end where it is

    @property
    def code(self) -> int:
        """Exit status of the stopped process."""
        return INTERRUPTED if self.interrupted else Stopped.code

    def error(self) -> Stopped:
        """Return the error to raise in the stage."""
        error = Stopped(_MESSAGE)
        error.code = self.code
        return error


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopSignals]:
    """Raise Stopped in the block on SIGTERM and Ctrl-C; end the process if that takes longer than GRACE.

    A second signal ends it at once. To be used by the main thread. Several processes that train replace the handling of
    SIGTERM by JAX's.
    """
    stop = StopSignals()

    def raise_stopped(number: int, frame: FrameType | None) -> None:
        if stop.at_once:
            _end(stop)
        stop.came = True
        if stop.deferred:
            return
        stop.raised = True
        raise stop.error()

    written, read = socket.socketpair()  # the system writes to it even while the main thread is in a long call
    written.setblocking(False)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    watcher = threading.Thread(target=_watch, args=(read, stop, threading.get_ident()), daemon=True, name="signals")
    handlers = {signal.SIGTERM: raise_stopped, signal.SIGINT: lambda number, frame: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_reset_in_child)
    watcher.start()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        written.close()  # ends the watcher
        watcher.join()
        read.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _reset_in_child() -> None:
    """Hide the SIGTERM that ends a worker process from the watcher of its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(signals: socket.socket, stop: StopSignals, main: int) -> None:
    """Wait for a signal, then for a second one or GRACE, and end the process; return if the block ends earlier.

    A signal that arrives just before the main thread blocks, for example on input, does not wake it: it is sent again.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    deadline, sent = math.inf, 0  # SIGTERMs of our own, which arrive here too
    while True:
        signals.settimeout(None if deadline == math.inf else _RESEND)
        try:
            received = signals.recv(1)
        except TimeoutError:
            if time.monotonic() > deadline:
                _end(stop)
            if stop.raised:
                continue
            received = None
        if received == b"":
            return
        if received == bytes([signal.SIGTERM]) and stop.deferred:
            sent = max(sent - 1, 0)
            continue
        if received == bytes([signal.SIGTERM]):
            if deadline < math.inf and not sent:
                _end(stop)
            sent, deadline = max(sent - 1, 0), min(deadline, time.monotonic() + GRACE)
            continue
        if received not in (None, bytes([signal.SIGINT])):
            continue  # an alarm of the stage's own
        if received is not None:
            if stop.interrupted or deadline < math.inf:
                _end(stop)
            stop.interrupted = True
        sent += 1
        signal.pthread_kill(main, signal.SIGTERM)


def _end(stop: StopSignals) -> NoReturn:
    with contextlib.suppress(OSError):
        print(f"dense-jax: {_MESSAGE}", file=sys.stderr, flush=True)
    os._exit(stop.code)
