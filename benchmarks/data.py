"""Speed of the input pipeline, compared with that of training.

    python benchmarks/data.py --config=configs/ict.py:tiny --workdir=runs/ict

The workdir is one that `dense-jax prepare` has filled; settings are overridden by --key=value as everywhere.
Prints a Markdown table and one JSON line a row; README.md in this folder explains the columns. Exits with an
error if the whole pipeline is not at least three times as fast as the training of that config.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import arguments
import numpy as np
import report
from machine import Machine, provenance, set_up
from timing import Program, Timing, interleaved, ratio
from train import Ours

from dense_jax.config import command_line
from dense_jax.data.pipeline import Examples, host_batches, real_tokens
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.errors import MachineError
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.objective import Objective
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.types import Passage, Vocabulary
from dense_jax.workdir import Workdir

ENOUGH = 3.0  # times as fast as the trainer, so that it never waits
PIPELINE, TRAINER = "whole pipeline", "training"


def main() -> None:
    asked, rest = _parser().parse_known_args()
    here = set_up(asked.threads, "auto")
    invocation = command_line.parse(rest)
    work = Workdir(invocation.workdir, invocation.config)
    programs = [*_stages(work, asked.passages), _pipeline(work, asked.batches), _training(work)]
    timings = interleaved(programs, asked.steps, warm_up=2)
    rows = [_row(program.name, timing, timings[-1], here) for program, timing in zip(programs, timings, strict=True)]
    title = f"Examples of {type(work.config.objective).__name__}, batch {work.config.batch}"
    report.publish(f"{title}, {here}", rows, vars(asked) | provenance(here))
    check_fast_enough(next(row["rate / training"].value for row in rows if row["stage"] == PIPELINE))


def check_fast_enough(times: float) -> None:
    """Raises MachineError if the pipeline is less than ENOUGH times as fast as the trainer."""
    if times < ENOUGH:
        raise MachineError(
            f"the pipeline is only {times:.2f} times as fast as training, which may wait for it; it should be "
            f"{ENOUGH:g} times as fast: use more --loader.workers"
        )


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter, allow_abbrev=False)
    made.add_argument("--passages", type=arguments.at_least(1), default=2_000, help="that a step of a stage works on")
    made.add_argument("--batches", type=arguments.at_least(1), default=16, help="that a step of the pipeline makes")
    made.add_argument("--steps", type=arguments.at_least(2), default=10, help="timed turns of each stage")
    made.add_argument("--threads", type=arguments.at_least(0), default=0, help="cores to use; 0: all")
    return made


def _stages(work: Workdir, count: int) -> list[Program]:
    """Each stage alone, on what the stage before it has left in memory."""
    store, tokenizer = work.passages, work.tokenizer
    assert isinstance(store, PassageStore)
    rows = np.random.default_rng(0).permutation(len(store))[:count].tolist()
    passages = store.passages(rows)
    texts = [store.document(row).text for row in rows]
    length, encoder = work.config.passages.length, Encoder(bert("tiny"))  # the model does not matter to examples
    methods = {"mlm": MLM(encoder, passage_length=length), "ict": ICT(encoder, passage_length=length)}
    return [
        _stage("tokenise", lambda i: sum(map(len, tokenizer.encode(texts)))),
        _stage("read, many at once", lambda i: _stored_tokens(store.passages(rows))),
        _stage("read, one by one", lambda i: _stored_tokens(store[row] for row in rows)),
        *(
            _stage(f"examples of {name}", lambda i, method=method: _made(method, passages, tokenizer.vocabulary, i))
            for name, method in methods.items()
        ),
    ]


def _pipeline(work: Workdir, count: int) -> Program:
    """Batches as training reads them, before they are copied to the device."""
    examples = _examples(work, count)
    batch = work.config.batch
    return _stage(PIPELINE, lambda i: sum(real_tokens(made.inputs) for made in host_batches(examples, batch, start=0)))


def _training(work: Workdir) -> Program:
    """The steps of `work` on two batches, which are ready on the device."""
    batches = [made.inputs for made in host_batches(_examples(work, 2), work.config.batch, start=0)]
    tokens = [real_tokens(batch) for batch in batches]
    ours = Ours(work.config, batches)

    def step(i: int) -> int:
        ours.step(i)
        return tokens[i % len(tokens)]

    return Program(TRAINER, step, ours.wait)


def _examples(work: Workdir, batches: int) -> Examples:
    config = work.config
    loader = replace(config.loader, workers=0)  # CPU-seconds of other processes would not be counted
    length = batches * config.batch
    return Examples(
        work.passages, config.objective, work.tokenizer.vocabulary, loader, config.seed, length, config.batch
    )


def _row(name: str, timing: Timing, trainer: Timing, here: Machine) -> report.Row:
    """The rate of a stage, and how many times the trainer's it is: in CPU-seconds where both share a CPU."""
    clock = "cpu" if here.platform == "cpu" else "wall"
    of_trainer, of_stage = (getattr(t, clock) / np.mean(t.outputs) for t in (trainer, timing))
    return {
        "stage": name,
        "tokens/CPU s": float(np.mean(timing.outputs) / np.median(timing.cpu)),
        "tokens/s": float(np.mean(timing.outputs) / np.median(timing.wall)),
        "rate / training": ratio(of_trainer, of_stage),
        "drift": timing.drift,
    }


def _stage(name: str, step: Callable[[int], int]) -> Program:
    """A stage whose step returns how many tokens it has worked on, all done."""
    return Program(name, step, lambda: None)


def _stored_tokens(passages: Iterable[Passage]) -> int:
    return sum(len(passage.title) + len(passage.tokens) for passage in passages)


def _made(method: Objective, passages: Sequence[Passage], vocabulary: Vocabulary, seed: int) -> int:
    """Tokens of the examples that `method` makes of `passages`; it may skip some."""
    rng = np.random.default_rng(seed)
    examples = (method.example(passage, vocabulary, rng) for passage in passages)
    return sum(real_tokens(example) for example in examples if example is not None)


if __name__ == "__main__":
    arguments.run(main)
