"""Masked language modelling of whole words: the baseline. Values: Condenser's MLM recipe (Gao and Callan 2021)."""

from dense_jax.config import (
    Config,
    OptimizerConfig,
    PassagesConfig,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.mlm import MLM


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    return Config(
        objective=MLM(encoder=Encoder(bert("base")), passage_length=128, query_length=32),
        steps=200_000,  # 8 epochs of Wikipedia and books
        batch=1024,
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=20_000),
        passages=PassagesConfig(length=128),
    )


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages."""
    return common.tiny_demo(
        objective=MLM(
            encoder=Encoder(common.tiny_bert(), pooling=Pooling.MEAN, normalize=True),
            passage_length=64,
            query_length=32,
        ),
        steps=600,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=2e-3, warm_start_rate=2e-5, warmup_share=0.1),
        passages=PassagesConfig(length=64),
    )
