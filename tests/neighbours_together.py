"""A task of several processes that train a toy together, which looks passages up (tests/processes.py)."""

from pathlib import Path

import jax

from dense_jax.augmented.versions import Library
from dense_jax.config import Config, EmbedConfig, NeighboursConfig, OptimizerConfig
from tests.programs import train_workdir
from tests.toys import VOCABULARY, Borrower, MeanEmbedding, MemoryStore, ToyTokenizer


class Noisy(MeanEmbedding):
    """With noise where it is asked for, as dropout is."""

    def apply(self, params, tokens, *, rng=None):
        vectors = super().apply(params, tokens)
        return vectors if rng is None else vectors + jax.random.normal(rng, vectors.shape)


class Fresh(Borrower):
    fresh = True


def learn(workdir: Path, every: str, fresh: str) -> None:
    workdir.mkdir(exist_ok=True)
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
    train_workdir(config, store, VOCABULARY, workdir, library=Library(store, ToyTokenizer(), "toys"))
