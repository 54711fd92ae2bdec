"""Contriever fine-tuned on MS MARCO (Izacard et al. 2022, section 4.3 and appendix). Values: the paper's.

Its optimiser was ASAM; the released code has AdamW alone, and so it is here, with that code's settings. The paper's
further passage of each query is a random one, then in a second run, from the same start, a mined one for one query in
ten: here it is one of the query's own given negatives, if it has any. Starts from Contriever:
--init_from=WORKDIR.
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
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.supervised import Supervised


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    return Config(
        objective=Supervised(
            encoder=Encoder(bert("base"), pooling=Pooling.MEAN),
            query_length=64,
            passage_length=256,
            negatives=1,
            temperature=0.05,
        ),
        steps=20_000,  # 41 epochs of 500,000 queries
        batch=1024,
        chunk=0,  # a gradient cache where the batch does not fit, such as --chunk=128
        optimizer=OptimizerConfig(
            learning_rate=1e-5, warmup=1_000, beta2=0.98, epsilon=1e-6, decay_all=True, clip=0.0
        ),  # the warm-up is mContriever's
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=LoaderConfig(order=Order.DISTINCT),
    )


def tiny() -> Config:
    """A minute on two CPU cores, on judged queries of yours: --corpus.source=FOLDER."""
    return common.tiny_finetuning(
        objective=Supervised(
            encoder=common.one_layer(),
            passage_length=64,
            negatives=1,
            temperature=0.05,
        ),
        steps=300,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=1e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
        embed=EmbedConfig(split=True),
    )
