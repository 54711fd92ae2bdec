"""Command-line arguments of train.py and encode.py, and the exit of every script."""

import argparse
import importlib.util
import math
import sys
import time
from collections.abc import Callable

from dense_jax.errors import UserError
from dense_jax.models.bert import SIZES


def parser(description: str | None) -> argparse.ArgumentParser:
    """Model, shapes, length of the measurement, peers, threads; the defaults take minutes on two CPU cores."""
    made = argparse.ArgumentParser(description=description, formatter_class=Formatter)
    made.add_argument("--size", choices=SIZES, default="mini", help="BERT")
    made.add_argument("--seq", type=at_least(8), default=128, help="tokens of a row")
    made.add_argument("--batch", type=at_least(1), default=32, help="rows")
    made.add_argument("--steps", type=at_least(2), default=20, help="timed turns of each program; a turn is a step, "
                      "or as many as fill a quarter of a second")  # fmt: skip
    made.add_argument("--warmup", type=at_least(1), default=10, help="steps before that, whose results are compared")
    made.add_argument("--peer", choices=("none", "default", "tuned", "both"), default="both", help="PyTorch programs")
    made.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of products; auto: "
                      "float32 on a CPU, else bfloat16")  # fmt: skip
    made.add_argument("--threads", type=at_least(0), default=0, help="cores to use; 0: all")
    add_seconds(made)
    return made


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """--seconds, for a machine that is lent for a time."""
    parser.add_argument("--seconds", type=at_least(0), default=0, help="since the start, after which no turn begins "
                        "but the first two; 0: no limit")  # fmt: skip


def deadline(seconds: int) -> float:
    """When --seconds are over, by `time.perf_counter`; to be called at the start."""
    return time.perf_counter() + seconds if seconds else math.inf


def at_least(smallest: int) -> Callable[[str], int]:
    """For argparse: a whole number that is not smaller."""

    def parse(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(f"{number} is less than {smallest}")
        return number

    return parse


def peer_kinds(asked: str) -> list[str]:
    """The peers that --peer names; none, with a note, where PyTorch is not installed.

    >>> peer_kinds("none")
    []
    """
    kinds = {"both": ["default", "tuned"], "none": []}.get(asked, [asked])
    if kinds and importlib.util.find_spec("torch") is None:
        print("torch is not installed: our own rows only; `pip install torch` for the others", file=sys.stderr)
        return []
    return kinds


def run(main: Callable[[], None]) -> None:
    """Runs a script; an error that explains itself is printed without a traceback."""
    try:
        main()
    except UserError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(error.code)


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and the defaults."""
