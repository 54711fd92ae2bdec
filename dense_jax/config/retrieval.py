"""What is done with what was trained: vectors, index, search, negatives, answers, evaluation."""

import enum
from dataclasses import dataclass, field

from dense_jax.config.marks import PATH
from dense_jax.errors import require

HEADLINE = ("nDCG@10", "MRR@10", "Recall@100")  # the measures that are shown first


class IndexKind(enum.Enum):
    """How nearest vectors are found."""

    AUTO = "auto"  # exact below 20,000 vectors, ScaNN from there
    EXACT = "exact"  # all inner products, over all devices
    APPROXIMATE = "approximate"  # the same, the best of them found by TPUs' own approximate operation
    SCANN = "scann"  # tree, asymmetric hashing, re-ordering


@dataclass
class EmbedConfig:
    # BEIR folder or file to embed; empty: the held-out test set, or else the prepared passages
    collection: str = field(default="", metadata=PATH)
    step: int = -1  # checkpoint; -1: the newest, or what probe.select says
    split: bool = False  # documents that are too long for the encoder become several passages; else they are cut
    batch: int = 256  # texts at a time, of each process
    shard_size: int = 8_192  # passages per file: what an interrupted run repeats at most


@dataclass
class IndexConfig:
    kind: IndexKind = IndexKind.AUTO
    leaves: int = 0  # of ScaNN's tree; 0: about the square root of the number of vectors
    leaves_searched: int = 0  # 0: a tenth of the leaves, doubled until recall@10 on the sample is 0.99
    reorder: int = 100  # candidates scored again exactly
    parts: int = 0  # of ScaNN's index, each over whole files of embeddings; 0: one for each process that builds it
    sample: int = 1_000  # vectors used as queries to measure recall@10 against exact search; 0: not measured


@dataclass
class SearchConfig:
    k: int = 5  # results per query


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
    # file of questions with answers, to be scored on; empty: the questions of the command line
    questions: str = field(default="", metadata=PATH)
    patterns: bool = False  # all its answers are regular expressions, as CuratedTREC's
    read: bool = True  # false: the retriever alone is measured, though the run has a reader
    batch: int = 16  # questions whose passages are read at a time, over all devices

    def __post_init__(self) -> None:
        require(self.batch > 0, f"answer.batch={self.batch} must be positive")
        require(
            bool(self.questions) or not self.patterns,
            f"answer.patterns={self.patterns} says what the answers of answer.questions are, which names no file",
        )
        require(
            bool(self.questions) or self.read,
            f"answer.read={self.read} leaves answer recall, which takes answer.questions; without a file there is "
            "nothing to do but to read: use `dense-jax search`",
        )


@dataclass
class EvaluateConfig:
    folder: str = field(default="", metadata=PATH)  # BEIR folder; empty: the test set that `prepare` held out
    split: str = "test"  # qrels/SPLIT.tsv
    depth: int = 100  # documents ranked per query
    before: bool = True  # also evaluate the parameters at step 0
    bm25: bool = True
    bm25_k1: float = 0.9
    bm25_b: float = 0.4


@dataclass
class ExportConfig:
    """Facts on the model card that only its author knows."""

    licence: str = ""  # of the weights, as the Hugging Face Hub spells it, such as apache-2.0; empty: none is named
