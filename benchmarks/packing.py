"""Training steps of a config whose texts are padded, or packed into rows that several share.

    python benchmarks/packing.py --config=finetune_dpr:tiny --workdir=runs/dpr
    python benchmarks/packing.py --config=finetune_dpr:tiny --workdir=runs/dpr --packing 0.5 0.75

The workdir is one that `dense-jax prepare` has filled: the lengths are those of its texts. Settings are overridden by
--key=value as everywhere; a model with dropout needs --objective.encoder.bert.dropout=0 and the same of
attention_dropout. All programs train on the same examples and must have the same losses. Prints a Markdown table and
one JSON line a row; README.md in this folder explains the columns.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import arguments
import jax
import numpy as np
import report
from machine import provenance, set_up
from timing import Program, interleaved
from train import BATCHES, SAME_LOSS, Ours, check_same_losses

from dense_jax.arrays import Batch
from dense_jax.config import Config, command_line
from dense_jax.data.pipeline import collate, host_batches, real_tokens
from dense_jax.errors import ConfigError
from dense_jax.mesh import make_mesh
from dense_jax.objective import HostBatch
from dense_jax.objectives.dual_encoder import DualEncoder
from dense_jax.types import PackedTokens, Tokens
from dense_jax.workdir import Workdir

STEP = 1 / 32  # between the shares that are tried


def main() -> None:
    asked, rest = _parser().parse_known_args()
    here = set_up(asked.threads, "auto")
    invocation = command_line.parse(rest)
    work = Workdir(invocation.workdir, invocation.config)
    config = work.config
    examples = work.examples_of(config, BATCHES * config.batch)
    made = list(host_batches(examples, config.batch, start=0))
    shares = [*(asked.packing or [_tightest(config, made)]), 1.0]
    trained = [_trained(config, made, share) for share in shares]
    names = [f"packed, {share:g}" if share < 1 else "padded" for share in shares]
    programs = [Program(name, ours.step, ours.wait) for name, ours in zip(names, trained, strict=True)]
    timings = interleaved(programs, asked.steps, asked.warmup)
    losses = [[float(loss) for loss in timing.outputs] for timing in timings]
    check_same_losses(names, losses, SAME_LOSS[here.dtype])
    tokens = sum(real_tokens(batch.inputs) for batch in made) // BATCHES
    rows = [
        report.speed(name, timing, timings[0], tokens=tokens)
        | {"fill": tokens * BATCHES / sum(map(_room, ours.batches)), "loss": of_program[-1]}
        for name, timing, ours, of_program in zip(names, timings, trained, losses, strict=True)
    ]
    title = f"Training step of {type(config.objective).__name__}, batch {config.batch}"
    report.publish(f"{title}, {here}", rows, vars(asked) | provenance(here))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter, allow_abbrev=False)
    made.add_argument("--packing", type=float, nargs="*", help="shares; by default the smallest that cuts no token")
    made.add_argument("--steps", type=arguments.at_least(2), default=20, help="timed turns of each program")
    made.add_argument("--warmup", type=arguments.at_least(1), default=10, help="steps before that")
    made.add_argument("--threads", type=arguments.at_least(0), default=0, help="cores to use; 0: all")
    return made


def _trained(config: Config, made: Sequence[HostBatch], share: float) -> Ours:
    packed = _packed(config, share)
    return Ours(packed, _collated(packed, made))


def _packed(config: Config, share: float) -> Config:
    objective = config.objective
    assert isinstance(objective, DualEncoder)
    return replace(config, objective=replace(objective, packing=share))


def _collated(config: Config, made: Sequence[HostBatch]) -> list[Batch]:
    return [collate(config.objective, batch, config.batch, make_mesh(config.mesh)) for batch in made]


def _tightest(config: Config, made: Sequence[HostBatch]) -> float:
    """
    Raises:
        ConfigError: the texts fill their lengths.
    """
    padded = sum(_room(batch.inputs) for batch in made)
    fill = sum(real_tokens(batch.inputs) for batch in made) / padded
    for share in np.arange(STEP * np.ceil(fill / STEP), 1, STEP).tolist():
        texts = [text for batch in _collated(_packed(config, share), made) for text in _texts(batch)]
        if not any(text.cut.any() for text in texts if isinstance(text, PackedTokens)):
            return share
    raise ConfigError("the texts fill their lengths, and packing them saves nothing; name a --packing yourself")


def _room(batch: Batch) -> int:
    """Tokens of a batch, padding counted."""
    return sum(text.mask.size for text in _texts(batch))


def _texts(batch: Batch) -> Iterator[Tokens | PackedTokens]:
    is_text = lambda node: isinstance(node, Tokens | PackedTokens)  # noqa: E731
    return (leaf for leaf in jax.tree.leaves(batch, is_leaf=is_text) if is_text(leaf))


if __name__ == "__main__":
    arguments.run(main)
