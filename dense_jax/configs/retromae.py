"""RetroMAE (Xiao et al. 2022); DupMAE (Liu et al. 2023) is its variant `dupmae`. Values: the released code."""

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
from dense_jax.objectives.retromae import RetroMAE


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, dupmae=dupmae, tiny=tiny)


def base(bag_of_words: float = 0.0) -> Config:
    """English Wikipedia and books; the authors start from bert-base-uncased: --init_from=FOLDER."""
    return Config(
        objective=RetroMAE(
            encoder=Encoder(bert("base")),
            passage_length=512,
            encoder_mask_rate=0.3,
            decoder_mask_rate=0.5,
            bag_of_words=bag_of_words,
        ),
        steps=210_000,  # 8 epochs
        batch=256,  # 8 devices of 32
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_share=0.1, weight_decay=0.01),
        passages=PassagesConfig(length=512, titled=False),
        loader=LoaderConfig(order=Order.SHUFFLE),
    )


def dupmae() -> Config:
    """The same with the loss of the bag of words, at its published weight."""
    return base(bag_of_words=0.1)


def tiny() -> Config:
    """Minutes on two CPU cores, on the documentation of the installed packages."""
    return common.tiny_demo(
        objective=RetroMAE(encoder=Encoder(common.tiny_bert()), passage_length=64, query_length=32),
        steps=400,
        batch=128,
        optimizer=OptimizerConfig(learning_rate=2e-3, warm_start_rate=2e-5, warmup_share=0.1),
        passages=PassagesConfig(length=64, titled=False),
    )
