"""The data types of the package: documents, passages, training queries, tokens, encoders, towers and rankings."""

import abc
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dense_jax.arrays import Array, Bool, Float, Int, Params, PRNGKeyArray


@dataclass(frozen=True, slots=True)
class Document:
    """A text as its source gives it."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A row of a source that cannot be used, and why."""

    where: str  # file:line, or as near as the source allows
    reason: str


@runtime_checkable
class Corpus(Protocol):
    """A source of documents."""

    @property
    def name(self) -> str: ...

    def __iter__(self) -> Iterator[Document | Reject]:
        """All rows in the source's order; a bad row is a `Reject`, never dropped and never an exception."""
        ...


NO_SPANS: Int[np.ndarray, "n 2"] = np.empty((0, 2), np.int32)
NO_SPANS.flags.writeable = False  # all passages without spans share it


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of whole sentences of one document, or a window of running text; tokenised without special tokens."""

    row: int  # its number in the prepared data, the same in every shard order
    title: Int[np.ndarray, " t"]
    tokens: Int[np.ndarray, " l"]
    sentences: Int[np.ndarray, " s"]  # starts in `tokens`; the first is 0, even if the passage starts mid-sentence
    # first token and one past the last of each salient span, in order and apart, each inside one sentence
    spans: Int[np.ndarray, "n 2"] = field(default_factory=lambda: NO_SPANS)

    def sentence(self, i: int) -> slice:
        """The tokens of sentence `i`."""
        end = self.sentences[i + 1] if i + 1 < len(self.sentences) else len(self.tokens)
        return slice(int(self.sentences[i]), int(end))


class Candidates(NamedTuple):
    """Passages that a question was judged with, as rows of its documents."""

    rows: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]  # of a teacher; NaN: missing


class Guide(NamedTuple):
    """The vectors that another model gives a question and all documents, to detect false negatives."""

    query: Float[np.ndarray, " d"]
    documents: Float[np.ndarray, "p d"]  # a memory map: only a few rows are read


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query with the passages that answer it and with hard negatives."""

    row: int  # its number in the prepared data
    epoch: int  # earlier samples of it: each takes the next of the candidates
    tokens: Int[np.ndarray, " l"]  # without special tokens and prompt
    positives: Candidates  # one at least
    negatives: Candidates
    documents: "PassageCollection"  # whole; the candidates are rows of it
    guide: Guide | None = None
    source: int = 0  # number of the source that it is from, in the order of the corpus's


@dataclass(frozen=True, slots=True)
class QAExample:
    """A question with all of its answers; the passages that hold them are not known."""

    row: int  # its number among the questions
    tokens: Int[np.ndarray, " l"]  # without special tokens
    answers: tuple[str, ...]  # one at least, none empty
    answer_tokens: Sequence[Int[np.ndarray, " _"]]  # of each


ExampleSource = Passage | TrainingQuery | QAExample  # what an example is made from


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The prepared passages of one source."""

    name: str
    rows: range
    tokens: int  # of all of them


class PassageCollection(abc.ABC):
    """Prepared passages that are searched, by row, in a fixed order."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, row: int) -> Passage: ...

    @abc.abstractmethod
    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """Many at once, which is faster than one by one."""

    @abc.abstractmethod
    def document(self, row: int) -> Document:
        """Id, title and text of a passage."""

    def texts(self, rows: Sequence[int]) -> list[Document]:
        """Many at once, which may be faster than one by one."""
        return [self.document(row) for row in rows]

    @abc.abstractmethod
    def ids(self) -> list[str]:
        """The document id of each row."""


class TrainingSet(abc.ABC):
    """Prepared rows that training samples its examples from, in a fixed order."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> ExampleSource:
        """The source of an example, after `epoch` earlier samples of `row`: a passage, a random cut of running text, or
        a query."""

    def samples(self, rows: Sequence[int], epoch: int) -> Sequence[ExampleSource]:
        """The sources of many rows that do not depend on noise; reading many at once may be faster."""
        return [self.sample(row, epoch, np.random.default_rng(0)) for row in rows]

    @abc.abstractmethod
    def document(self, row: int) -> Document:
        """Id and text of a row."""

    @abc.abstractmethod
    def parts(self) -> Sequence[SourceRows]:
        """All rows, source by source."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The facts on a tokenizer that an objective needs; small, numpy only, travels to data workers."""

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int | None  # None: the tokenizer has no mask token
    special: Bool[np.ndarray, " v"]  # never masked, never part of a word
    continues: Bool[np.ndarray, " v"]  # the piece belongs to the word of the piece before it
    prompts: Mapping[str, Int[np.ndarray, " l"]] = field(default_factory=dict)  # the ids of the objective's prompts

    def prompt_ids(self, prompt: str) -> Int[np.ndarray, " l"]:
        """The ids of one of the objective's prompts; no ids for the empty prompt."""
        return self.prompts[prompt] if prompt else np.empty(0, np.int32)


class Tokens(NamedTuple):
    """Token sequences as an encoder takes them; the batch axis is absent in a single example."""

    ids: Int[Array | np.ndarray, "*b l"]
    types: Int[Array | np.ndarray, "*b l"]  # segment: 0 or 1
    mask: Bool[Array | np.ndarray, "*b l"]  # True on real tokens


class PackedTokens(NamedTuple):
    """Texts side by side in rows of equal length; none attends to another, and each counts its positions from 0."""

    tokens: Tokens  # r rows of l tokens
    segments: Int[Array | np.ndarray, "r l"]  # which text of its row a token belongs to; -1: padding
    positions: Int[Array | np.ndarray, "r l"]
    starts: Int[Array | np.ndarray, "r s"]  # where each of up to s texts of a row starts
    places: Int[Array | np.ndarray, "b *g"]  # where each text of the batch is: its row times s, plus its number there
    cut: Int[Array | np.ndarray, " r"]  # tokens that did not fit

    @property
    def mask(self) -> Bool[Array | np.ndarray, "r l"]:
        """True on real tokens."""
        return self.tokens.mask


class PackedVectors(NamedTuple):
    """Vectors of packed texts, by row, until the rows of the whole batch are known."""

    vectors: Float[Array, "r s d"]
    places: Int[Array, "b *g"]  # those of `PackedTokens`

    def unpack(self) -> Float[Array, "b *g d"]:
        """The vectors of the texts, in the order of the batch that was packed."""
        return self.vectors.reshape(-1, self.vectors.shape[-1])[self.places]


class Layout(enum.Enum):
    """Layout of a passage's title and body in one sequence."""

    JOINED = "joined"  # [CLS] title body [SEP], one segment
    PAIR = "pair"  # [CLS] title [SEP] body [SEP], segments 0 and 1
    BODY = "body"  # [CLS] body [SEP], no title


class Similarity(enum.Enum):
    """Similarity of a query's vector and a passage's, or the best of its views."""

    DOT = "dot"
    COSINE = "cosine"  # the encoder already normalises: cosine is the dot product of its vectors


@runtime_checkable
class TextEncoder(Protocol):
    """A pure encoder: parameters and tokens in, vectors out."""

    @property
    def width(self) -> int:
        """Size of the vectors."""
        ...

    @property
    def views(self) -> int:
        """Number of vectors of a text, of which the best counts; mostly 1."""
        ...

    def init(self, rng: PRNGKeyArray) -> Params: ...

    def apply(self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None) -> Float[Array, "b *n d"]:
        """Vectors of `tokens`: [b d], or [b n d] of n views. Deterministic without `rng`; with it, dropout is on."""
        ...


@dataclass(frozen=True, slots=True)
class Tower:
    """The encoder of one side, with the layout of its texts."""

    encoder: TextEncoder
    params: Params
    length: int  # tokens, special ones included; longer texts are cut
    layout: Layout = Layout.BODY
    prompt: str = ""  # put before the text
    pools_prompt: bool = True  # else a mean leaves the first token and the prompt out


@dataclass(frozen=True, slots=True)
class Towers:
    """The two sides of a retriever; the same parameters may stand in both."""

    query: Tower
    passage: Tower
    similarity: Similarity = Similarity.DOT


@dataclass(frozen=True, slots=True)
class Reader:
    """The model that extracts the answer to a question from the passages that were found for it.

    A span of a passage scores what the reader gives it and what the retriever gives its passage, divided by
    `temperature`; all spans of all passages that are read compete.
    """

    score: Callable[[Params, Tokens], Float[Array, "n s"]]  # of all `losses.spans.candidate_spans` of sequences; pure
    params: Params
    length: int  # tokens of question and passage together
    width: int  # tokens of the widest span
    passages: int  # read for a question, the best ones
    temperature: float


class SearchResult(NamedTuple):
    """Passages that were looked up for the examples of a batch."""

    rows: Int[np.ndarray, "b k"]  # of all passages, best first; -1 where there are no more
    vectors: Float[np.ndarray, "b k d"]  # theirs, as they were searched; 0 where there are no more


@dataclass(slots=True)
class Ranking:
    """Search results, best first: row i answers query i. Fewer than k found: id -1 and score -inf."""

    scores: Float[np.ndarray, "q k"] = field(repr=False)
    rows: Int[np.ndarray, "q k"] = field(repr=False)
