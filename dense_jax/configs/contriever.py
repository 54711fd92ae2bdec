"""Contriever: independent crops, with momentum contrast or in-batch negatives.

Values: Izacard et al. 2022, appendix A.1, and the training script of its released code. The published runs start from
BERT: --init_from and --tokenizer.path name its folder.
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
from dense_jax.data.masking import Noise
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.contriever import Contriever, Negatives

_PACKING = 0.5625  # four crops of 65 tokens on average in a row of 288


def get_config(variant: str = "base") -> Config:
    return choose(
        variant, base=base, multilingual=multilingual, in_batch=in_batch, tiny=tiny, tiny_in_batch=tiny_in_batch
    )


def base() -> Config:
    return _published(Contriever(encoder=Encoder(bert("base"), pooling=Pooling.MEAN), packing=_PACKING), batch=2048)


def multilingual() -> Config:
    """mContriever: from multilingual BERT, on 29 languages drawn alike, each a source of corpus.also."""
    method = Contriever(
        encoder=Encoder(bert("base"), pooling=Pooling.MEAN),
        queue=32_768,
        momentum=0.999,
        crop_min=0.1,
        noise=Noise.NONE,
        packing=0.65625,  # four crops in a row of 336 tokens
    )
    return _published(method, batch=4096)


def in_batch() -> Config:
    """The ablation of section 4.4: as many negatives, from the same batch."""
    encoder = Encoder(bert("base"), pooling=Pooling.MEAN)
    return _published(Contriever(encoder, negatives=Negatives.IN_BATCH, packing=_PACKING), batch=4096)


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages."""
    return _tiny(Negatives.MOCO)


def tiny_in_batch() -> Config:
    return _tiny(Negatives.IN_BATCH)


def _published(method: Contriever, batch: int) -> Config:
    return Config(
        objective=method,
        steps=500_000,
        batch=batch,
        optimizer=OptimizerConfig(
            learning_rate=5e-5, warmup=20_000, beta2=0.98, epsilon=1e-6, decay_all=True, clip=0.0
        ),
        passages=PassagesConfig(unit=Unit.CHUNKS, length=256),
        loader=LoaderConfig(order=Order.SHUFFLE),
    )


def _tiny(negatives: Negatives) -> Config:
    return common.tiny_demo(
        objective=Contriever(
            encoder=common.one_layer(),
            negatives=negatives,
            view_length=64,
            queue=4096,
            momentum=0.99,
            query_length=32,
            passage_length=64,
        ),
        steps=1_000,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=5e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
        passages=PassagesConfig(unit=Unit.CHUNKS, length=128),
        embed=EmbedConfig(split=True),
    )
