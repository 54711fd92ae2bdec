"""Real processes that form one cluster on this machine and do tasks together.

A task is a function on a folder, by its name: "tests.search_together.probe". Several tasks share one start, which takes
seconds for each process; only what ends its processes needs a start of its own. Together they have four CPU devices.
"""

import contextlib
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import jax

from dense_jax.processes.distributed import COORDINATES, start_distributed

ROOT = Path(__file__).parent.parent
DEVICES = 4  # of all processes
HEARTBEAT = 20  # seconds


class Ended(NamedTuple):
    """Exit status and standard error of a process."""

    status: int
    error: str


class Processes:
    """Some processes, from their start to `end`."""

    def __init__(self, count: int) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self._errors = [tempfile.TemporaryFile("w+") for _ in range(count)]  # noqa: SIM115  closed in _ended
        self._running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.processes", *map(str, (number, count, port))],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=error,
                text=True,
            )
            for number, error in enumerate(self._errors)
        ]

    def do(self, task: str, folder: Path, *arguments: str) -> list[str]:
        """Return the standard output of each process that did `task` in `folder`."""
        self._send(task, folder, *arguments)
        lines = [one.stdout.readline() for one in self._running]
        if not all(lines):
            raise AssertionError(f"{task} ended its processes: {self.end()}")
        replies = [json.loads(line) for line in lines]
        errors = [reply["error"] for reply in replies]
        assert not any(errors), "\n".join(errors)
        return [reply["out"] for reply in replies]

    def end_with(self, task: str, folder: Path, *arguments: str) -> list[Ended]:
        """Return how each process ended that was given `task` as its last one."""
        self._send(task, folder, *arguments)
        return self.end()

    def end(self) -> list[Ended]:
        """Return how each process ended, now that there are no more tasks."""
        for one in self._running:  # of all before the wait: the first to end waits for the others
            with contextlib.suppress(BrokenPipeError):
                one.stdin.close()
        return [self._ended(one, error) for one, error in zip(self._running, self._errors, strict=True)]

    def _ended(self, one: subprocess.Popen[str], error: IO[str]) -> Ended:
        with one.stdout, error:
            one.wait(timeout=800)
            error.seek(0)
            return Ended(one.returncode, error.read())

    def _send(self, task: str, folder: Path, *arguments: str) -> None:
        for one in self._running:
            one.stdin.write(json.dumps([task, str(folder), *arguments]) + "\n")
            one.stdin.flush()


def do_tasks(tasks: IO[str], replies: IO[str]) -> None:
    """Do each task of a line, and reply with its output and error in a line."""
    for line in tasks:
        task, folder, *arguments = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            error = error_of(function_of(task), Path(folder), *arguments)
        replies.write(json.dumps({"out": out.getvalue(), "error": error}) + "\n")
        replies.flush()


def function_of(task: str) -> Callable[..., None]:
    module, _, name = task.rpartition(".")
    return getattr(importlib.import_module(module), name)


def error_of(function: Callable[..., None], *arguments: Path | str) -> str:
    """The traceback of a call that fails."""
    try:
        function(*arguments)
    except Exception:
        return traceback.format_exc()
    return ""


def main(number: str, count: str, port: str) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Gloo prints too
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // int(count))
    jax.config.update("jax_default_matmul_precision", "highest")
    by_hand = dict(zip(COORDINATES, (f"localhost:{port}", count, number), strict=True))
    start_distributed(by_hand, polls=True, heartbeat=HEARTBEAT)
    do_tasks(sys.stdin, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
