"""The inverse cloze task of ORQA (Lee et al. 2019), which is also REALM's warm start. Values: the released code."""

from dense_jax.config import (
    CheckpointConfig,
    Config,
    EmbedConfig,
    OptimizerConfig,
    PassagesConfig,
    Schedule,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.ict import ICT


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    return Config(
        objective=ICT(encoder=Encoder(bert("base"), pooling=Pooling.POOLER, projection=128)),
        steps=100_000,
        batch=4096,
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup=10_000, schedule=Schedule.BERT, epsilon=1e-6, bias_correction=False
        ),
    )


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages."""
    return common.tiny_demo(
        objective=ICT(
            encoder=common.one_layer(),
            query_length=32,
            passage_length=64,
            temperature=0.03,
        ),
        steps=1_000,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=5e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
        passages=PassagesConfig(length=96),  # longer than what is seen of them, since a sentence is taken out
        checkpoint=CheckpointConfig(every=250),
        embed=EmbedConfig(split=True),
    )
