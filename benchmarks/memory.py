"""Peak memory and time of each verb on short documents, each in a process of its own.

    python benchmarks/memory.py                             20,000 and 200,000 documents: a quarter of an hour
    python benchmarks/memory.py --documents 20000 1000000
    python benchmarks/memory.py --pairs 100000 1000000      preparing pairs of texts, and training on them

The documents have 12 to 20 words of a vocabulary of 5,000, and 200 queries for training and as many for the test are
judged. The model is tiny, so that what grows is what a verb holds of the documents: the cost of a document is the
difference of the peaks over that of the numbers of documents, from one size to the next. A pair is a query of 4 to 8
words and a text of such a document. It is resident memory, with the pages of mapped files, of the largest process.
Prints a Markdown table and one JSON line a row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import report
from machine import provenance, set_up

from dense_jax.errors import MachineError

ROOT = Path(__file__).parents[1]
QUERIES = 200
_WORDS = 5_000
_SETTINGS = {
    "corpus.held_out": 0,
    "tokenizer.vocab_size": 6_000,
    "objective.encoder.bert.layers": 1,
    "objective.encoder.bert.width": 32,
    "objective.encoder.bert.feed_forward": 32,
    "steps": 1,
    "batch": 64,
    "embed.split": "false",
}


def main() -> None:
    asked = _parser().parse_args()
    here = set_up(0, "auto")
    with tempfile.TemporaryDirectory(dir=asked.folder or None) as folder:
        kind = "pairs" if asked.pairs else "documents"
        sizes = [Path(folder) / str(count) for count in sorted(asked.pairs or asked.documents)]
        rows = report.kept(row for path in sizes for row in _rows(path, kind))
    title = f"Peak memory by {kind}, on {here.threads} threads of {here.device}"
    report.publish(title, with_costs(rows, kind), provenance(here))


def with_costs(rows: Sequence[report.Row], kind: str) -> list[report.Row]:
    """`rows` with the bytes that a document or pair more costs, from the next smaller number of them to theirs.

    >>> [row.get("B a pair") for row in with_costs([{"verb": "train", "pairs": 10, "peak MB": 1.0},
    ...                                             {"verb": "train", "pairs": 20, "peak MB": 1.5}], "pairs")]
    [None, 50000.0]
    """
    before: dict[str, report.Row] = {}
    found = []
    for row in rows:
        if smaller := before.get(row["verb"]):
            more = (row["peak MB"] - smaller["peak MB"]) * 1e6
            row = row | {f"B a {kind.removesuffix('s')}": more / (row[kind] - smaller[kind])}
        before[row["verb"]] = row
        found.append(row)
    return found


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter)
    sizes = arguments.at_least(2 * QUERIES)
    made.add_argument("--documents", type=sizes, nargs="+", default=[20_000, 200_000], help="one or more numbers")
    made.add_argument("--pairs", type=sizes, nargs="+", help="one or more numbers, in place of the documents")
    made.add_argument("--folder", default="", help="for temporary files, a kilobyte a document; empty: the system's")
    return made


def _rows(folder: Path, kind: str) -> Iterator[report.Row]:
    count = int(folder.name)
    write, commands = (_write_pairs, _pair_commands) if kind == "pairs" else (_write, _commands)
    write(folder / "corpus", count)
    for name, config, verb, more in commands(folder):
        peak, seconds = _measured(config, folder, verb, more)
        if name:
            yield {"verb": name, kind: count, "peak MB": peak / 1e6, "s": seconds}


def _pair_commands(folder: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """As `_commands`."""
    source = [f"--corpus.source={folder / 'corpus' / 'pairs.jsonl'}", "--chunk=0", "--steps=20"]
    yield "prepare, pairs", "pairs", "prepare", source
    yield "train, pairs", "pairs", "train", source


def _commands(folder: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """The name of a row (empty: no row), the config, the verb and what follows its settings."""
    yield "prepare, passages", "ict", "prepare", []
    yield "prepare, queries", "finetune_dpr", "prepare", []
    yield "", "finetune_dpr", "train", []
    for verb in ("embed", "index", "search", "mine", "evaluate"):
        more = {"search": ["--", "w1 w2"], "evaluate": [f"--evaluate.folder={folder / 'corpus'}"]}
        yield verb, "finetune_dpr", verb, more.get(verb, [])


def _measured(config: str, folder: Path, verb: str, more: Sequence[str]) -> tuple[float, float]:
    """Bytes at the peak, and seconds.

    Raises:
        MachineError: the command failed.
    """
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    places = [f"--config={ROOT}/configs/{config}.py:tiny", f"--workdir={folder / config}"]
    source = [f"--corpus.source={folder / 'corpus'}"]
    command = [sys.executable, "-m", "dense_jax", verb, *places, *source, *settings, *more]
    log, began = folder / f"{verb}.log", time.monotonic()
    with log.open("w") as file:
        running = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(running.pid, 0)
    if status:
        raise MachineError(f"{verb} ended with status {os.waitstatus_to_exitcode(status)}:\n{log.read_text()[-2_000:]}")
    return used.ru_maxrss * 1024.0, time.monotonic() - began


def _write_pairs(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "pairs.jsonl").open("w") as file:
        for i in range(count):
            words = [f"w{word}" for word in rng.zipf(1.3, rng.integers(12, 21)) % _WORDS]
            file.write(_line(query=f"{i} {' '.join(words[:7])}", positive=f"{i} {' '.join(words)}."))


def _write(folder: Path, count: int) -> None:
    """A BEIR folder; each query is the start of its relevant document."""
    (folder / "qrels").mkdir(parents=True)
    rng, texts = np.random.default_rng(0), []
    with (folder / "corpus.jsonl").open("w") as file:
        for i in range(count):
            words = [f"w{word}" for word in rng.zipf(1.3, rng.integers(12, 21)) % _WORDS]
            texts += [" ".join(words[:6])] if i < 2 * QUERIES else []
            file.write(_line(_id=f"doc-{i:08}", title=" ".join(words[:3]), text=f"{' '.join(words)}."))
    (folder / "queries.jsonl").write_text("".join(_line(_id=f"q{i}", text=text) for i, text in enumerate(texts)))
    for split, numbers in (("train", range(QUERIES)), ("test", range(QUERIES, 2 * QUERIES))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\tdoc-{i:08}\t1" for i in numbers)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def _line(**values: Any) -> str:
    return json.dumps(values) + "\n"


if __name__ == "__main__":
    arguments.run(main)
