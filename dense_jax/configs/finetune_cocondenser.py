"""coCondenser fine-tuned on MS MARCO (Gao and Callan 2022), in two rounds. Values: the authors' example for Tevatron.

Both rounds start from the pre-trained model: --init_from=WORKDIR. The passages have titles there, which the
official collection lacks: figures with and without are not comparable.
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


def get_config(variant: str = "round1") -> Config:
    return choose(variant, round1=round1, round2=round2, tiny=tiny)


def round1() -> Config:
    """Negatives of BM25, which there are for about 400,000 queries."""
    return _round(steps=150_000)  # 3 epochs of 400,000 queries, 8 at a time


def round2() -> Config:
    """BM25 negatives and those that the model of round 1 found among its first 200, for all queries."""
    return _round(steps=225_000)  # 2 epochs of 400,000 queries with negatives of BM25 and 500,000 with mined ones


def tiny() -> Config:
    """A minute on two CPU cores, on judged queries of yours: --corpus.source=FOLDER."""
    return common.tiny_finetuning(
        objective=Supervised(
            encoder=common.one_layer(),
            passage_length=64,
            negatives=3,
            temperature=0.05,
        ),
        steps=200,
        batch=64,
        optimizer=OptimizerConfig(learning_rate=1e-3, warm_start_rate=2e-5, warmup_share=0.1, schedule=Schedule.COSINE),
        embed=EmbedConfig(split=True),
    )


def _round(steps: int) -> Config:
    return Config(
        objective=Supervised(encoder=Encoder(bert("base")), query_length=32, passage_length=128, negatives=7),
        steps=steps,
        batch=8,  # queries, of 8 passages each: the "batch of 64" of the paper
        optimizer=OptimizerConfig(learning_rate=5e-6, warmup_share=0.1, weight_decay=0.0),
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=LoaderConfig(order=Order.DISTINCT),
    )
