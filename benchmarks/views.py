"""Training steps of Contriever whose crops are padded to one length, sorted into buckets, or packed side by side.

    python benchmarks/views.py                                   BERT-mini, 128 pairs of crops: minutes on two CPU cores
    python benchmarks/views.py --size=base --batch=1024                                                on a GPU

All programs see the same crops of the published law and must have the same losses. Prints a Markdown table and one JSON
line a row; README.md in this folder explains the columns.
"""

from argparse import ArgumentParser
from dataclasses import dataclass, field, replace

import arguments
import flops
import jax
import jax.numpy as jnp
import numpy as np
import report
import tasks
from machine import measure, provenance, set_up
from timing import Program
from train import BATCHES, SAME_LOSS, Ours, check_same_losses

from dense_jax.arrays import Array, Batch, Params, PRNGKeyArray
from dense_jax.config import Config, OptimizerConfig, Schedule
from dense_jax.data.packing import distribute
from dense_jax.objectives.contriever import Contriever, Negatives, Views
from dense_jax.types import Passage, Tokens, Vocabulary

CHUNK = 256  # tokens that a pair of crops is taken from
ROUND = 8  # lengths are multiples of this


@dataclass
class Bucketed(Contriever):
    """Crops sorted by length into as many buckets, each padded to a length of its own."""

    buckets: tuple[int, ...] = field(default_factory=tuple)  # their lengths

    def collate(self, examples: Batch, numbers: np.ndarray) -> Batch:
        return {name: self._sorted(examples[name]) for name in ("query", "key")}

    def encode(self, params: Params, carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Views:
        return Views(*(self._each(params, batch[name]) for name in ("query", "key")))

    def combine(self, carry, encoded: Views, batch: Batch, *, step: Array):
        return super().combine(carry, encoded, _NO_FILL, step=step)

    def _each(self, params: Params, side: Batch) -> Array:
        vectors = [self.encoder.apply(params["encoder"], part) for part in side["parts"]]
        return jnp.concatenate(vectors)[side["places"].reshape(-1)]

    def _sorted(self, texts: Tokens) -> Batch:
        order = np.argsort(texts.mask.sum(axis=1), kind="stable")
        rows = np.array_split(order, len(self.buckets))
        parts = [
            Tokens(*(np.asarray(x)[own, :length] for x in texts))
            for own, length in zip(rows, self.buckets, strict=True)
        ]
        return {"parts": parts, "places": np.argsort(order).astype(np.int32).reshape(len(rows), -1).T}


_NO_FILL = {name: Tokens(*[jnp.ones((1, 1), bool)] * 3) for name in ("query", "key")}


def main() -> None:
    asked = _parser().parse_args()
    here = set_up(asked.threads, asked.dtype)
    encoder = replace(tasks.model(asked.size, here.dtype), normalize=False)
    plain = Contriever(encoder, negatives=Negatives.IN_BATCH, temperature=1.0)
    examples = [_examples(plain, asked.batch, seed) for seed in range(BATCHES)]
    lengths = np.stack([e[name].mask.sum(axis=1) for e in examples for name in ("query", "key")])
    tokens = int(lengths.sum() / BATCHES)
    programs = {
        "packed, 4 in a row": _packed(plain, lengths, 4),
        "packed, 8 in a row": _packed(plain, lengths, 8),
        "4 buckets": _bucketed(plain, lengths, 4),
        "padded": plain,
    }
    numbers = np.arange(asked.batch)
    config = Config(plain, steps=1, batch=asked.batch, optimizer=OptimizerConfig(schedule=Schedule.CONSTANT))
    trained = {
        name: Ours(replace(config, objective=method), [method.collate(e, numbers) for e in examples])
        for name, method in programs.items()
    }
    timings, peaks = measure(
        [Program(name, ours.step, ours.wait) for name, ours in trained.items()], here, asked.steps, asked.warmup
    )
    losses = [[float(loss) for loss in timing.outputs] for timing in timings]
    check_same_losses(list(programs), losses, SAME_LOSS[here.dtype])
    work = flops.dual_encoder_step(encoder.bert, asked.batch, 0, tokens // asked.batch, encoder.width)
    rows = [
        report.speed(name, timing, timings[0], tokens=tokens, flops=work, peaks=peaks)
        | {"fill": tokens / positions(trained[name].batches[0]), "loss": of_program[-1]}
        for name, timing, of_program in zip(programs, timings, losses, strict=True)
    ]
    title = f"Training step of contriever, BERT-{asked.size}, {asked.batch} pairs of crops"
    report.publish(f"{title}, {here}; {peaks}", rows, vars(asked) | peaks._asdict() | provenance(here))


def positions(batch: Batch) -> int:
    """Tokens of a batch, padding counted."""
    leaves = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, Tokens))
    return sum(leaf.mask.size for leaf in leaves if isinstance(leaf, Tokens))


def _parser() -> ArgumentParser:
    made = arguments.parser(__doc__)
    made.set_defaults(batch=128)
    return made


def _examples(method: Contriever, count: int, seed: int) -> Batch:
    """Pairs of crops of random words."""
    rng = np.random.default_rng(seed)
    special = np.arange(tasks.VOCABULARY) < tasks.FIRST_WORD
    vocabulary = Vocabulary(
        tasks.VOCABULARY, tasks.PAD, tasks.UNK, tasks.CLS, tasks.SEP, tasks.MASK, special, np.zeros_like(special)
    )
    words = rng.integers(tasks.FIRST_WORD, tasks.VOCABULARY, size=(count, CHUNK), dtype=np.int32)
    passages = [Passage(i, row[:0], row, np.zeros(1, np.int32)) for i, row in enumerate(words)]
    drawn = [method.example(passage, vocabulary, rng) for passage in passages]
    return jax.tree.map(lambda *rows: np.stack(rows), *drawn)


def _packed(method: Contriever, lengths: np.ndarray, per_row: int) -> Contriever:
    """Rows of the smallest length that holds every batch."""
    rows = [(of_batch, distribute(of_batch, len(of_batch) // per_row, 2 * per_row)) for of_batch in lengths]
    fullest = max(of_batch[row].sum() for of_batch, held in rows for row in held)
    return replace(method, views_per_row=per_row, row_length=_rounded(fullest))


def _bucketed(method: Contriever, lengths: np.ndarray, count: int) -> Bucketed:
    """Buckets of the smallest lengths that hold every batch: shorter than a run could know beforehand."""
    longest = [_rounded(part.max()) for part in np.array_split(np.sort(lengths, axis=1), count, axis=1)]
    kept = {name: getattr(method, name) for name in ("encoder", "negatives", "temperature")}
    return Bucketed(**kept, buckets=tuple(longest))


def _rounded(length: float) -> int:
    return -(-int(np.ceil(length)) // ROUND) * ROUND


if __name__ == "__main__":
    arguments.run(main)
