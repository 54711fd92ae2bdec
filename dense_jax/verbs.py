"""The verbs of the command line: a stage of `Run`, the processes that it takes, and its result printed."""

import contextlib
import functools
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from dense_jax.augmented import question_answering
from dense_jax.averages import average
from dense_jax.compare import PAGE, compare
from dense_jax.config.command_line import Averaging, Comparison, Invocation
from dense_jax.errors import ConfigError
from dense_jax.io import writable
from dense_jax.processes.distributed import (
    check_single_process,
    exit_on_failure,
    explain_missing_platform,
    join_if_distributed,
    start_distributed,
)
from dense_jax.processes.multihost import is_process_0, on_process_0
from dense_jax.processes.signals import StopSignals
from dense_jax.remote.upload import Upload, check_access, check_model_name
from dense_jax.retrieval import search
from dense_jax.run import Run
from dense_jax.terminal.next_command import next_command
from dense_jax.terminal.streams import input_lines


def _train(run: Run, words: list[str], *, stop: StopSignals, restart: bool = False) -> None:
    def join() -> None:
        start_distributed(os.environ, polls=True)
        stop.deferred = True  # until a step is done and saved

    trained = run.train(restart=restart, join=join, stop_requested=lambda: stop.came)
    if is_process_0():
        _print(trained)


def _embed(run: Run, words: list[str]) -> None:
    vectors = run.embed()
    kind = "int8 vectors" if vectors.ranges else "vectors"
    print(f"{len(vectors):,} {kind} of width {vectors.width} in {vectors.folder}")


def _search(run: Run, words: list[str], *, hybrid: bool = False) -> None:
    queries, columns = _typed(words), shutil.get_terminal_size().columns
    for query, hits in zip(queries, run.search(queries, hybrid=hybrid), strict=True):
        print(search.render_hits(query, hits, columns), end="\n\n")


def _export(run: Run, words: list[str], *, push: str = "", yes: bool = False, public: bool = False) -> None:
    """The folder and, with `push`, its files for a model of the Hub; with `yes` too they are uploaded."""
    if push:
        check_model_name(push)
    if yes:
        check_access(push, public=public)
    exported = run.export()
    _print(exported)
    if push:
        upload = Upload(exported.folder, push, public)
        print(upload)
        print(f"uploaded: {upload.send()}" if yes else "nothing was uploaded; give the command again with --yes")


def _answer(run: Run, words: list[str]) -> None:
    """The questions of the command line, answered; or those of answer.questions, answered and scored."""
    file = run.config.answer.questions
    if words and file:
        raise ConfigError(f"answer got {' '.join(words)} and answer.questions={file}; give one of them")
    if file:
        found, folder = run.score_answers()
        print(f"{found.table()}\nall answers are in {folder}")
        return
    questions, columns = _typed(words), shutil.get_terminal_size().columns
    for question, answer in zip(questions, run.answer(questions), strict=True):
        print(question_answering.render_answer(question, answer, columns), end="\n\n")


def _typed(words: list[str]) -> list[str]:
    """The queries of the command line, or else those of standard input."""
    queries = words or on_process_0(input_lines)
    if not queries or not all(map(str.strip, queries)):
        raise ConfigError(
            "an empty query, or no query at all; give them as arguments, in quotes, or as lines on standard input"
        )
    return queries


VERBS: dict[str, Callable[..., None]] = {
    "show": lambda run, words, full=False: _print(run.show(full=full)),
    "prepare": lambda run, words: _print(run.prepare()),
    "train": _train,
    "refresh": lambda run, words: run.refresh(),
    "embed": _embed,
    "index": lambda run, words: _print(run.index().summary),
    "search": _search,
    "answer": _answer,
    "mine": lambda run, words: _print(run.mine()),
    "filter": lambda run, words: _print(run.filter()),
    "evaluate": lambda run, words: _print(run.evaluate()),
    "export": _export,
    "report": lambda run, words: _print(run.report()),
}

_TOGETHER = frozenset({"refresh", "embed", "index", "search", "answer", "mine", "filter", "evaluate"})


def call(verb: str, line: Invocation | Comparison | Averaging, stop: StopSignals) -> None:
    """Run `verb` with its command line; `stop` holds the signals that arrive meanwhile.

    Raises:
        UserError: whatever is wrong, with its exit status.
    """
    if isinstance(line, Comparison):
        folder = writable(line.workdir)
        print(f"{compare(line.folders, line.against, folder)}\n\nwith charts in one page: {folder / PAGE}")
        return
    if isinstance(line, Averaging):
        check_single_process(verb, os.environ)
        with explain_missing_platform(os.environ):
            print(average(line.models, line.workdir, weights=line.weights, last=line.last))
        return
    stages = VERBS | {
        "show": functools.partial(VERBS["show"], full=line.full),
        "train": functools.partial(_train, stop=stop, restart=line.restart),
        "search": functools.partial(_search, hybrid=line.hybrid),
        "export": functools.partial(_export, push=line.push, yes=line.yes, public=line.public),
    }
    with exit_on_failure(verb, polls=verb == "train"), explain_missing_platform(os.environ):
        if line.topology:
            print(_open_run(line).plan(line.topology, traffic=line.traffic))
            return
        if verb in _TOGETHER:
            join_if_distributed(os.environ)
        elif verb != "train":
            check_single_process(verb, os.environ)
        run = _open_run(line)
        with _only_the_first_speaks() if verb in _TOGETHER else contextlib.nullcontext():
            stages[verb](run, line.words)
        if is_process_0() and (following := next_command(verb, run.path, run.config, run.out)):
            print(f"next: {following}", file=sys.stderr)


def _print(result: Any) -> None:
    """Print a result, as a table where it is one and a terminal is there."""
    if sys.stdout.isatty() and hasattr(result, "__rich__"):
        from rich.console import Console

        Console(highlight=False).print(result, soft_wrap=True)
    else:
        print(result)


def _open_run(line: Invocation) -> Run:
    return Run(line.workdir, line.loaded, out=line.out)


@contextlib.contextmanager
def _only_the_first_speaks() -> Iterator[None]:
    """All processes compute the same results; only the first one prints them, the others print errors."""
    with contextlib.nullcontext() if is_process_0() else contextlib.redirect_stdout(io.StringIO()):
        yield
