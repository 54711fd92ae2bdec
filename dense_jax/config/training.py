"""How it is trained: optimiser, mesh, checkpoints, probes, and the passages that are looked up meanwhile."""

import enum
from dataclasses import dataclass, field

from dense_jax.config.marks import PATH, RESUMABLE
from dense_jax.config.retrieval import HEADLINE, IndexKind
from dense_jax.errors import require


class Schedule(enum.Enum):
    """Learning rate after the warm-up, which is linear from 0."""

    LINEAR = "linear"  # from the peak at the end of the warm-up to 0 at the last step
    BERT = "bert"  # peak * (1 - step/steps): a small jump down at the end of the warm-up, as BERT's optimiser has it
    COSINE = "cosine"  # half a cosine from the peak to 0
    CONSTANT = "constant"


@dataclass
class OptimizerConfig:
    """AdamW."""

    learning_rate: float = 1e-4  # peak
    # peak where init_from names a trained model, unless the command line gives learning_rate; 0: learning_rate
    warm_start_rate: float = 0.0
    warmup: int = 0  # steps
    warmup_share: float = 0.0  # in place of warmup: share of all steps
    schedule: Schedule = Schedule.LINEAR
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01  # not on biases and LayerNorm
    decay_all: bool = False  # on them too, as Contriever has it
    clip: float = 1.0  # largest global gradient norm; 0: no clipping
    bias_correction: bool = True  # BERT's own optimiser has none

    def __post_init__(self) -> None:
        require(
            self.warm_start_rate >= 0,
            f"optimizer.warm_start_rate={self.warm_start_rate} must not be negative; 0 means learning_rate",
        )
        require(self.learning_rate > 0, f"optimizer.learning_rate={self.learning_rate} must be positive")
        require(self.warmup >= 0, f"optimizer.warmup={self.warmup} must not be negative")
        require(0 <= self.warmup_share <= 1, f"optimizer.warmup_share={self.warmup_share} is not between 0 and 1")
        require(
            not (self.warmup and self.warmup_share),
            f"optimizer.warmup={self.warmup} and optimizer.warmup_share={self.warmup_share} both say how long to warm "
            "up; set one of them to 0",
        )
        require(self.clip >= 0, f"optimizer.clip={self.clip} must not be negative; 0 means no clipping")


@dataclass
class MeshConfig:
    """Devices along each axis, the outermost first; -1 for one axis: all that are left."""

    dcn: int = field(default=1, kw_only=True)  # batch; slices (of GPUs: nodes) that the data-centre network joins
    data: int = -1  # batch
    fsdp: int = 1  # batch, and parameters, which are gathered layer by layer
    tensor: int = 1  # parameters alone: heads and feed-forward units, the vocabulary if it divides it


@dataclass
class CheckpointConfig:
    every: int = 1_000  # steps
    keep: int = 3  # newest checkpoints; the first is kept besides, and with probe.select=best the best


class Select(enum.Enum):
    """Which checkpoint is meant where none is named."""

    NEWEST = "newest"
    BEST = "best"  # of those that were probed


@dataclass
class ProbeConfig:
    """Retrieval while training, on a sample of judged queries."""

    # steps; the state before the first step and that after the last are probed too; 0: these two alone, where training
    # starts from a trained model (init_from) and there are judged queries
    every: int = 0
    # BEIR folder of judged queries; empty: the test set that `prepare` held out
    folder: str = field(default="", metadata=PATH)
    split: str = "dev"  # qrels/SPLIT.tsv of the folder: queries that are chosen by are no test any more
    queries: int = 200  # of the sample
    documents: int = 5_000  # of the sample: all that are relevant, and others up to so many
    measure: str = HEADLINE[0]  # what the best is best in: nDCG@10, MRR@10 or Recall@100
    select: Select = Select.NEWEST  # the checkpoint that embed.step=-1 and init_from mean
    patience: int = 0  # probes in a row without a new best after which training ends; 0: only after the last step

    def __post_init__(self) -> None:
        require(self.every >= 0, f"probe.every={self.every} must not be negative; 0 means before and after training")
        require(self.queries > 0, f"probe.queries={self.queries} must be positive")
        require(self.documents > 0, f"probe.documents={self.documents} must be positive")
        require(self.patience >= 0, f"probe.patience={self.patience} must not be negative; 0 means no early end")
        require(self.measure in HEADLINE, f"probe.measure={self.measure} is none of {', '.join(HEADLINE)}")
        require(
            self.every > 0 or self.select is Select.NEWEST,
            f"probe.select={self.select.value} needs probes to choose by; set --probe.every=STEPS",
        )
        require(
            self.every > 0 or not self.patience,
            f"probe.patience={self.patience} needs probes to count; set --probe.every=STEPS",
        )


class Refresh(enum.Enum):
    """Who makes the index anew that training looks passages up in."""

    SYNCHRONOUS = "synchronous"  # the trainer, which stops for it
    ASYNCHRONOUS = "asynchronous"  # another process beside it, `dense-jax refresh`


class Stale(enum.Enum):
    """What the trainer does where the index is older than neighbours.max_staleness."""

    WARN = "warn"  # goes on
    WAIT = "wait"  # for a newer one, at most neighbours.patience; then as REFRESH
    REFRESH = "refresh"  # makes one itself, of its newest checkpoint


@dataclass
class NeighboursConfig:
    """The passages that an objective such as REALM looks up while it trains."""

    kind: IndexKind = IndexKind.EXACT  # other settings of the index: index.*
    refresh: Refresh = Refresh.SYNCHRONOUS
    every: int = 500  # steps from one index to the next, or from one snapshot for it; 0: the first one stays
    max_staleness: int = field(default=5_000, metadata=RESUMABLE)  # steps, of an asynchronous index; 0: any
    stale: Stale = field(default=Stale.WAIT, metadata=RESUMABLE)
    patience: float = field(default=3_600.0, metadata=RESUMABLE)  # seconds
    keep: int = field(default=3, metadata=RESUMABLE)  # newest versions of the index on disk
    ahead: int = field(default=2, metadata=RESUMABLE)  # batches looked up while the devices work; 0: none

    def __post_init__(self) -> None:
        require(self.every >= 0, f"neighbours.every={self.every} must not be negative; 0 means that one index is kept")
        require(self.keep > 1, f"neighbours.keep={self.keep} is too few: the newest index, and that still in use")
        require(self.max_staleness >= 0, f"neighbours.max_staleness={self.max_staleness} must not be negative; 0: any")
        require(self.patience >= 0, f"neighbours.patience={self.patience} must not be negative")
        require(self.ahead >= 0, f"neighbours.ahead={self.ahead} must not be negative")
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
