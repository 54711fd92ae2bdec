"""Every setting, its default and its unit; the rules that they must keep together.

A config file (`configs/`) builds one `Config` and nothing else. Overrides (`--config.batch=64`) are applied by
`flags.py`, then `config_tree.checked` rebuilds the tree, so that each `__post_init__` sees the final values.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from dense_jax.contracts import PASSAGE, Answered, Objective, Passage, Question, Retrieves
from dense_jax.errors import ConfigError

HEADLINE = ("nDCG@10", "MRR@10", "Recall@100")  # the measures that are shown first


class Order(enum.Enum):
    """In which order training visits passages."""

    LOCALITY = "locality"  # a few readers, each in the corpus's order: neighbours meet as in-batch negatives
    SHUFFLE = "shuffle"  # a fresh global permutation every epoch
    DISTINCT = "distinct"  # the same, in whole batches of which none holds a text twice


class Mixing(enum.Enum):
    """What is drawn together from one source, where a corpus has several."""

    EXAMPLE = "example"  # each example by itself, as in Contriever's code
    BATCH = "batch"  # all examples of a batch, as in Contriever's paper


class Schedule(enum.Enum):
    """Learning rate after the warm-up, which is linear from 0."""

    LINEAR = "linear"  # from the peak at the end of the warm-up to 0 at the last step
    BERT = "bert"  # peak * (1 - step/steps): a small jump down at the end of the warm-up, as BERT's optimiser has it
    COSINE = "cosine"  # half a cosine from the peak to 0
    CONSTANT = "constant"


class IndexKind(enum.Enum):
    """How nearest vectors are found."""

    AUTO = "auto"  # exact below 20,000 vectors, ScaNN from there
    EXACT = "exact"  # all inner products, over all devices
    APPROXIMATE = "approximate"  # the same, the best of them found by TPUs' own approximate operation
    SCANN = "scann"  # tree, asymmetric hashing, re-ordering


@dataclass
class CorpusConfig:
    # BEIR or MS MARCO folder; .jsonl, .json, .tsv (.gz, .xz too) or .parquet file, of documents or of queries with
    # texts; tfds:NAME; or installed (documentation)
    source: str = "installed"
    also: tuple[str, ...] = ()  # further sources of any form, their rows after those of `source`; fields as there
    split: str = "train"  # of a TFDS data set; of the queries in a BEIR or MS MARCO folder, with passages.unit=queries
    queries: tuple[str, ...] = ()  # files of queries about the documents, as `mine` writes; empty: the source's own
    guide: str = ""  # folder that `mine` wrote with mine.guide, for objective.false_negatives=guide
    questions: str = ""  # file of questions with answers (NQ-open, DPR, SQuAD, TSV), to be learned from by ORQA
    query_share: float = 1.0  # of the queries, to be learned from; their ids decide which
    id_field: str = "_id"  # JSONL and TFDS; rows without it are numbered
    title_field: str = "title"  # may be absent
    text_field: str = "text"
    max_characters: int = 1_000_000  # a longer document is rejected
    max_rejects: float = 0.0  # largest share of rejected rows, in any one source, at which `prepare` still goes on
    held_out: int = 0  # documents whose first sentence becomes a test query, taken out of the training text
    limit: int = 0  # read at most so many documents of each source; 0: all

    def __post_init__(self) -> None:
        names = isinstance(self.also, tuple) and all(isinstance(name, str) and name for name in self.also)
        require(0 < self.query_share <= 1, f"corpus.query_share={self.query_share} must lie above 0 and up to 1")
        require(
            names, f"corpus.also={self.also!r} is not a tuple of sources; give --config.corpus.also=SOURCE for each"
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them, in the order in which they are read."""
        return (self.source, *self.also)


@dataclass
class TokenizerConfig:
    path: str = ""  # a Hugging Face tokenizer folder; empty: train a WordPiece vocabulary on the corpus
    vocab_size: int = 30_522  # of a trained vocabulary, special tokens included
    lowercase: bool = True  # of a trained vocabulary


class Unit(enum.Enum):
    """What one visit of training sees of the corpus."""

    PASSAGES = "passages"  # a run of whole sentences of one document; for ORQA a question to be answered by them
    SPANS = "spans"  # a document as spans, each a run of whole sentences; for coCondenser, which contrasts them
    CHUNKS = "chunks"  # so many tokens of running text, from any place on, across documents; for Contriever
    QUERIES = "queries"  # a query with what answers it and what does not; for fine-tuning


@dataclass
class PassagesConfig:
    unit: Unit = Unit.PASSAGES
    length: int = 288  # tokens of a passage or span, special ones and title included; of a chunk, without them
    titled: bool = True  # passages leave room for their title, chunks have it before the text
    short_rate: float = 0.0  # share of passages or spans whose length is drawn between 1 and `length` (Condenser: 0.1)
    shard_size: int = 32_768  # passages per file
    workdir: str = ""  # where tokenizer, passages and test set are, for several runs to share; empty: the run's own

    def __post_init__(self) -> None:
        require(self.length > 3, f"passages.length={self.length} leaves no room beside three special tokens")
        require(0 <= self.short_rate <= 1, f"passages.short_rate={self.short_rate} is not between 0 and 1")
        require(
            not self.short_rate or self.unit is not Unit.CHUNKS,
            f"passages.short_rate={self.short_rate} shortens passages and spans, and passages.unit=chunks are all of "
            "one length; set it to 0",
        )


_LEARNED_FROM = {  # what an objective learns from -> in words, and the units that have it
    Passage: ("passages, spans or chunks", (Unit.PASSAGES, Unit.SPANS, Unit.CHUNKS)),
    Question: ("queries", (Unit.QUERIES,)),
    Answered: ("questions that passages answer", (Unit.PASSAGES,)),
}


@dataclass
class SpansConfig:
    """What finds the salient spans of passages, which REALM masks; without any source `prepare` looks for none.

    Several sources are joined; of spans that overlap the longest stays. How good each is: `data/salient.py`.
    """

    patterns: bool = False  # dates, numbers, money and percentages of English text
    capitals: bool = False  # names, by their capitals
    titles: bool = False  # names: the titles of the corpus's documents
    answers: str = ""  # file of questions with answers, which count as names: of a training split, never of a test
    precomputed: str = ""  # JSON lines {"id", "spans": [[start, end], ...]}, one for each document: what a tagger found
    random: float = 0.0  # share of all words that stand in random spans: an ablation, used alone
    random_mean: float = 3.0  # words of a random span
    random_seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.random <= 1, f"spans.random={self.random} is not between 0 and 1")
        require(self.random_mean >= 1, f"spans.random_mean={self.random_mean} is less than one word")
        others = [name for name in self.sources if name != "random"]
        require(
            not (self.random and others),
            f"spans.random={self.random} is to show what salient spans are worth, and is not joined with "
            f"{', '.join(f'spans.{name}' for name in others)}; use one or the other",
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of those that are used."""
        names = ("patterns", "capitals", "titles", "answers", "precomputed", "random")
        return tuple(name for name in names if getattr(self, name))


@dataclass
class LoaderConfig:
    order: Order = Order.LOCALITY
    readers: int = 12  # of the locality order, in each source
    mixing: Mixing = Mixing.EXAMPLE
    sampling_power: float = 0.0  # a source is drawn by its share of all tokens to this power; 0: all alike, 1: by size
    workers: int = 0  # processes that make examples; 0: in the trainer's process, by threads
    prefetch: int = 2  # batches held ready on the device

    def __post_init__(self) -> None:
        require(0 <= self.sampling_power <= 1, f"loader.sampling_power={self.sampling_power} is not between 0 and 1")


@dataclass
class OptimizerConfig:
    """AdamW."""

    learning_rate: float = 1e-4  # peak
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
    """Devices along each axis; -1 for one axis: all that are left."""

    data: int = -1  # batch
    fsdp: int = 1  # batch, and parameters


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

    every: int = 0  # steps; the state before the first step and that after the last are probed too; 0: never
    folder: str = ""  # BEIR folder of judged queries; empty: the test set that `prepare` held out
    split: str = "dev"  # qrels/SPLIT.tsv of the folder: queries that are chosen by are no test any more
    queries: int = 200  # of the sample
    documents: int = 5_000  # of the sample: all that are relevant, and others up to so many
    measure: str = HEADLINE[0]  # what the best is best in: nDCG@10, MRR@10 or Recall@100
    select: Select = Select.NEWEST  # the checkpoint that embed.step=-1 and init_from mean
    patience: int = 0  # probes in a row without a new best after which training ends; 0: only after the last step

    def __post_init__(self) -> None:
        require(self.every >= 0, f"probe.every={self.every} must not be negative; 0 means never")
        require(self.queries > 0, f"probe.queries={self.queries} must be positive")
        require(self.documents > 0, f"probe.documents={self.documents} must be positive")
        require(self.patience >= 0, f"probe.patience={self.patience} must not be negative; 0 means no early end")
        require(self.measure in HEADLINE, f"probe.measure={self.measure} is none of {', '.join(HEADLINE)}")
        require(
            self.every > 0 or self.select is Select.NEWEST,
            f"probe.select={self.select.value} needs probes to choose by; set --config.probe.every=STEPS",
        )
        require(
            self.every > 0 or not self.patience,
            f"probe.patience={self.patience} needs probes to count; set --config.probe.every=STEPS",
        )


@dataclass
class EmbedConfig:
    collection: str = ""  # BEIR folder or file to embed; empty: the held-out test set, or else the prepared passages
    step: int = -1  # checkpoint; -1: the newest, or what probe.select says
    split: bool = False  # documents that are too long for the encoder become several passages; else they are cut
    batch: int = 256  # texts at a time
    shard_size: int = 8_192  # passages per file: what an interrupted run repeats at most


@dataclass
class IndexConfig:
    kind: IndexKind = IndexKind.AUTO
    leaves: int = 0  # of ScaNN's tree; 0: about the square root of the number of vectors
    leaves_searched: int = 0  # 0: a tenth of the leaves, doubled until recall@10 on the sample is 0.99
    reorder: int = 100  # candidates scored again exactly
    sample: int = 1_000  # vectors used as queries to measure recall@10 against exact search; 0: not measured


@dataclass
class SearchConfig:
    k: int = 5  # results per query


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
    max_staleness: int = 5_000  # steps, of an asynchronous index; 0: any
    stale: Stale = Stale.WAIT
    patience: float = 3_600.0  # seconds
    keep: int = 3  # newest versions of the index on disk
    ahead: int = 2  # batches looked up while the devices work; 0: none

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
            "use --config.neighbours.every=500",
        )
        require(
            not asynchronous or not self.max_staleness or self.max_staleness > self.every,
            f"neighbours.max_staleness={self.max_staleness} is not above neighbours.every={self.every}: every index is "
            f"as old as that before the next snapshot; use --config.neighbours.max_staleness={4 * self.every}, or 0",
        )


class Miner(enum.Enum):
    """What ranks the documents that negatives are taken from."""

    DENSE = "dense"  # the trained retriever, by its index
    BM25 = "bm25"


class Margin(enum.Enum):
    """How far below the lowest-scored positive a negative must be."""

    NONE = "none"  # anywhere
    ABSOLUTE = "absolute"  # at most s - margin_size
    RELATIVE = "relative"  # at most s - |s| margin_size; 0.05 is known as the 95 % rule


class Pick(enum.Enum):
    """Which of the documents that are left become negatives."""

    RANDOM = "random"
    TOP = "top"  # the best


@dataclass
class MineConfig:
    source: Miner = Miner.DENSE
    depth: int = 200  # documents ranked per query, its positives not counted
    skip: int = 0  # best-ranked documents passed over, of those that are left
    negatives: int = 30  # per query; fewer where there are no more
    pick: Pick = Pick.RANDOM
    margin: Margin = Margin.NONE
    margin_size: float = 0.0
    guide: bool = False  # also write the vectors of all texts, for corpus.guide

    def __post_init__(self) -> None:
        require(self.negatives > 0, f"mine.negatives={self.negatives} must be positive")
        require(self.skip >= 0, f"mine.skip={self.skip} must not be negative")
        require(
            self.depth >= self.skip + self.negatives,
            f"mine.depth={self.depth} is less than mine.skip={self.skip} and mine.negatives={self.negatives} together",
        )
        require(
            self.margin is not Margin.NONE or not self.margin_size,
            f"mine.margin_size={self.margin_size} has no effect with mine.margin=none; use absolute or relative",
        )
        require(
            not self.guide or self.source is Miner.DENSE,
            f"mine.guide={self.guide} needs vectors, which mine.source={self.source.value} does not have",
        )


@dataclass
class AnswerConfig:
    questions: str = ""  # file of questions with answers, to be scored on; empty: the questions of the command line
    patterns: bool = False  # all its answers are regular expressions, as CuratedTREC's
    batch: int = 16  # questions whose passages are read at a time, over all devices

    def __post_init__(self) -> None:
        require(self.batch > 0, f"answer.batch={self.batch} must be positive")
        require(
            bool(self.questions) or not self.patterns,
            f"answer.patterns={self.patterns} says what the answers of answer.questions are, which names no file",
        )


@dataclass
class EvaluateConfig:
    folder: str = ""  # BEIR folder; empty: the test set that `prepare` held out
    split: str = "test"  # qrels/SPLIT.tsv
    depth: int = 100  # documents ranked per query
    before: bool = True  # also evaluate the parameters at step 0
    bm25: bool = True
    bm25_k1: float = 0.9
    bm25_b: float = 0.4


@dataclass
class Config:
    objective: Objective
    steps: int
    batch: int  # examples per step over all devices
    tokens: int = 0  # in place of steps: as many as it takes to see so many tokens, padding not counted
    chunk: int = 0  # examples encoded at a time, over all devices (gradient cache); 0: the whole batch
    seed: int = 0
    init_from: str = ""  # to start from: a workdir, WORKDIR/checkpoints/STEP, or a Hugging Face folder
    init_reader_from: str = ""  # the same, for the reader of an objective that has one; empty: init_from
    log_every: int = 10  # steps
    diagnose_every: int = 100  # steps from one look for signs of collapse to the next; 0: never
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    passages: PassagesConfig = field(default_factory=PassagesConfig)
    spans: SpansConfig = field(default_factory=SpansConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    mine: MineConfig = field(default_factory=MineConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps={self.steps} must not be negative")
        require(self.diagnose_every >= 0, f"diagnose_every={self.diagnose_every} must not be negative; 0 means never")
        require(self.batch > 0, f"batch={self.batch} must be positive")
        require(self.chunk >= 0, f"chunk={self.chunk} must not be negative; 0 means the whole batch")
        require(
            self.chunk == 0 or self.batch % self.chunk == 0,
            f"chunk={self.chunk} does not divide batch={self.batch}; 0 means the whole batch",
        )
        require(
            self.tokens >= 0, f"tokens={self.tokens} must not be negative; 0 means that steps says how long to train"
        )
        require(
            not (self.tokens and self.steps),
            f"tokens={self.tokens} and steps={self.steps} both say how long to train; set one of them to 0",
        )
        require(
            not (self.corpus.held_out and self.passages.unit is Unit.QUERIES),
            f"corpus.held_out={self.corpus.held_out} takes documents out that queries may be about, with "
            "passages.unit=queries; use 0, and name judged queries by --config.evaluate.folder=DIR",
        )
        require(
            not self.spans.sources or self.passages.unit is Unit.PASSAGES,
            f"spans.{', spans.'.join(self.spans.sources)} find the salient spans of passages, and passages.unit="
            f"{self.passages.unit.value} are none; use --config.passages.unit=passages",
        )
        require(
            self.optimizer.warmup <= self.steps or self.steps == 0,
            f"optimizer.warmup={self.optimizer.warmup} is more than steps={self.steps}",
        )
        self._check_objective()

    def _check_objective(self) -> None:
        """Whether the data are what the objective learns from."""
        method, noun = type(self.objective).__name__, self.objective.learns_from
        words, units = _LEARNED_FROM[noun]
        only = f": use --config.passages.unit={units[0].value}" if len(units) == 1 else ""
        require(
            self.passages.unit in units,
            f"passages.unit={self.passages.unit.value} does not fit {method}, which learns from {words}{only}",
        )
        require(
            noun is Answered or not self.corpus.questions,
            f"corpus.questions={self.corpus.questions} is nothing that {method} learns from, which is {words}",
        )
        require(
            not self.objective.masks_spans or bool(self.spans.sources),
            f"{method} masks salient spans, and nothing says what finds them; use --config.spans.capitals=true, "
            "spans.patterns, spans.titles, or --config.spans.precomputed=FILE",
        )
        require(
            not (isinstance(self.objective, Retrieves) and PASSAGE in self.objective.frozen and self.neighbours.every),
            f"neighbours.every={self.neighbours.every} would make the same index again: {method} leaves the encoder of "
            "passages as it is; use 0",
        )


def choose(variant: str, **variants: Callable[[], Config]) -> Config:
    """The config that `variants` builds under the name after the colon of `--config=FILE:variant`.

    Raises:
        ConfigError: there is none of that name; lists those there are.
    """
    require(variant in variants, f"no variant {variant!r} in this config file; there are {', '.join(variants)}")
    return variants[variant]()


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)
