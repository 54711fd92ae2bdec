"""The command line as a user types it, on a corpus and a model so small that a start takes seconds."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "corpus.held_out": 0,
    "tokenizer.vocab_size": 120,
    "objective.encoder.bert.layers": 1,
    "objective.encoder.bert.width": 16,
    "objective.encoder.bert.feed_forward": 32,
    "batch": 8,
    "steps": 6,
    "optimizer.warmup_share": 0.1,
    "checkpoint.every": 2,
    "log_every": 1,
}


def write_corpus(path: Path, seed: int = 0) -> Path:
    """Sixty documents of five sentences."""
    rng, words = random.Random(seed), ["river", "bridge", "market", "forest", "poem", "harbour", "engine", "violin"]
    with path.open("w", encoding="utf-8") as file:
        for i in range(60):
            said = " ".join(
                f"The {rng.choice(words)} {rng.randrange(999)} met the {rng.choice(words)}." for _ in range(5)
            )
            file.write(json.dumps({"_id": f"d{i}", "title": f"number {i}", "text": said}) + "\n")
    return path


def arguments(corpus: Path | str, workdir: Path, *more: str) -> list[str]:
    flags = [f"--{key}={value}" for key, value in {"corpus.source": corpus, **SMALL}.items()]
    return [f"--config={ROOT / 'configs' / 'ict.py'}:tiny", f"--workdir={workdir}", *flags, *more]


def start(
    verb: str, *argv: str, largest_file: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """A process of the command line, which may write no file of more than `largest_file` KiB; 0: of any size.

    `environment` is added to that of this process.
    """
    environment = {**os.environ, **(environment or {})}
    limited = []
    if largest_file:
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # its files are not on trial
        limited = ["bash", "-c", f'ulimit -f {largest_file}; exec "$@"', "bash"]
    return subprocess.Popen(
        [*limited, sys.executable, "-m", "dense_jax", verb, *argv],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(verb: str, *argv: str, largest_file: int = 0) -> tuple[int, str]:
    """The exit status of a command, and what it said on standard error."""
    running = start(verb, *argv, largest_file=largest_file)
    _, said = running.communicate(timeout=400)
    return running.returncode, said
