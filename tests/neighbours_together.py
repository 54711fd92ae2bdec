"""One of several processes that train a toy together: id, how many, port, workdir, every, fresh."""

import sys
from pathlib import Path

import jax

from dense_jax.augmented.versions import Library
from dense_jax.config import Config, EmbedConfig, NeighboursConfig, OptimizerConfig
from dense_jax.train.loop import train
from tests.toys import VOCABULARY, Borrower, MeanEmbedding, MemoryStore, ToyTokenizer


class Noisy(MeanEmbedding):
    """With noise where it is asked for, as dropout is."""

    def apply(self, params, tokens, *, rng=None):
        vectors = super().apply(params, tokens)
        return vectors if rng is None else vectors + jax.random.normal(rng, vectors.shape)


class Fresh(Borrower):
    fresh = True


def main(number: str, count: str, port: str, workdir: str, every: str, fresh: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4 // int(count))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if int(count) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(count), int(number))
    config = Config(
        Fresh(Noisy()) if fresh == "fresh" else Borrower(),
        steps=6,
        batch=8,
        log_every=1,
        diagnose_every=0,
        optimizer=OptimizerConfig(0.1),
        embed=EmbedConfig(batch=16, shard_size=25),
        neighbours=NeighboursConfig(every=int(every)),
    )
    store = MemoryStore(60)
    train(config, store, VOCABULARY, Path(workdir), library=Library(store, ToyTokenizer(), "toys"))


if __name__ == "__main__":
    main(*sys.argv[1:])
