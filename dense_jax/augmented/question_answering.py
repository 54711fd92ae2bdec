"""Extractive question answering: a reader chooses the best span of the retrieved passages (ORQA)."""

import functools
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dense_jax.arrays import Array, Bool, Float, Int, Params, np
from dense_jax.data.inputs import stack_tokens
from dense_jax.data.reading import Read, read_input
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.losses.similarity import MASKED_SCORE
from dense_jax.losses.spans import best_span, candidate_spans, joint_scores, valid_spans
from dense_jax.mesh import batch_sharding, check_batch, replicated
from dense_jax.terminal.markdown import printable
from dense_jax.types import Document, PassageCollection, Ranking, Reader, Tokens

_NO_TOKENS = np.empty(0, np.int32)
_AROUND = 120  # characters shown of the passage on either side of an answer
_INDENT = " " * 10  # aligns the passage with the answer, after its probability


class ReadPassage(NamedTuple):
    """A passage in the form that the reader read."""

    document: Document
    places: Int[np.ndarray, "l 2"]  # character offsets of its tokens, half open
    read: Read

    @property
    def tokens(self) -> int:
        """Number of the passage's first tokens that the reader read."""
        return int(self.read.body.sum())

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """Return the character offsets, half open, of the passage's tokens `first` to `last` (inclusive)."""
        return int(self.places[first, 0]), int(self.places[last, 1])


class Answer(NamedTuple):
    """The chosen span of a question."""

    text: str  # in the passage's spelling
    share: float  # its probability: the reader's softmax is over all spans of all passages it read
    document: Document
    start: int  # character offsets in the passage's text, half open
    end: int


class Reading(NamedTuple):
    """Answer to one question, and the passages that were read for it."""

    answer: Answer | None  # None: no passage with a token was retrieved
    passages: list[ReadPassage]  # best first


class _Chosen(NamedTuple):
    """The best span of each question."""

    passage: Int[Array | np.ndarray, " b"]  # which of those that were read
    start: Int[Array | np.ndarray, " b"]  # places in the reader's input, inclusive
    end: Int[Array | np.ndarray, " b"]
    share: Float[Array | np.ndarray, " b"]


class ReaderOnMesh:
    """A reader with its parameters on every device of `mesh`, and its compiled program: make one, use it often."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer, question_length: int, mesh: Mesh, batch: int) -> None:
        """Read `batch` questions at a time, each up to `question_length` tokens including two special ones.

        Raises:
            ConfigError: `batch` does not split over the devices.
        """
        check_batch(batch, mesh, "answer.batch")
        self.reader, self.tokenizer, self.mesh, self.batch = reader, tokenizer, mesh, batch
        self._room = question_length - 2
        self._params = jax.device_put(reader.params, replicated(mesh))
        self._program = jax.jit(functools.partial(_choose, reader))

    def read(self, questions: Sequence[str], ranking: Ranking, store: PassageCollection) -> Iterator[Reading]:
        """Yield the reading of each of `questions`; `ranking` gives their passages of `store`."""
        for start in range(0, len(questions), self.batch):
            part = slice(start, start + self.batch)
            seen = self._seen(questions[part], ranking.rows[part, : self.reader.passages], store)
            chosen = self._chosen(seen, ranking.scores[part, : self.reader.passages])
            yield from (Reading(_to_answer(own, chosen, i), own) for i, own in enumerate(seen))

    def _seen(
        self, questions: Sequence[str], rows: Int[np.ndarray, "b k"], store: PassageCollection
    ) -> list[list[ReadPassage]]:
        """Return the passages of each question, tokenised from their texts for the character offsets of the tokens."""
        retrieved = [own[own >= 0].tolist() for own in rows]
        documents = store.texts([row for own in retrieved for row in own])
        placed = iter(zip(documents, self.tokenizer.encode_placed([one.text for one in documents]), strict=True))

        def seen(question: Int[np.ndarray, " q"]) -> ReadPassage:
            document, (ids, places) = next(placed)
            read = read_input(question[: self._room], ids, self.reader.length, self.tokenizer.vocabulary)
            return ReadPassage(document, places, read)

        return [
            [seen(ids) for _ in own] for ids, own in zip(self.tokenizer.encode(list(questions)), retrieved, strict=True)
        ]

    def _chosen(self, seen: list[list[ReadPassage]], scores: Float[np.ndarray, "b k"]) -> _Chosen:
        """Return the best span of each question; questions without passages fill the batch."""
        count = self.reader.passages
        nothing = read_input(_NO_TOKENS, _NO_TOKENS, self.reader.length, self.tokenizer.vocabulary)
        reads, of_passages = [nothing] * (self.batch * count), np.full((self.batch, count), MASKED_SCORE, np.float32)
        for i, own in enumerate(seen):
            reads[i * count : i * count + len(own)] = [one.read for one in own]
            of_passages[i, : len(own)] = scores[i, : len(own)]
        batch = stack_tokens([read.tokens for read in reads]), np.stack([read.body for read in reads]), of_passages
        with jax.set_mesh(self.mesh):  # fused attention kernels are sharded by it
            found = self._program(self._params, *jax.device_put(batch, batch_sharding(self.mesh)))
        return _Chosen(*map(np.asarray, found))


def render_answer(question: str, answer: Answer | None, width: int) -> str:
    """Return an answer for a terminal of `width` columns: its probability, and its passage with the answer in [[ ]]."""
    if answer is None:
        return f"{printable(question)}\n  no passage was found to read"
    text, room = answer.document.text, max(width, 40) - len(_INDENT)
    before, after = text[max(answer.start - _AROUND, 0) : answer.start], text[answer.end : answer.end + _AROUND]
    marked = f"{'... ' if answer.start > _AROUND else ''}{before}[[{answer.text}]]{after}"
    marked += " ..." if answer.end + _AROUND < len(text) else ""
    lines = [printable(answer.document.title) or printable(answer.document.id), *textwrap.wrap(printable(marked), room)]
    head = f"{answer.share:>8.3f}  {printable(answer.text)}"
    return "\n".join([printable(question), head, *(_INDENT + line for line in lines)])


def _choose(
    reader: Reader, params: Params, tokens: Tokens, body: Bool[Array, "n l"], passages: Float[Array, "b k"]
) -> _Chosen:
    """Return the best span of each question, whose passages are consecutive inputs. Pure."""
    candidates = candidate_spans(reader.length, reader.width)
    spans = reader.score(params, tokens).reshape(*passages.shape, -1)
    valid = valid_spans(candidates, body).reshape(spans.shape)
    scores = joint_scores(passages / reader.temperature, spans, valid)
    passage, span = best_span(scores)
    flat = scores.reshape(len(scores), -1)
    share = jnp.exp(flat.max(axis=1) - jax.nn.logsumexp(flat, axis=1))
    return _Chosen(passage, jnp.asarray(candidates.starts)[span], jnp.asarray(candidates.ends)[span], share)


def _to_answer(seen: list[ReadPassage], chosen: _Chosen, i: int) -> Answer | None:
    """Return the answer to question `i`."""
    passage, start, end = (int(field[i]) for field in (chosen.passage, chosen.start, chosen.end))
    if passage >= len(seen) or not seen[passage].read.body[start]:
        return None
    found = seen[passage]
    first, last = found.characters(start - found.read.start, end - found.read.start)
    text = found.document.text[first:last]
    return Answer(text, float(chosen.share[i]), found.document, first, last)
