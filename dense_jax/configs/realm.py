"""REALM (Guu et al. 2020). Values: the paper and the released code.

First ICT (configs/ict.py), then this with --init_from=ITS_WORKDIR; the authors start the reader from
bert-base-uncased: --init_reader_from=FOLDER, and for both runs --tokenizer.path=FOLDER.
"""

from dense_jax.config import (
    Config,
    EmbedConfig,
    LoaderConfig,
    NeighboursConfig,
    OptimizerConfig,
    Order,
    PassagesConfig,
    Schedule,
    SpansConfig,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.realm import Realm


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    return Config(
        objective=Realm(encoder=Encoder(bert("base"), pooling=Pooling.POOLER, projection=128)),
        steps=200_000,
        batch=512,
        optimizer=OptimizerConfig(
            learning_rate=3e-5, warmup=10_000, schedule=Schedule.BERT, epsilon=1e-6, bias_correction=False
        ),
        loader=LoaderConfig(order=Order.SHUFFLE),
        spans=SpansConfig(patterns=True, capitals=True, titles=True),  # the authors': BERT trained on CoNLL-2003
        neighbours=NeighboursConfig(every=500),
    )


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages; after configs/ict.py:tiny."""
    return common.tiny_demo(
        objective=Realm(
            encoder=common.one_layer(),
            query_length=32,
            passage_length=64,
            candidates=4,
            temperature=0.03,
        ),
        steps=500,
        batch=32,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_share=0.1, schedule=Schedule.COSINE),  # 1e-3 undoes ICT
        passages=PassagesConfig(length=64),
        spans=SpansConfig(patterns=True, capitals=True, titles=True),
        neighbours=NeighboursConfig(every=250),
        embed=EmbedConfig(split=True),
    )
