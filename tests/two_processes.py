"""One of several processes that train a toy together: id, how many, port, workdir, every, fresh."""

import sys

import jax

number, count, port, workdir, every, fresh = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4 // int(count))
jax.config.update("jax_cpu_collectives_implementation", "gloo")
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(count), int(number))

from pathlib import Path  # noqa: E402

from dense_jax.config import Config, EmbedConfig, NeighboursConfig, OptimizerConfig  # noqa: E402
from dense_jax.train.loop import train  # noqa: E402
from dense_jax.train.versions import Library  # noqa: E402
from tests.toys import VOCABULARY, Borrower, MemoryStore, ToyTokenizer  # noqa: E402


class Fresh(Borrower):
    fresh = fresh == "fresh"


train(
    Config(
        Fresh(noise=0.0),
        steps=6,
        batch=8,
        log_every=1,
        diagnose_every=0,
        optimizer=OptimizerConfig(0.1),
        embed=EmbedConfig(batch=16, shard_size=25),
        neighbours=NeighboursConfig(every=int(every)),
    ),
    store := MemoryStore(60),
    VOCABULARY,
    Path(workdir),
    library=Library(store, ToyTokenizer(), "toys"),
)
