"""The smallest things that satisfy the contracts: so that only the code around them is on trial."""

from dataclasses import dataclass, field
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.data.inputs import stack_tokens
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.losses.contrastive import in_batch_softmax
from dense_jax.losses.similarity import dot_scores
from dense_jax.objective import Objective
from dense_jax.types import (
    Candidates,
    Document,
    Guide,
    Passage,
    PassageCollection,
    QAExample,
    SourceRows,
    Tokens,
    Tower,
    Towers,
    TrainingQuery,
    TrainingSet,
    Vocabulary,
)

VOCABULARY = Vocabulary(
    size=50, pad=0, unk=1, cls=2, sep=3, mask=4, special=np.arange(50) < 5, continues=np.zeros(50, bool)
)


@dataclass
class MeanEmbedding:
    """The mean of a text's token embeddings."""

    vocab_size: int = VOCABULARY.size
    width: int = 4
    views: int = 1

    def init(self, rng):
        return {"embedding": jax.random.normal(rng, (self.vocab_size, self.width))}

    def apply(self, params, tokens, *, rng=None):
        vectors = params["embedding"][tokens.ids] * tokens.mask[..., None]
        return vectors.sum(1) / jnp.maximum(tokens.mask.sum(1, keepdims=True), 1)


@dataclass
class BagOfTokens(Objective):
    """The two halves of a passage find each other; noise in the loss and in the examples, to put both on trial."""

    encoder: MeanEmbedding = field(default_factory=MeanEmbedding)
    length: int = 6
    noise: float = 0.1

    def example(self, passage, vocabulary, rng):
        if len(passage.tokens) < 2:
            return None
        cut = int(rng.integers(1, len(passage.tokens)))
        return {"query": self._tokens(passage.tokens[:cut]), "passage": self._tokens(passage.tokens[cut:])}

    def init(self, rng):
        return {"encoder": self.encoder.init(rng)}

    def init_carry(self, params, batch, rng):
        return {"step": jnp.zeros((), jnp.int32)}

    def encode(self, params, carry, batch, *, rng):
        queries, passages = (self.encoder.apply(params["encoder"], batch[side]) for side in ("query", "passage"))
        return queries + self.noise * jax.random.normal(rng, queries.shape), passages

    def combine(self, carry, encoded, batch, *, step):
        result = in_batch_softmax(dot_scores(*encoded))
        accuracy = jnp.mean(result.correct, dtype=jnp.float32)
        return result.loss.mean(), ({"accuracy": accuracy}, {"step": carry["step"] + 1})

    def towers(self, params):
        tower = Tower(self.encoder, params["encoder"], self.length)
        return Towers(tower, tower)

    def _tokens(self, ids):
        ids = ids[: self.length]
        spare = self.length - len(ids)
        real = np.pad(np.ones(len(ids), bool), (0, spare))
        return Tokens(np.pad(ids.astype(np.int32), (0, spare)), np.zeros(self.length, np.int32), real)


@dataclass
class Borrower(BagOfTokens, RetrievalAugmented):
    """A query gets the tokens of the two passages that are found for it; `seen` has the rows found for each batch."""

    def __post_init__(self):
        self.seen: list[np.ndarray] = []

    @property
    def depth(self):
        return 2

    def question(self, batch):
        return batch["query"]

    def join(self, examples, found, passages, vocabulary):
        self.seen.append(found.rows)
        texts = [np.concatenate([one.tokens for one in passages.passages(rows.tolist())]) for rows in found.rows]
        laid = [self._tokens(text) for text in texts]
        return {**examples.inputs, "found": stack_tokens(laid)}

    def encode(self, params, carry, batch, *, rng):
        queries, passages = super().encode(params, carry, batch, rng=rng)
        return queries + self.encoder.apply(params["encoder"], batch["found"]), passages


class ToyTokenizer:
    """A text is a row of token ids."""

    vocabulary = VOCABULARY
    prompt_ids = Tokenizer.prompt_ids

    def encode(self, texts):
        return [np.array(text.split(), np.int32) for text in texts]


class MemoryStore(PassageCollection, TrainingSet):
    """Passages of random tokens, of one source or of several of so many passages; a stand-in for PassageStore."""

    def __init__(self, passages: int = 40, seed: int = 0, sources: tuple[int, ...] = ()):
        self.sources = sources or (passages,)
        rng = np.random.default_rng(seed)
        self.tokens = [
            rng.integers(5, VOCABULARY.size, size=rng.integers(2, 9)).astype(np.uint16)
            for _ in range(sum(self.sources))
        ]

    def parts(self):
        starts = np.cumsum([0, *self.sources]).tolist()
        rows = [range(start, stop) for start, stop in pairwise(starts)]
        return [SourceRows(f"source{i}", own, sum(len(self.tokens[row]) for row in own)) for i, own in enumerate(rows)]

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, row):
        return Passage(row, np.zeros(0, np.uint16), self.tokens[row], np.zeros(1, np.int32))

    def passages(self, rows):
        return [self[row] for row in rows]

    def sample(self, row, epoch, rng):
        return self[row]

    def ids(self):
        return [f"doc{row}" for row in range(len(self))]

    def document(self, row):
        return Document(f"doc{row}", "", " ".join(map(str, self.tokens[row])))


class QuestionStore(MemoryStore):
    """Queries of random tokens about the passages of a MemoryStore, each with all that a question can have.

    Query i is answered by passages i and i + 1; its negatives are the next i % 4. A teacher scored the passages of
    every second query; there is a guide.
    """

    def __init__(self, queries: int = 32, seed: int = 0):
        super().__init__(queries, seed)
        self.documents = MemoryStore(queries + 8, seed + 1)
        rng = np.random.default_rng(seed)
        self.guides = [rng.normal(size=(count, 3)).astype(np.float32) for count in (queries, queries + 8)]

    def sample(self, row, epoch, rng):
        return TrainingQuery(
            row=row,
            epoch=epoch,
            tokens=self.tokens[row],
            positives=self._candidates(row, row + 1, row + 2),
            negatives=self._candidates(row, row + 2, row + 2 + row % 4),
            documents=self.documents,
            guide=Guide(self.guides[0][row], self.guides[1]),
        )

    def _candidates(self, row, start, stop):
        """Lower scores for later passages, where a teacher gave any."""
        rows = np.arange(start, stop, dtype=np.int32)
        return Candidates(rows, np.where(row % 2, np.nan, (row - rows) / 2).astype(np.float32))


class AnsweredStore(MemoryStore):
    """Questions of random tokens, each answered by its own first two and by the last one of the next question."""

    def sample(self, row, epoch, rng):
        answers = [self.tokens[row][:2], self.tokens[(row + 1) % len(self)][-1:]]
        return QAExample(row, self.tokens[row], tuple(" ".join(map(str, ids)) for ids in answers), answers)
