"""ORQA (Lee et al. 2019) on Natural Questions, and REALM's fine-tuning (Guu et al. 2020). Values: the released code.

Starts from ICT or REALM: --init_from=RUN, and after ICT BERT for the reader: --init_reader_from=FOLDER,
whose tokenizer the passages and ICT need too: --tokenizer.path=FOLDER.
"""

from dense_jax.config import (
    CheckpointConfig,
    Config,
    EmbedConfig,
    LoaderConfig,
    NeighboursConfig,
    OptimizerConfig,
    Order,
    PassagesConfig,
    Schedule,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.orqa import Orqa


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, tiny=tiny)


def base() -> Config:
    return Config(
        objective=Orqa(encoder=Encoder(bert("base"), pooling=Pooling.POOLER, projection=128)),
        steps=316_672,  # 4 epochs of 79,168 questions, one at a time; of WebQuestions and CuratedTREC 60 and 80
        batch=1,
        optimizer=OptimizerConfig(
            learning_rate=1e-5, warmup=10_000, schedule=Schedule.BERT, epsilon=1e-6, bias_correction=False
        ),
        loader=LoaderConfig(order=Order.SHUFFLE),
        checkpoint=CheckpointConfig(every=5_000),
        neighbours=NeighboursConfig(every=0),  # passages keep their vectors
    )


def tiny() -> Config:
    """Minutes on two CPU cores, from configs/ict.py:tiny, on questions of yours: --corpus.questions=FILE."""
    return common.tiny(
        objective=Orqa(
            encoder=common.one_layer(),
            query_length=32,
            passage_length=64,
            reader_length=128,
            retrieved=100,
            temperature=0.03,
        ),
        steps=1_000,
        batch=16,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_share=0.1, schedule=Schedule.COSINE),
        passages=PassagesConfig(length=96),
        checkpoint=CheckpointConfig(every=250),
        neighbours=NeighboursConfig(every=0),
        embed=EmbedConfig(split=True),
    )
