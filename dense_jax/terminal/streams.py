"""The standard streams: usable with any encoding, and without a reader."""

import contextlib
import errno
import io
import os
import re
import sys
import threading
from collections.abc import Iterator

from dense_jax.errors import DataError

_NATIVE_LOG = re.compile(rb"[IW]\d{4} \d\d:|WARNING: All log messages before absl::InitializeLog")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors of a device that takes no more output


class Unfailing(io.TextIOWrapper):
    """A stream for notes and progress, which drops text that cannot be written and never stops the work."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def open_streams() -> None:
    """Give the process standard streams that take every character; one that their encoding lacks becomes an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed before the start
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    old = sys.stderr
    sys.stderr = Unfailing(old.detach(), encoding=old.encoding, errors="backslashreplace", line_buffering=True)  # pyright: ignore


def close_output() -> None:
    """Discard buffered output: Python would report an error for it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def input_lines() -> list[str]:
    """The lines of standard input that are not empty, without the white space around them.

    Raises:
        DataError: a line is not UTF-8.
    """
    lines = []
    for number, line in enumerate(sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            lines.append(line.decode().strip())
        except UnicodeDecodeError as error:
            raise DataError(
                f"standard input, line {number}: byte {line[error.start]:#04x} is not UTF-8; convert it, such as by "
                "iconv --from-code=LATIN1"
            ) from None
    return [line for line in lines if line]


@contextlib.contextmanager
def without_native_logs() -> Iterator[None]:
    """Drop the information and the warnings that C++ libraries log to standard error; pass on all other lines.

    For libraries, such as ScaNN, that have no setting for them.
    """
    try:
        saved = os.dup(2)
    except OSError:  # closed
        yield
        return
    sys.stderr.flush()
    end, start = os.pipe()
    os.dup2(start, 2)
    os.close(start)
    reader = threading.Thread(target=_pass_on, args=(end, os.dup(saved)), daemon=True)
    reader.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        reader.join(timeout=1)  # it ends later if another thread has started a process meanwhile


def _pass_on(end: int, target: int) -> None:
    """Copy the lines of the pipe `end` to `target`, but for those of a log."""
    with open(end, "rb") as lines, open(target, "wb", buffering=0) as out:
        for line in lines:
            if not _NATIVE_LOG.match(line):
                with contextlib.suppress(OSError):
                    out.write(line)
