"""Settings of the training data: corpus, tokenizer, passages, salient spans, and the order of visits."""

import enum
from dataclasses import dataclass, field
from typing import Annotated

from dense_jax.config.rules import (
    PRIVATE,
    RESUMABLE,
    DataPath,
    DiskPath,
    ModelPath,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareAbove0,
    at_least,
)
from dense_jax.errors import require

_FINEST = 0.98  # the largest similarity that MinHash distinguishes from equality


class Order(enum.Enum):
    """The order in which training visits passages."""

    LOCALITY = "locality"  # a few readers, each in the corpus's order: neighbours meet as in-batch negatives
    SHUFFLE = "shuffle"  # a new global permutation every epoch
    DISTINCT = "distinct"  # the same in whole batches without repeated texts, for which a few rows come twice


class Mixing(enum.Enum):
    """The unit that is drawn from one of several sources."""

    EXAMPLE = "example"  # each example by itself, as in Contriever's code
    BATCH = "batch"  # all examples of a batch, as in Contriever's paper


@dataclass
class CorpusConfig:
    # BEIR or MS MARCO folder; .jsonl, .json, .csv, .tsv (.gz, .xz too) or .parquet file, of documents or of queries
    # with texts; .txt file or folder of them; hf:ORG/NAME[/CONFIGURATION][:SPLIT] of the Hugging Face Hub, ir:NAME of
    # ir_datasets, or tfds:NAME; or installed, the documentation of the installed packages.
    # Files and folders may lie in a bucket: gs://..., s3://...
    source: DataPath = ""
    also: tuple[DataPath, ...] = ()  # further sources of any form, read after `source` with the same names of fields
    split: str = "train"  # of a TFDS data set; of the queries in a BEIR or MS MARCO folder, with passages.unit=queries
    # files of queries about the documents, as `mine` writes; empty: the source's own
    queries: tuple[DataPath, ...] = ()
    guide: DiskPath = ""  # folder that `mine` wrote with mine.guide, for objective.false_negatives=guide
    questions: DataPath = ""  # file of questions with answers (NQ-open, DPR, SQuAD, TSV), to be learned from by ORQA
    query_share: ShareAbove0[float] = 1.0  # share of the queries for training, chosen by their ids
    # Names of fields. The defaults stand for all known names (data/sources/fields.py); some row must have another name.
    id_field: str = "_id"  # rows are numbered where none has an id
    title_field: str = "title"
    text_field: str = "text"
    max_characters: Positive[int] = 1_000_000  # a longer document is rejected
    # largest accepted share of rejected rows in any one source; in a searched collection, rows without text are not
    # counted
    max_rejects: Share[float] = field(default=0.0, metadata=RESUMABLE)
    # documents whose first sentence becomes a test query, taken out of the training text
    held_out: NotNegative[int] = 0
    limit: NotNegative[int] = 0  # read at most this many documents of each source; 0: all
    # Jaccard similarity of three-word runs from which all documents but the first are left out, 0.7 to 0.9 in the
    # literature; 1.0: documents of equal words; 0.0: keep all
    near_duplicates: Share[float] = 0.0

    def __post_init__(self) -> None:
        names = isinstance(self.also, tuple) and all(isinstance(name, str) and name for name in self.also)
        require(names, f"corpus.also={self.also!r} is not a tuple of sources; give --corpus.also=SOURCE for each")
        require(
            0 <= self.near_duplicates <= _FINEST or self.near_duplicates == 1,
            f"corpus.near_duplicates={self.near_duplicates} is a similarity up to {_FINEST}, which sketches can tell, "
            "or 1.0 for equal words, or 0.0",
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them, in the order in which they are read."""
        return (self.source, *self.also)


@dataclass
class TokenizerConfig:
    # a Hugging Face tokenizer folder, or ORG/NAME[@REVISION] of the Hub; empty: that of init_from, else train a
    # WordPiece vocabulary on the corpus
    path: ModelPath = ""
    vocab_size: Annotated[int, at_least(32)] = 30_522  # of a trained vocabulary, special tokens included
    lowercase: bool = True  # of a trained vocabulary


class Runner(enum.Enum):
    """The runner of `prepare`; the result is the same to the last byte."""

    LOCAL = "local"  # this process
    BEAM = "beam"  # the workers of an Apache Beam pipeline; extra `beam`


@dataclass
class PrepareConfig:
    """The place where a corpus is prepared."""

    runner: Runner = Runner.LOCAL
    # of the pipeline: "--runner=DataflowRunner --project=..."; empty: a process for each core here
    options: str = field(default="", metadata=PRIVATE)
    # folder that all workers reach, for data between them, gs:// and s3:// too; empty: the folder of the passages
    staging: DataPath = ""

    def __post_init__(self) -> None:
        beam = [f"prepare.{name}" for name in ("options", "staging") if getattr(self, name)]
        require(
            self.runner is Runner.BEAM or not beam,
            f"{' and '.join(beam)} can be given to a Beam pipeline alone; use --prepare.runner=beam",
        )
        require(
            not self.options or "--runner=" in self.options,
            f"prepare.options={self.options} names no runner, such as --runner=DataflowRunner",
        )


class Unit(enum.Enum):
    """The unit of the corpus that one visit of training sees."""

    PASSAGES = "passages"  # a run of whole sentences of one document; for ORQA a question to be answered by them
    SPANS = "spans"  # a document as spans, each a run of whole sentences; for coCondenser, which contrasts them
    CHUNKS = "chunks"  # `length` tokens of running text from any position, across documents; for Contriever
    QUERIES = "queries"  # a query with what answers it and what does not; for fine-tuning


@dataclass
class PassagesConfig:
    unit: Unit = Unit.PASSAGES
    # tokens of a passage or span, special ones and title included; of a chunk, without them
    length: Annotated[int, at_least(4)] = 288
    titled: bool = True  # passages leave room for their title, chunks have it before the text
    # share of passages or spans with a random length between 1 and `length` (Condenser: 0.1)
    short_rate: Share[float] = 0.0
    shard_size: Positive[int] = field(default=32_768, metadata=RESUMABLE)  # passages per file
    # workdir with tokenizer, passages and test set, which several runs may share; empty: the run's own
    workdir: DiskPath = field(default="", metadata=RESUMABLE)

    def __post_init__(self) -> None:
        require(
            not self.short_rate or self.unit is not Unit.CHUNKS,
            f"passages.short_rate={self.short_rate} shortens passages and spans, and passages.unit=chunks are all of "
            "one length; set it to 0",
        )


@dataclass
class SpansConfig:
    """The sources of the salient spans of passages, which REALM masks; without any of them there are no spans.

    Several sources are joined; of spans that overlap the longest stays. How good each is: `data/salient/taggers.py`.
    """

    patterns: bool = False  # dates, numbers, money and percentages of English text
    capitals: bool = False  # names, by their capitals
    titles: bool = False  # names: the titles of the corpus's documents
    answers: DataPath = ""  # file of questions with answers, which count as names: of a training split, never of a test
    # JSON lines {"id", "spans": [[start, end], ...]}, one for each document: what a tagger found
    precomputed: DataPath = ""
    random: Share[float] = 0.0  # share of all words that stand in random spans: an ablation, used alone
    random_mean: Annotated[float, at_least(1)] = 3.0  # words of a random span
    random_seed: Seed = 0

    def __post_init__(self) -> None:
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
    readers: Positive[int] = 12  # of the locality order, in each source
    mixing: Mixing = Mixing.EXAMPLE
    # a source is drawn by its share of all tokens to this power; 0: all alike, 1: by size
    sampling_power: Share[float] = 0.0
    # factors of the probability of each source, one for each of corpus.source and corpus.also; empty: all alike
    weights: tuple[Positive[float], ...] = ()
    # processes that make examples; 0: in the trainer's process, by threads
    workers: NotNegative[int] = field(default=0, metadata=RESUMABLE)
    prefetch: NotNegative[int] = field(default=2, metadata=RESUMABLE)  # batches held ready on the device
