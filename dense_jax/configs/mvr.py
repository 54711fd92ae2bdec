"""MVR (Zhang et al. 2022). Values: the paper's, and DPR's where it refers to them; the local weight is ours.

Learns from judged queries, such as DPR's files: --corpus.source=FILE. Starts from BERT or coCondenser, which
fills both encoders: --init_from=FOLDER --tokenizer.path=FOLDER.
"""

from dense_jax.config import (
    Config,
    LoaderConfig,
    OptimizerConfig,
    Order,
    PassagesConfig,
    Schedule,
    Unit,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import MultiViewEncoder
from dense_jax.objectives.mvr import MVR
from dense_jax.types import Layout


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    return Config(
        objective=MVR(
            encoder=MultiViewEncoder(bert("base"), views=8),
            query_length=256,
            passage_length=256,
            layout=Layout.PAIR,
            negatives=1,
        ),
        steps=18_400,  # 40 epochs of 58,880 questions, 128 at a time
        batch=128,
        optimizer=OptimizerConfig(learning_rate=2e-5, warmup=1_237, weight_decay=0.0, clip=2.0),
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=LoaderConfig(order=Order.DISTINCT),
    )


def tiny() -> Config:
    """Minutes on two CPU cores, on judged queries of yours: --corpus.source=FOLDER."""
    return common.tiny_finetuning(
        objective=MVR(
            encoder=MultiViewEncoder(common.tiny_bert(layers=1), views=4),
            passage_length=64,
            negatives=1,
        ),
        steps=300,
        batch=64,
        optimizer=OptimizerConfig(learning_rate=1e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
    )
