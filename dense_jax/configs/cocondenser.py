"""coCondenser (Gao and Callan 2022). Values: the released code and its README."""

from dense_jax.config import (
    Config,
    LoaderConfig,
    OptimizerConfig,
    Order,
    PassagesConfig,
    Unit,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.cocondenser import CoCondenser


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    """The target corpus, from a Condenser with its head: --init_from=WORKDIR."""
    return Config(
        objective=CoCondenser(encoder=Encoder(bert("base")), head_layers=2, skip_from=6),
        steps=35_000,  # 8 epochs of MS MARCO's 8.8 million passages
        batch=2048,  # documents, of two spans each
        chunk=0,  # the authors: a gradient cache where the batch does not fit, such as --chunk=256
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_share=0.1, weight_decay=0.01),
        passages=PassagesConfig(unit=Unit.SPANS, length=128),
        loader=LoaderConfig(order=Order.SHUFFLE),
    )


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages."""
    return common.tiny_demo(
        objective=CoCondenser(
            encoder=Encoder(common.tiny_bert()),
            head_layers=1,
            skip_from=1,
            passage_length=64,
        ),
        steps=300,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=2e-3, warm_start_rate=2e-5, warmup_share=0.1),
        passages=PassagesConfig(unit=Unit.SPANS, length=64),
    )
