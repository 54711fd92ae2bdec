"""The console script: `dense-jax VERB --config NAME[:variant] --workdir DIR [--key value ...]`."""

import importlib.metadata
import os
import signal
import sys
from collections.abc import Sequence
from logging import CRITICAL, getLogger

from dense_jax.errors import Stopped, StorageError, UserError
from dense_jax.processes.signals import StopSignals, stop_on_signals
from dense_jax.terminal.streams import FULL, close_output, open_streams

# The environment in which libtpu compiles while other processes run, on a machine without TPUs or with TPUs that are at
# work. The last three keep it from asking a metadata server what it runs on.
COMPILER_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
}
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}  # errors only: of XLA and of what else logs as TensorFlow does
_HELP = ("help", "--help", "-h")


def main() -> None:
    """The console script."""
    open_streams()
    if any(arg.startswith("--topology") for arg in sys.argv):
        os.environ.update(COMPILER_ONLY)  # here, since JAX reads them when it is imported
    os.environ.update(_QUIET | os.environ)
    silence_background_writes()
    status = run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python shuts down prints no traceback
    sys.exit(status)


def silence_background_writes() -> None:
    """Silence the errors that follow a failed write of a checkpoint; the first one is raised."""
    getLogger("asyncio").setLevel(CRITICAL)
    show = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == "Event loop is closed" else show(found)


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit status. A `UserError` is printed, not raised."""
    name = f"dense-jax {argv[0]}" if argv else "dense-jax"
    try:
        with stop_on_signals() as stop:
            stop.at_once = True  # while modules are imported, some of which print a traceback of what is raised then
            return _run(argv, name, stop)
    except Stopped as error:  # the signal came after the work
        return _failed(f"{name}: {error}", error.code)


def _run(argv: Sequence[str], name: str, stop: StopSignals) -> int:
    try:
        _call(argv, stop)
        sys.stdout.flush()
    except Exception as error:
        if isinstance(error, Stopped) or stop.raised:  # else a library has made another error of it
            return _failed(f"{name}: {error if isinstance(error, Stopped) else stop.error()}", stop.code)
        if isinstance(error, UserError):
            return _failed(f"{name}: {error}", error.code)
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has seen enough
            close_output()
        elif isinstance(error, OSError) and error.errno in FULL:
            close_output()
            advice = "the disk or the device of the output takes no more; make room and start again"
            return _failed(f"{name}: {error.strerror}: {advice}", StorageError.code)
        else:
            raise
    return 0


def _call(argv: Sequence[str], stop: StopSignals) -> None:
    """Run the verb of a command line. Mistakes of its flags are reported before JAX is imported."""
    from dense_jax.config import command_line  # here, where Ctrl-C is handled

    verb, *rest = argv or ("--help",)
    if verb == "--version":
        print(f"dense-jax {importlib.metadata.version('dense_jax')}")
    elif verb in _HELP:
        from dense_jax.config.help import usage

        print(usage())
    elif {"--help", "-h"}.intersection(rest[: rest.index("--")] if "--" in rest else rest):
        from dense_jax.config.help import print_settings

        command_line.check_verb(verb)
        print_settings(verb, command_line.config_for_help(rest))
    else:
        command_line.check_verb(verb)
        parsers = {"compare": command_line.parse_comparison, "average": command_line.parse_average}
        line = parsers[verb](rest) if verb in parsers else command_line.parse(rest, verb)
        if verb == "train":
            print("loading, then compiling the training step; its first line follows", file=sys.stderr, flush=True)
        from absl import logging

        from dense_jax import verbs

        logging.set_verbosity(logging.FATAL)  # the verbs print what a user must know; Orbax logs what it raises
        stop.at_once = False
        verbs.call(verb, line, stop)


def _failed(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
