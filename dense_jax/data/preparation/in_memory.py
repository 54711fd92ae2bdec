"""Texts in memory as passages, laid out as the documents of a searched collection are."""

from collections.abc import Sequence

from dense_jax.data.preparation.entries import whole_documents
from dense_jax.data.preparation.queries import DOCUMENT_LENGTH
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.types import Document, Passage, PassageCollection


class TextPassages(PassageCollection):
    """Each text, or pair of title and text, as one passage; longer ones are cut by the encoder's length."""

    def __init__(self, texts: Sequence[str | tuple[str, str]], tokenizer: Tokenizer) -> None:
        pairs = [("", text) if isinstance(text, str) else text for text in texts]
        self._documents = [Document(str(row), title, text) for row, (title, text) in enumerate(pairs)]
        groups = whole_documents(self._documents, tokenizer, DOCUMENT_LENGTH)
        self._entries = [entry for group in groups for entry in group.entries]

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, row: int) -> Passage:
        entry = self._entries[row]
        return Passage(row, entry.title, entry.tokens, entry.sentences)

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        return [self[row] for row in rows]

    def document(self, row: int) -> Document:
        return self._documents[row]

    def ids(self) -> list[str]:
        return [document.id for document in self._documents]
