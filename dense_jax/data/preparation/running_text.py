"""Running text, as in Contriever: the tokens of all documents one after the other, cut into chunks of equal length.

A training example starts anywhere in a chunk and goes on into the next. (The released code draws one offset for the
whole text every epoch; here each example draws its own.)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from dense_jax.arrays import Int
from dense_jax.data.sentences import Ids, Sentence, Tokenised
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.stores.shards import Entry, Group
from dense_jax.types import Document, Passage

GROUP = 1 << 20  # tokens that are cut together

Line = tuple[Document, str, Ids]  # a sentence or a title with its document


def chunks(documents: Iterable[Tokenised], length: int, titled: bool) -> Iterator[Group]:
    """The text of `documents`, each after its title if `titled`, as chunks of `length` tokens.

    A group is a run of whole documents with about a million tokens; its last chunk may be shorter. Documents without a
    text are left out.
    """
    lines: list[Line] = []
    count = left_out = size = 0
    for document, title, sentences in documents:
        own = _lines(document, title, sentences, titled)
        lines += own
        count, left_out, size = count + 1, left_out + (not own), size + sum(len(ids) for *_, ids in own)
        if size >= GROUP:
            yield Group(cut(lines, length), count, left_out)
            lines, count, left_out, size = [], 0, 0, 0
    if count:
        yield Group(cut(lines, length), count, left_out)


def document_lines(documents: Iterable[Tokenised], titled: bool) -> Iterator[Group]:
    """The lines of each document, stored like passages; workers pass them on until `cut_lines` makes chunks of them."""
    for document in documents:
        own = [
            Entry(ids[:0], ids, np.zeros(1, np.int32), Document(of.id, of.title, text))
            for of, text, ids in _lines(*document, titled)
        ]
        yield Group(own, documents=1, left_out=int(not own))


def cut_lines(stored: Iterable[Entry], length: int) -> list[Entry]:
    """`cut` for the lines stored by `document_lines`, of whole documents that are cut together."""
    return cut([(entry.document, entry.document.text, entry.tokens) for entry in stored], length)


def _lines(document: Document, title: Ids, sentences: list[Sentence], titled: bool) -> list[Line]:
    """The title, if it is wanted and the document has sentences, and the sentences."""
    own = [(document, document.title, title)] if titled and sentences and len(title) else []
    return own + [(document, text, ids) for text, ids in sentences]


def cut(lines: Sequence[Line], length: int) -> list[Entry]:
    """The tokens of `lines` in chunks of `length` with the starts of the lines; the last chunk may be shorter.

    The text of a chunk is that of all lines it overlaps; its id and title are those of the first line's document.
    """
    tokens = np.concatenate([np.empty(0, np.int32), *(ids for *_, ids in lines)])
    starts = np.array([0, *accumulate(len(ids) for *_, ids in lines)][:-1], np.int32)
    return [_cut_chunk(lines, tokens, starts, slice(i, i + length)) for i in range(0, len(tokens), length)]


def _cut_chunk(lines: Sequence[Line], tokens: Ids, starts: Int[np.ndarray, " s"], place: slice) -> Entry:
    first, stop = np.searchsorted(starts, place.start, "right") - 1, np.searchsorted(starts, place.stop)
    own = starts[first:stop] - place.start
    document, text = lines[first][0], " ".join(text for _, text, _ in lines[first:stop])
    return Entry(tokens[:0], tokens[place], own[own >= 0], Document(document.id, document.title, text))


class ChunkStore(PassageStore):
    """Chunks by row. The end of a sentence that starts in an earlier chunk counts as the chunk's first sentence."""

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        return [_from_its_start(chunk) for chunk in super().passages(rows)]

    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> Passage:
        """A window as long as a chunk that starts in chunk `row`, uniformly drawn.

        If chunk `row` is shorter or the last of its source, the window is the chunk itself; if the next one is shorter,
        the window starts early enough to be full.
        """
        if any(row == part.rows[-1] for part in self.parts() if part.rows):
            return self[row]
        chunk, following = super().passages([row, row + 1])
        length = self.manifest["settings"]["passages"]["length"]
        if len(chunk.tokens) < length:
            return _from_its_start(chunk)
        offset = int(rng.integers(min(length, len(following.tokens) + 1)))
        tokens = np.concatenate([chunk.tokens, following.tokens])[offset:][:length]
        starts = np.concatenate([chunk.sentences, following.sentences + length]) - offset
        return _from_its_start(replace(chunk, tokens=tokens, sentences=starts[(starts >= 0) & (starts < length)]))


def _from_its_start(chunk: Passage) -> Passage:
    """`chunk` with a first sentence that starts with it."""
    return replace(chunk, sentences=np.union1d(chunk.sentences, [0]).astype(np.int32))
