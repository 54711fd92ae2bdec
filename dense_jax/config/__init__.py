"""Every setting, its default and its unit; the rules that they must keep together.

A config file (`configs/`) builds one `Config` and nothing else; its parts are in `data`, `training` and `retrieval`.
Overrides (`--batch=64`) are applied by `config/command_line.py`, then `config.tree.checked` rebuilds the tree, so that
each `__post_init__` sees the final values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dense_jax.config.data import (
    CorpusConfig,
    LoaderConfig,
    Mixing,
    Order,
    PassagesConfig,
    PrepareConfig,
    Runner,
    SpansConfig,
    TokenizerConfig,
    Unit,
)
from dense_jax.config.mesh import GradientDtype, MeshConfig
from dense_jax.config.retrieval import (
    HEADLINE,
    AnswerConfig,
    DropSameId,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    FilterConfig,
    FusionConfig,
    FusionMethod,
    IndexConfig,
    IndexKind,
    Margin,
    MineConfig,
    Miner,
    Pick,
    Precision,
    SearchConfig,
)
from dense_jax.config.rules import RESUMABLE, ModelPath, NotNegative, Positive, Seed
from dense_jax.config.training import (
    CheckpointConfig,
    NeighboursConfig,
    OptimizerConfig,
    Refresh,
    Schedule,
    Select,
    Stale,
    Track,
    ValidationConfig,
    profiled_steps,
)
from dense_jax.errors import require

if TYPE_CHECKING:
    from dense_jax.objective import Objective
else:
    Objective = Any  # importing the contracts imports JAX, which takes a second that a wrong flag need not wait for

_LEARNED_FROM = {  # the class that an objective learns from -> in words, and the units that have it
    "Passage": ("passages, spans or chunks", (Unit.PASSAGES, Unit.SPANS, Unit.CHUNKS)),
    "TrainingQuery": ("queries", (Unit.QUERIES,)),
    "QAExample": ("questions that passages answer", (Unit.PASSAGES,)),
}


@dataclass
class Config:
    objective: Objective
    steps: NotNegative[int]
    batch: Positive[int]  # examples per step over all devices
    tokens: NotNegative[int] = 0  # in place of steps: train until this many tokens are seen, padding not counted
    chunk: NotNegative[int] = 0  # examples encoded at a time, over all devices (gradient cache); 0: the whole batch
    seed: Seed = 0
    # to start from: a workdir, WORKDIR/checkpoints/STEP, a Hugging Face folder, or ORG/NAME[@REVISION] of the Hub
    init_from: ModelPath = ""
    init_reader_from: ModelPath = ""  # the same, for the reader of an objective that has one; empty: init_from
    log_every: Positive[int] = field(default=10, metadata=RESUMABLE)  # steps
    # steps from one look for signs of collapse to the next; 0: never
    diagnose_every: NotNegative[int] = field(default=100, metadata=RESUMABLE)
    profile: str = field(default="", metadata=RESUMABLE)  # START:STEPS to trace (docs/performance.md); empty: none
    track: Track = field(default=Track.NONE, metadata=RESUMABLE)  # that metrics are sent to (docs/performance.md)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    passages: PassagesConfig = field(default_factory=PassagesConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig, metadata=RESUMABLE)
    spans: SpansConfig = field(default_factory=SpansConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig, metadata=RESUMABLE)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=RESUMABLE)
    validation: ValidationConfig = field(default_factory=ValidationConfig, metadata=RESUMABLE)
    embed: EmbedConfig = field(default_factory=EmbedConfig, metadata=RESUMABLE)
    index: IndexConfig = field(default_factory=IndexConfig, metadata=RESUMABLE)
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    search: SearchConfig = field(default_factory=SearchConfig, metadata=RESUMABLE)
    fusion: FusionConfig = field(default_factory=FusionConfig, metadata=RESUMABLE)
    mine: MineConfig = field(default_factory=MineConfig, metadata=RESUMABLE)
    filter: FilterConfig = field(default_factory=FilterConfig, metadata=RESUMABLE)
    answer: AnswerConfig = field(default_factory=AnswerConfig, metadata=RESUMABLE)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig, metadata=RESUMABLE)
    export: ExportConfig = field(default_factory=ExportConfig, metadata=RESUMABLE)

    def __post_init__(self) -> None:
        require(
            self.chunk == 0 or self.batch % self.chunk == 0,
            f"chunk={self.chunk} does not divide batch={self.batch}; 0 means the whole batch",
        )
        require(
            not (self.tokens and self.steps),
            f"tokens={self.tokens} and steps={self.steps} both say how long to train; set one of them to 0",
        )
        require(
            not (self.corpus.held_out and self.passages.unit is Unit.QUERIES),
            f"corpus.held_out={self.corpus.held_out} takes documents out that queries may be about, with "
            "passages.unit=queries; use 0, and name judged queries by --evaluate.folder=DIR",
        )
        require(
            not (self.corpus.near_duplicates and self.passages.unit is Unit.QUERIES),
            f"corpus.near_duplicates={self.corpus.near_duplicates} leaves out documents that queries may be about, "
            "with passages.unit=queries; use 0.0",
        )
        by_source = {"loader.weights": self.loader.weights}
        for name in ("query_prompts", "passage_prompts"):  # of fine-tuning
            by_source[f"objective.{name}"] = getattr(self.objective, name, ())
        for name, values in by_source.items():
            require(
                len(values) in (0, len(self.corpus.sources)),
                f"{name}={values} is not one value for each of {len(self.corpus.sources)} sources, those in "
                f"corpus.source and corpus.also; give --{name}=VALUE for each, or for none",
            )
        require(
            not self.spans.sources or self.passages.unit is Unit.PASSAGES,
            f"spans.{', spans.'.join(self.spans.sources)} find the salient spans of passages, and passages.unit="
            f"{self.passages.unit.value} have none; use --passages.unit=passages",
        )
        require(
            self.optimizer.warmup <= self.steps or self.steps == 0,
            f"optimizer.warmup={self.optimizer.warmup} is more than steps={self.steps}",
        )
        profiled_steps(self.profile)
        self._check_objective()

    def _check_objective(self) -> None:
        """Check that the data are what the objective learns from."""
        from dense_jax.objective import PASSAGE  # here, where the objective has imported JAX anyway

        method, noun = type(self.objective).__name__, self.objective.learns_from.__name__
        words, units = _LEARNED_FROM[noun]
        only = f": use --passages.unit={units[0].value}" if len(units) == 1 else ""
        require(
            self.passages.unit in units,
            f"passages.unit={self.passages.unit.value} does not fit {method}, which learns from {words}{only}",
        )
        require(
            noun == "QAExample" or not self.corpus.questions,
            f"corpus.questions={self.corpus.questions} does not fit {method}, which learns from {words}; leave it out",
        )
        require(
            not self.objective.masks_spans or bool(self.spans.sources),
            f"{method} masks salient spans, and no source of spans is given; use --spans.capitals=true, "
            "spans.patterns, spans.titles, or --spans.precomputed=FILE",
        )
        require(
            not (self.objective.retrieves and PASSAGE in self.objective.frozen and self.neighbours.every),
            f"neighbours.every={self.neighbours.every} would make the same index again: {method} leaves the encoder of "
            "passages as it is; use 0",
        )


def choose(variant: str, **variants: Callable[[], Config]) -> Config:
    """The config that `variants` builds under the name after the colon of `--config=FILE:variant`.

    Raises:
        ConfigError: no variant has that name; lists the variants.
    """
    require(variant in variants, f"no variant {variant!r} in this config file; it has {', '.join(variants)}")
    return variants[variant]()


__all__ = [
    "HEADLINE",
    "AnswerConfig",
    "CheckpointConfig",
    "Config",
    "CorpusConfig",
    "DropSameId",
    "EmbedConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FilterConfig",
    "FusionConfig",
    "FusionMethod",
    "GradientDtype",
    "IndexConfig",
    "IndexKind",
    "LoaderConfig",
    "Margin",
    "MeshConfig",
    "MineConfig",
    "Miner",
    "Mixing",
    "NeighboursConfig",
    "OptimizerConfig",
    "Order",
    "PassagesConfig",
    "Pick",
    "Precision",
    "PrepareConfig",
    "Refresh",
    "Runner",
    "Schedule",
    "SearchConfig",
    "Select",
    "SpansConfig",
    "Stale",
    "TokenizerConfig",
    "Track",
    "Unit",
    "ValidationConfig",
    "choose",
    "profiled_steps",
    "require",
]
