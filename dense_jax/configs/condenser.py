"""Condenser (Gao and Callan 2021). Values: the released code and its README."""

from dense_jax.config import (
    Config,
    LoaderConfig,
    OptimizerConfig,
    Order,
    PassagesConfig,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.condenser import Condenser


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    """English Wikipedia and books; the authors start from bert-base-uncased: --init_from=FOLDER."""
    return Config(
        objective=Condenser(encoder=Encoder(bert("base")), head_layers=2, skip_from=6),
        steps=200_000,  # 8 epochs
        batch=1024,  # of 128 tokens, as the author has said
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_share=0.1, weight_decay=0.01),
        passages=PassagesConfig(length=128, titled=False, short_rate=0.1),
        loader=LoaderConfig(order=Order.SHUFFLE),
    )


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages."""
    return common.tiny_demo(
        objective=Condenser(
            encoder=Encoder(common.tiny_bert()),
            head_layers=1,
            skip_from=1,
            passage_length=64,
        ),
        steps=600,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=2e-3, warm_start_rate=2e-5, warmup_share=0.1),
        passages=PassagesConfig(length=64, titled=False, short_rate=0.1),
    )
