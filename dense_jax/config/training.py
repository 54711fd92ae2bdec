"""Settings of training: optimiser, checkpoints, validation, and the passages that are looked up meanwhile."""

import enum
import re
from dataclasses import dataclass, field
from typing import Annotated

from dense_jax.config.retrieval import HEADLINE, IndexKind
from dense_jax.config.rules import RESUMABLE, DataPath, NotNegative, Positive, Share, ShareBelow1, at_least
from dense_jax.errors import require


class Schedule(enum.Enum):
    """Learning rate after the warm-up, which is linear from 0. The formulas: `make_schedule` in train/optimizer.py."""

    LINEAR = "linear"  # from the peak at the end of the warm-up to 0 at the last step
    BERT = "bert"  # peak * (1 - step/steps): a small jump down at the end of the warm-up, as BERT's optimiser has it
    COSINE = "cosine"  # half a cosine from the peak to 0
    CONSTANT = "constant"


@dataclass
class OptimizerConfig:
    """AdamW."""

    learning_rate: Positive[float] = 1e-4  # peak
    # peak where init_from names a trained model, unless the command line gives learning_rate; 0: learning_rate
    warm_start_rate: NotNegative[float] = 0.0
    warmup: NotNegative[int] = 0  # steps
    warmup_share: Share[float] = 0.0  # in place of warmup: share of all steps
    # after the warm-up; linear: from the peak to 0; bert: peak * (1 - step/steps); cosine: half a cosine from the peak
    # to 0; constant: the peak
    schedule: Schedule = Schedule.LINEAR
    beta1: ShareBelow1[float] = 0.9  # decay of the first moment
    beta2: ShareBelow1[float] = 0.999  # decay of the second moment
    epsilon: Positive[float] = 1e-8
    weight_decay: NotNegative[float] = 0.01  # not on biases and LayerNorm
    decay_all: bool = False  # decay biases and LayerNorm too, as Contriever has it
    clip: NotNegative[float] = 1.0  # largest global gradient norm; 0: no clipping
    bias_correction: bool = True  # BERT's own optimiser has none
    # steps in a row with a non-finite loss or gradient that end training; fewer are skipped
    skip_nonfinite: NotNegative[int] = field(default=0, metadata=RESUMABLE)

    def __post_init__(self) -> None:
        require(
            not (self.warmup and self.warmup_share),
            f"optimizer.warmup={self.warmup} and optimizer.warmup_share={self.warmup_share} both say how long to warm "
            "up; set one of them to 0",
        )


def profiled_steps(profile: str) -> range:
    """Steps after which the steps named by START:STEPS begin; no steps for an empty string.

    >>> profiled_steps("20:5")
    range(20, 25)

    Raises:
        ConfigError: it is not two numbers.
    """
    numbers = re.fullmatch(r"(\d+):([1-9]\d*)", profile or "0:1")
    require(numbers is not None, f"profile={profile} is not START:STEPS, such as --profile=20:5")
    assert numbers is not None
    start, count = int(numbers[1]), int(numbers[2])
    return range(start, start + count) if profile else range(0)


class Track(enum.Enum):
    """The tracker that the metrics of a run are sent to."""

    NONE = "none"
    WANDB = "wandb"
    TRACKIO = "trackio"
    MLFLOW = "mlflow"


@dataclass
class CheckpointConfig:
    every: Positive[int] = 1_000  # steps
    keep: Positive[int] = 3  # newest checkpoints; the first is kept besides, and with validation.select=best the best
    recompute_digests: bool = False  # of checkpoints whose digest files are missing, such as after a partial copy


class Select(enum.Enum):
    """The checkpoint that is meant where none is named."""

    NEWEST = "newest"
    BEST = "best"  # of those that were validated


@dataclass
class ValidationConfig:
    """Retrieval while training, on a sample of judged queries."""

    # steps; the state before the first step and that after the last are validated too; 0: these two alone, where
    # training starts from a trained model (init_from) and there are judged queries
    every: NotNegative[int] = 0
    folder: DataPath = ""  # BEIR folder of judged queries; empty: the test set that `prepare` held out
    split: str = "dev"  # qrels/SPLIT.tsv of the folder: queries that are chosen by are no test any more
    queries: Positive[int] = 200  # of the sample
    documents: Positive[int] = 5_000  # of the sample: all that are relevant, and others up to this number
    measure: str = HEADLINE[0]  # what the best is best in: nDCG@10, MRR@10 or Recall@100
    select: Select = Select.NEWEST  # the checkpoint that embed.step=-1 and init_from mean
    # validations in a row without a new best after which training ends; 0: only after the last step
    patience: NotNegative[int] = 0

    def __post_init__(self) -> None:
        require(self.measure in HEADLINE, f"validation.measure={self.measure} is not one of {', '.join(HEADLINE)}")
        require(
            self.every > 0 or self.select is Select.NEWEST,
            f"validation.select={self.select.value} needs results to choose by; set --validation.every=STEPS",
        )
        require(
            self.every > 0 or not self.patience,
            f"validation.patience={self.patience} needs results to count; set --validation.every=STEPS",
        )


class Refresh(enum.Enum):
    """The process that rebuilds the index that training looks passages up in."""

    SYNCHRONOUS = "synchronous"  # the trainer, which stops for it
    ASYNCHRONOUS = "asynchronous"  # another process, `dense-jax refresh`


class Stale(enum.Enum):
    """The reaction of the trainer to an index that is older than neighbours.max_staleness."""

    WARN = "warn"  # goes on
    WAIT = "wait"  # for a newer one, at most neighbours.patience; then as REFRESH
    REFRESH = "refresh"  # makes one itself, of its newest checkpoint


@dataclass
class NeighboursConfig:
    """The passages that an objective such as REALM looks up while it trains."""

    kind: IndexKind = IndexKind.EXACT  # other settings of the index: index.*
    refresh: Refresh = Refresh.SYNCHRONOUS
    # steps from one index to the next, or from one snapshot for it; 0: the first one stays
    every: NotNegative[int] = 500
    # steps, of an asynchronous index; 0: any
    max_staleness: NotNegative[int] = field(default=5_000, metadata=RESUMABLE)
    stale: Stale = field(default=Stale.WAIT, metadata=RESUMABLE)  # what to do with an older index
    patience: NotNegative[float] = field(default=3_600.0, metadata=RESUMABLE)  # seconds
    # newest versions of the index on disk
    keep: Annotated[int, at_least(2)] = field(default=3, metadata=RESUMABLE)
    ahead: NotNegative[int] = field(default=2, metadata=RESUMABLE)  # batches looked up while the devices work; 0: none

    def __post_init__(self) -> None:
        asynchronous = self.refresh is Refresh.ASYNCHRONOUS
        require(
            self.every > 0 or not asynchronous,
            f"neighbours.every={self.every} saves no snapshot for neighbours.refresh={self.refresh.value}; "
            "use --neighbours.every=500",
        )
        require(
            not asynchronous or not self.max_staleness or self.max_staleness >= self.every + self.ahead,
            f"neighbours.max_staleness={self.max_staleness} is below neighbours.every={self.every} and "
            f"neighbours.ahead={self.ahead} together: every index is as old as that before the next snapshot; use "
            f"--neighbours.max_staleness={4 * (self.every + self.ahead)}, or 0",
        )
