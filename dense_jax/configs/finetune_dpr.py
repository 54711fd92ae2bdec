"""DPR (Karpukhin et al. 2020) on Natural Questions. Values: its released code.

Starts from BERT, which fills both encoders: --init_from=FOLDER --tokenizer.path=FOLDER.
"""

from dense_jax.config import (
    Config,
    EmbedConfig,
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
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.supervised import Supervised
from dense_jax.types import Layout


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    """One BM25 negative for each question, in addition to those of the batch."""
    return Config(
        objective=Supervised(
            encoder=Encoder(bert("base")),
            query_length=256,
            passage_length=256,
            layout=Layout.PAIR,  # the released code numbers both segments 0
            negatives=1,
            shared=False,
        ),
        steps=18_400,  # 40 epochs of 58,880 questions, 128 at a time
        batch=128,
        optimizer=OptimizerConfig(learning_rate=2e-5, warmup=1_237, weight_decay=0.0, clip=2.0),
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=LoaderConfig(order=Order.DISTINCT),
    )


def tiny() -> Config:
    """A minute on two CPU cores, on judged queries of yours: --corpus.source=FOLDER."""
    return common.tiny_finetuning(
        objective=Supervised(
            encoder=common.one_layer(),
            passage_length=64,
            layout=Layout.PAIR,
            negatives=1,
            shared=False,
            temperature=0.05,
        ),
        steps=300,
        batch=64,
        optimizer=OptimizerConfig(learning_rate=1e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
        embed=EmbedConfig(split=True),
    )
