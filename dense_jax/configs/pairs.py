"""Weakly supervised contrastive pre-training on text pairs: titles and bodies, questions and answers, citations.

`base`: nomic-embed-text-v1 (Nussbaum et al. 2024, and the released config), here with BERT and texts of up to 512
tokens in place of its own encoder and 2,048. `e5`: E5 (Wang et al. 2022, section 4.1). `gte`: GTE (Li et al. 2023,
section 3): one softmax over all scores of a pair, sources by the square root of their sizes; its learning rate is E5's
here. There are no hard negatives. The gradient cache encodes `chunk` pairs at a time.

Each source is a file of pairs:

    --corpus.source=titles.jsonl --corpus.also=answers.parquet --loader.weights=1 --loader.weights=3
"""

from dataclasses import replace
from typing import Any

from dense_jax.config import (
    Config,
    EmbedConfig,
    LoaderConfig,
    Mixing,
    OptimizerConfig,
    Order,
    PassagesConfig,
    Schedule,
    Unit,
    choose,
)
from dense_jax.configs import _common as common
from dense_jax.losses.directions import Directions
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.supervised import Supervised


def get_config(variant: str = "base") -> Config:
    return choose(variant, base=base, e5=e5, gte=gte, tiny=tiny)


def base() -> Config:
    """An epoch of 235 million pairs, each batch of one source."""
    return _contrast(
        Supervised(
            _encoder(),
            query_length=512,
            passage_length=512,
            query_prompt="search_query: ",
            passage_prompt="search_document: ",
            negatives=0,
            temperature=0.02,
            score_chunk=4_096,
        ),
        steps=14_343,
        chunk=2_048,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup=700, schedule=Schedule.COSINE),
        loader=LoaderConfig(order=Order.DISTINCT, mixing=Mixing.BATCH, sampling_power=1.0),
    )


def e5() -> Config:
    """Two and a half epochs of 270 million pairs, which `dense-jax filter` chose; batches of all sources."""
    return _contrast(
        _short(query_prompt="query: ", passage_prompt="passage: "),
        steps=20_000,
        batch=32_768,
        chunk=4_096,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup=1_000),
        loader=LoaderConfig(order=Order.DISTINCT, sampling_power=1.0),
    )


def gte() -> Config:
    """An epoch of 800 million pairs, each batch of one source."""
    return _contrast(
        _short(directions=Directions.JOINT),
        steps=50_000,
        chunk=4_096,
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_share=0.05),
        loader=LoaderConfig(order=Order.DISTINCT, mixing=Mixing.BATCH, sampling_power=0.5),
    )


def tiny() -> Config:
    """A minute on two CPU cores, on pairs of yours: --corpus.source=FILE."""
    config = common.tiny_finetuning(
        objective=Supervised(
            encoder=common.one_layer(),
            passage_length=64,
            query_prompt="search query: ",
            passage_prompt="search document: ",
            negatives=0,
            temperature=0.05,
        ),
        steps=300,
        batch=256,
        chunk=128,
        optimizer=OptimizerConfig(learning_rate=1e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
        embed=EmbedConfig(split=True),
    )
    return replace(config, loader=replace(config.loader, mixing=Mixing.BATCH))


def _contrast(objective: Supervised, *, batch: int = 16_384, **settings: Any) -> Config:
    return Config(objective, batch=batch, passages=PassagesConfig(unit=Unit.QUERIES), **settings)


def _short(**settings: Any) -> Supervised:
    """Texts of up to 128 tokens."""
    lengths = {"query_length": 128, "passage_length": 128}
    return Supervised(_encoder(), **lengths, negatives=0, temperature=0.01, score_chunk=4_096, **settings)


def _encoder() -> Encoder:
    return Encoder(bert("base"), pooling=Pooling.MEAN, normalize=True)
