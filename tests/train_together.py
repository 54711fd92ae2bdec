"""Tasks of several processes that train together (tests/processes.py)."""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xxhash

from dense_jax.config import CheckpointConfig, Config, MeshConfig, OptimizerConfig
from dense_jax.config.tree import with_vocabulary
from dense_jax.data.pipeline import Examples, local_batches, local_row_numbers, local_rows
from dense_jax.errors import DataError, Stopped
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.layers import Dtype
from dense_jax.processes.distributed import exit_on_failure
from dense_jax.processes.multihost import barrier
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.loader import CorpusLoader
from dense_jax.train.loop import initial_state, make_program
from dense_jax.types import Passage, QAExample, TrainingQuery
from tests.processes import DEVICES, HEARTBEAT
from tests.programs import train_workdir
from tests.test_objectives import FILES, load, sentences_store, shrunk
from tests.toys import VOCABULARY, AnsweredStore, BagOfTokens, MemoryStore, QuestionStore

STEPS, BATCH = 3, 8  # of each method
STORES = {TrainingQuery: QuestionStore, QAExample: AnsweredStore, Passage: sentences_store}


def batches_of_all(folder: Path) -> None:
    """Writes which examples this process builds for each method of configs/, and a digest of each row made of them."""
    found: dict[str, Any] = {}
    for name, path in methods().items():
        config, built = small(load(path, "tiny")), set()
        with building(built):
            rows = [list(of_step) for of_step in rows_of(config)]
        found[name] = {"built": sorted(built), "rows": rows}
    write(folder, found)


def rows_of(config: Config) -> Iterator[Iterator[tuple[int, str]]]:
    """Of each step the rows that this process holds: number and digest."""
    mesh, examples = make_mesh(config.mesh, interleaved()), examples_of(config)
    numbers = local_row_numbers(batch_sharding(mesh), BATCH).tolist()
    if config.objective.retrieves:
        made = (stacked.inputs for stacked in local_batches(examples, BATCH, mesh, step=0))
    else:
        loader = CorpusLoader(examples, BATCH, mesh)
        made = (jax.tree.map(local_rows, loader.batch(step, {}).inputs) for step in range(STEPS))
    for batch in made:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
        yield ((row, _digest([leaf[place] for leaf in leaves])) for place, row in enumerate(numbers))


def _digest(leaves: list[np.ndarray]) -> str:
    return xxhash.xxh3_64_hexdigest(b"".join(leaf.tobytes() for leaf in leaves))


def learn(folder: Path, *names: str) -> None:
    """Writes loss and gradient norm of a few steps of these methods."""
    found: dict[str, list[list[float]]] = {}
    for name in names:
        config = small(load(methods()[name], "tiny"))
        program = make_program(config, interleaved())
        state, loader = initial_state(program), CorpusLoader(examples_of(config), BATCH, program.mesh)
        found[name] = []
        with jax.set_mesh(program.mesh):
            for step in range(STEPS):
                state, metrics = program.step(state, loader.batch(step, state.params).inputs)
                found[name].append([float(metrics["loss"]), float(metrics["gradient_norm"])])
    write(folder, found)


def interleaved() -> list[Any]:
    """Four devices, the first process's around the others': on a torus a host's chips need not lie side by side."""
    first, *others = jax.devices()[:DEVICES]
    return [first, *others[1:], others[0]]


def examples_of(config: Config) -> Examples:
    store = STORES[config.objective.learns_from]()
    return Examples(store, config.objective, VOCABULARY, config.loader, config.seed, STEPS * BATCH, BATCH)


def methods() -> dict[str, Path]:
    """By its class, the first config file of each method."""
    found: dict[str, Path] = {}
    for path in FILES:
        found.setdefault(type(load(path, "tiny").objective).__name__, path)
    return found


def small(config: Config) -> Config:
    """A few steps of a config, by a model of a few thousand parameters with dropout, in float32."""
    return replace(
        config,
        objective=with_vocabulary(shrunk(config.objective, Dtype.FLOAT32), VOCABULARY.size),
        steps=STEPS,
        batch=BATCH,
        chunk=0,
        init_from="",
        optimizer=replace(config.optimizer, warmup=0, warmup_share=0.0),
        mesh=MeshConfig(),
    )


def toy(folder: Path, who: str = "-1", event: str = "", when: str = "0") -> None:
    """Trains a toy with noise for 20 steps.

    Process `who` is told to stop while it makes its batch number `when`, or is killed amid the save of step `when`.
    """
    if jax.process_index() == int(who):
        {"stopped": stopped_at, "killed": killed_at}[event](int(when))
    every = CheckpointConfig(every=5)
    config = Config(BagOfTokens(), 20, 8, log_every=1, optimizer=OptimizerConfig(0.1), checkpoint=every)
    try:
        with exit_on_failure("train", polls=True, heartbeat=HEARTBEAT):
            train_workdir(config, MemoryStore(), VOCABULARY, folder)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.code)


def fails(folder: Path) -> None:
    """Process 1 has an error of its own while the others wait for it."""
    with exit_on_failure("train", polls=True, heartbeat=HEARTBEAT):
        if jax.process_index() == 1:
            raise DataError("passages-00007: damaged")
        barrier("all but one")


def stopped_at(batch: int) -> None:
    made = itertools.count(1)

    def collate(self: BagOfTokens, examples, numbers):
        number = next(made)
        if number == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        if number >= batch:
            time.sleep(0.5)  # JAX looks for the signal every second, and these steps take milliseconds
        return examples

    BagOfTokens.collate = collate


def killed_at(step: int) -> None:
    save = Checkpoints.save

    def saved(self: Checkpoints, found: int, state, meta) -> None:
        save(self, found, state, meta)
        if found == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = saved


@contextlib.contextmanager
def building(built: set[int]) -> Iterator[None]:
    """Adds to `built` the examples that this process builds in the block."""
    build = Examples.__getitem__

    def noting(self: Examples, index: int):
        built.add(index)
        return build(self, index)

    Examples.__getitem__ = noting
    try:
        yield
    finally:
        Examples.__getitem__ = build


def write(folder: Path, found: Any) -> None:
    (folder / f"process-{jax.process_index()}.json").write_text(json.dumps(found))
