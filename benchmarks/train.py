"""Training steps: ours against PyTorch's, with the same weights, batches, arithmetic, threads and process.

    python benchmarks/train.py                                           BERT-mini, minutes on two CPU cores
    python benchmarks/train.py --objective=ict --size=base --batch=1024                             on a GPU
    python benchmarks/train.py --objective=ict --size=base --batch=65536 --chunk=2048      with a gradient cache

Prints a Markdown table and one JSON line a row; README.md in this folder explains the columns.
"""

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import arguments
import jax
import numpy as np
import report
import tasks
from machine import Machine, measure, provenance, set_up
from timing import Program

from dense_jax.arrays import Array, Batch
from dense_jax.config import Config, OptimizerConfig, Schedule
from dense_jax.errors import MachineError
from dense_jax.hf import tensors
from dense_jax.mesh import batch_sharding
from dense_jax.models.transformer import TransformerConfig
from dense_jax.train.loop import initial_state, make_program

BATCHES = 8  # different ones, in rotation
SAME_LOSS = {"float32": 1e-4, "bfloat16": 1e-2}  # largest difference between programs, at any step of the warm-up


class Ours:
    """Training as `dense-jax train` runs it."""

    def __init__(self, config: Config, batches: Sequence[Batch]) -> None:
        self.program = make_program(config)
        self.state = initial_state(self.program)
        self.batches = jax.device_put(list(batches), batch_sharding(self.program.mesh))

    def step(self, i: int) -> Array:
        """Starts the next step, on the `i`-th batch."""
        self.state, metrics = self.program.step(self.state, self.batches[i % len(self.batches)])
        return metrics["loss"]

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    def save(self, bert: TransformerConfig, folder: Path) -> None:
        """Writes the parameters, a model `bert` and perhaps its masked-LM head, for transformers."""
        params = jax.device_get(self.state.params)
        head = {"mlm": params["mlm"]} if "mlm" in params else {}
        tensors.save_params({**params["encoder"], **head}, bert, folder, tasks.PAD)


def main() -> None:
    asked = _arguments()
    until = arguments.deadline(asked.seconds)
    here = set_up(asked.threads, asked.dtype)
    encoder = tasks.model(asked.size, here.dtype)
    task = tasks.TASKS[asked.objective](encoder, asked.batch, asked.seq, asked.chunk)
    optimizer = OptimizerConfig(schedule=Schedule.CONSTANT)
    config = Config(task.objective, steps=1, batch=asked.batch, chunk=asked.chunk, optimizer=optimizer)
    batches = [task.batch(np.random.default_rng(seed)) for seed in range(BATCHES)]
    ours = Ours(config, batches)
    programs = [Program("dense_jax", ours.step, ours.wait)]
    if kinds := arguments.peer_kinds(asked.peer):
        programs += _peers(asked, kinds, ours, encoder.bert, batches, here)
    timings, peaks = measure(programs, here, asked.steps, asked.warmup, until)
    losses = [[float(loss) for loss in timing.outputs] for timing in timings]
    check_same_losses([program.name for program in programs], losses, SAME_LOSS[here.dtype])
    rows = [
        report.speed(program.name, timing, timings[0], tokens=task.tokens, flops=task.flops, peaks=peaks)
        | {"loss": of_program[-1]}
        for program, timing, of_program in zip(programs, timings, losses, strict=True)
    ]
    title = f"Training step of {asked.objective}, BERT-{asked.size}, {asked.batch} x {asked.seq} tokens"
    report.publish(f"{title}, {here}; {peaks}", rows, vars(asked) | peaks._asdict() | provenance(here))


def check_same_losses(names: Sequence[str], losses: Sequence[Sequence[float]], most: float) -> None:
    """Raises MachineError if the losses of a program differ from the first one's by more than `most` at some step."""
    for name, found in zip(names[1:], losses[1:], strict=True):
        for step, (a, b) in enumerate(zip(losses[0], found, strict=True)):
            if not abs(a - b) <= most:
                raise MachineError(
                    f"step {step}: {names[0]} has loss {a:.6f}, {name} {b:.6f}; they differ by more than {most}, "
                    "so this is not the same training and no figure is printed"
                )


def _arguments() -> Namespace:
    made = arguments.parser(__doc__)
    made.add_argument("--objective", choices=tasks.TASKS, default="mlm", help="what is trained")
    made.add_argument("--chunk", type=arguments.at_least(0), default=0, help="pairs of ict encoded at a time by a "
                      "gradient cache, and passages scored at a time; 0: all")  # fmt: skip
    asked = made.parse_args()
    if asked.chunk and asked.objective != "ict":
        made.error(f"--chunk={asked.chunk} is for --objective=ict, whose loss is of the whole batch")
    if asked.chunk and asked.batch % asked.chunk:
        made.error(f"--chunk={asked.chunk} does not divide --batch={asked.batch}")
    return asked


def _peers(
    asked: Namespace, kinds: Sequence[str], ours: Ours, bert: TransformerConfig, batches: Sequence[Batch], here: Machine
) -> list[Program]:
    import peers  # imported here: PyTorch may be missing

    peers.set_up(here)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(bert, Path(folder))
        trained = [peers.TRAININGS[asked.objective](Path(folder), batches, kind, asked.chunk) for kind in kinds]
    settings = ours.program.config.optimizer
    return [peers.trainer(t, kind, settings, here.dtype) for t, kind in zip(trained, kinds, strict=True)]


if __name__ == "__main__":
    arguments.run(main)
