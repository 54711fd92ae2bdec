"""Preparation: `dense-jax prepare` against Hugging Face's `datasets.map`, with the same fast tokenizer and documents.

    python benchmarks/prepare.py --config=configs/ict.py:tiny --workdir=runs/ict

The workdir is one that `dense-jax prepare` has filled: its tokenizer is used, and each program prepares its corpus once
more, into temporary folders and without a test set. Settings are overridden by --key=value as everywhere. `datasets`
reads the documents as JSON lines and writes their token ids to Arrow files; ours also checks rows, splits sentences and
writes passages with their texts. Prints a Markdown table and one JSON line a row; README.md in this folder explains the
columns.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import report
from machine import provenance, set_up
from timing import Program, Timing, interleaved, ratio

from dense_jax.config import Config, command_line
from dense_jax.data.preparation.fill import UsableDocuments
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.types import Document
from dense_jax.workdir import Workdir


def main() -> None:
    asked, rest = _parser().parse_known_args()
    here = set_up(asked.threads, "auto")
    invocation = command_line.parse(rest)
    work = Workdir(invocation.workdir, invocation.config)
    config = _with_tokenizer(work.config, work.path / "tokenizer")
    documents = list(UsableDocuments(open_corpus(config.corpus), {}))
    size = sum(len(f"{document.title}{document.text}".encode()) for document in documents)
    with tempfile.TemporaryDirectory() as folder:
        programs = [
            Program("dense-jax prepare", _prepare(config, Path(folder) / "ours"), lambda: None),
            *_maps(documents, work.path / "tokenizer", Path(folder) / "theirs"),
        ]
        timings = interleaved(programs, asked.steps, warm_up=1)
    rows = [
        _row(program.name, timing, timings[0], len(documents), size)
        for program, timing in zip(programs, timings, strict=True)
    ]
    title = f"Preparation of {len(documents):,} documents, {size / 1e6:.3g} MB of text"
    report.publish(f"{title}, {here}", rows, vars(asked) | provenance(here))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter, allow_abbrev=False)
    made.add_argument("--steps", type=arguments.at_least(2), default=4, help="timed turns of each program")
    made.add_argument("--threads", type=arguments.at_least(0), default=1, help="cores to use; 0: all")
    return made


def _with_tokenizer(config: Config, folder: Path) -> Config:
    """`config` with the tokenizer of a workdir, so that none is trained, and without a test set."""
    corpus, passages = replace(config.corpus, held_out=0), replace(config.passages, workdir="")
    tokenizer = replace(config.tokenizer, path=str(folder))
    return replace(config, corpus=corpus, passages=passages, tokenizer=tokenizer)


def _prepare(config: Config, folder: Path) -> Callable[[int], Any]:
    count = itertools.count()
    return lambda i: prepare(config, folder / str(next(count)))["tokens"]


def _maps(documents: Sequence[Document], tokenizer: Path, folder: Path) -> list[Program]:
    """`datasets.map` on a thousand documents at a time, its default, and on each alone."""
    import datasets  # slow to import
    import transformers

    datasets.disable_progress_bars()
    folder.mkdir()
    file, count = folder / "documents.jsonl", itertools.count()
    lines = (json.dumps({"id": one.id, "text": f"{one.title} {one.text}"}) for one in documents)
    file.write_text("\n".join(lines))
    fast = transformers.AutoTokenizer.from_pretrained(tokenizer)

    def step(batched: bool) -> int:
        cache = str(folder / str(next(count)))
        rows: Any = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        encode = lambda row: fast(row["text"], add_special_tokens=False, verbose=False)  # noqa: E731
        return len(rows.map(encode, batched=batched, remove_columns=["text"], load_from_cache_file=False))

    return [
        Program("datasets.map, batched", lambda i: step(True), lambda: None),
        Program("datasets.map", lambda i: step(False), lambda: None),
    ]


def _row(name: str, timing: Timing, ours: Timing, documents: int, size: int) -> report.Row:
    wall, cpu = (float(np.median(seconds)) for seconds in (timing.wall, timing.cpu))
    return {
        "program": name,
        "s": wall,
        "CPU s": cpu,
        "documents/s": documents / wall,
        "MB/CPU s": size / 1e6 / cpu,
        "time / ours": ratio(timing.wall, ours.wall),
        "CPU / ours": ratio(timing.cpu, ours.cpu),
        "drift": timing.drift,
    }


if __name__ == "__main__":
    arguments.run(main)
