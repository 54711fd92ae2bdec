"""Settings of the use of a trained model: vectors, index, search, fusion, negatives, answers, evaluation."""

import enum
from dataclasses import dataclass
from typing import Annotated

from dense_jax.config.licences import check_licence
from dense_jax.config.rules import DataPath, NotNegative, Positive, Seed, Share, at_least
from dense_jax.errors import require

HEADLINE = ("nDCG@10", "MRR@10", "Recall@100")  # the measures that are shown first


class IndexKind(enum.Enum):
    """The kind of search for the nearest vectors."""

    AUTO = "auto"  # exact below 20,000 vectors, ScaNN from there
    EXACT = "exact"  # all inner products, over all devices
    APPROXIMATE = "approximate"  # all inner products, then jax.lax.approx_max_k
    SCANN = "scann"  # tree, asymmetric hashing, re-ordering


class Precision(enum.Enum):
    """The type of stored vectors."""

    FLOAT32 = "float32"
    INT8 = "int8"  # a quarter of the disk, and of the memory of exact search; queries stay float32


@dataclass
class EmbedConfig:
    collection: DataPath = ""  # BEIR folder or file to embed and search; empty: all sources of the corpus
    step: Annotated[int, at_least(-1)] = -1  # checkpoint; -1: the newest, or what validation.select says
    split: bool = False  # documents that are too long for the encoder become several passages; else they are cut
    width: NotNegative[int] = 0  # first numbers of each vector that are used, as objective.matryoshka allows; 0: all
    precision: Precision = Precision.FLOAT32
    batch: Positive[int] = 256  # texts at a time, of each process
    shard_size: Positive[int] = 8_192  # passages per file; an interrupted run repeats at most one file


@dataclass
class IndexConfig:
    kind: IndexKind = IndexKind.AUTO
    leaves: NotNegative[int] = 0  # of ScaNN's tree; 0: about the square root of the number of vectors
    leaves_searched: NotNegative[int] = 0  # 0: a tenth of the leaves, doubled until recall@10 on the sample is 0.99
    reorder: Positive[int] = 100  # candidates scored again exactly
    # shards of the ScaNN index, each over whole files of embeddings; 0: one for each process that builds it
    parts: NotNegative[int] = 0
    # vectors used as queries to measure recall@10 against exact search; 0: not measured
    sample: NotNegative[int] = 1_000


@dataclass
class SearchConfig:
    k: Positive[int] = 5  # results per query


class FusionMethod(enum.Enum):
    """The values that are summed where the rankings of BM25 and of the trained retriever become one."""

    RRF = "rrf"  # reciprocal ranks, 1 / (60 + rank)
    ZSCORE = "zscore"  # scores, with mean 0 and standard deviation 1 in each ranking


@dataclass
class FusionConfig:
    """Settings of hybrid search, the fusion of BM25 and the trained retriever."""

    method: FusionMethod = FusionMethod.RRF
    weight: Share[float] = 0.5  # of the trained retriever; BM25 has the rest
    depth: Positive[int] = 100  # documents that each of the two ranks; at least as many as are to be found


class Miner(enum.Enum):
    """The ranker of the documents that negatives are taken from."""

    DENSE = "dense"  # the trained retriever, by its index
    BM25 = "bm25"
    HYBRID = "hybrid"  # both, by fusion


class Margin(enum.Enum):
    """Distance by which a mined negative must score below s, the score of the lowest-scored positive."""

    NONE = "none"  # no limit
    ABSOLUTE = "absolute"  # at most s - margin_size
    RELATIVE = "relative"  # at most s - |s| margin_size; 0.05 is known as the 95 % rule


class Pick(enum.Enum):
    """The choice of negatives among the documents that are left."""

    RANDOM = "random"
    TOP = "top"  # the best


@dataclass
class MineConfig:
    source: Miner = Miner.DENSE
    depth: Positive[int] = 200  # documents ranked per query, its positives not counted
    # top-ranked documents to skip, after positives and what the margin leaves out are removed
    skip: NotNegative[int] = 0
    negatives: Positive[int] = 30  # per query; fewer if fewer documents are left
    pick: Pick = Pick.RANDOM
    margin: Margin = Margin.NONE
    margin_size: NotNegative[float] = 0.0
    guide: bool = False  # also write the vectors of all texts, for corpus.guide

    def __post_init__(self) -> None:
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
            f"mine.guide={self.guide} is written with mine.source=dense only, not {self.source.value}; leave it out",
        )


@dataclass
class FilterConfig:
    """Settings of the consistency filter of training pairs."""

    k: Positive[int] = 2  # a pair stays if its passage is among the best k for its query
    # random passages that it competes with; 0: all. Each process holds their vectors in the memory of its devices
    pool: NotNegative[int] = 1_000_000
    seed: Seed = 0  # of the pool


@dataclass
class AnswerConfig:
    # file of questions with answers, to be scored on; empty: the questions of the command line
    questions: DataPath = ""
    patterns: bool = False  # all its answers are regular expressions, as CuratedTREC's
    read: bool = True  # false: the retriever alone is measured, though the run has a reader
    batch: Positive[int] = 16  # questions whose passages are read at a time, over all devices

    def __post_init__(self) -> None:
        require(
            bool(self.questions) or not self.patterns,
            f"answer.patterns={self.patterns} describes the answers of answer.questions, which is empty; name a "
            "file, or leave it out",
        )
        require(
            bool(self.questions) or self.read,
            f"answer.read={self.read} needs a file of questions with answers; name it by --answer.questions=FILE, "
            "or use `dense-jax search`",
        )


class DropSameId(enum.Enum):
    """The rule for documents that have the id of a query: which of them its ranking leaves out."""

    AUTO = "auto"  # those with the query's text; all, where at least half of them have it, as in ArguAna
    ALWAYS = "always"  # all, as BEIR does
    NEVER = "never"


@dataclass
class EvaluateConfig:
    folder: DataPath = ""  # BEIR folder; empty: the test set that `prepare` held out
    split: str = "test"  # qrels/SPLIT.tsv
    dev_split: str = ""  # qrels/SPLIT.tsv whose queries choose fusion.weight; empty: it is as given
    depth: Annotated[int, at_least(100)] = 100  # documents ranked per query; Recall@100 needs 100
    before: bool = True  # also evaluate the parameters at step 0
    drop_same_id: DropSameId = DropSameId.AUTO  # of the documents that have the id of the query
    bm25: bool = True
    bm25_k1: NotNegative[float] = 0.9
    bm25_b: Share[float] = 0.4

    def __post_init__(self) -> None:
        require(
            not self.dev_split or self.dev_split != self.split,
            f"evaluate.dev_split={self.dev_split} is evaluate.split too: a weight chosen on the test queries says "
            "nothing about others; name another split",
        )
        require(
            not self.dev_split or self.bm25,
            f"evaluate.dev_split={self.dev_split} has no effect with evaluate.bm25=false; leave it out",
        )


@dataclass
class ExportConfig:
    """Facts for the model card that only the author knows."""

    licence: str = ""  # of the weights, as the Hugging Face Hub spells it, such as apache-2.0; empty: none is named

    def __post_init__(self) -> None:
        if self.licence:
            check_licence("export.licence", self.licence)
