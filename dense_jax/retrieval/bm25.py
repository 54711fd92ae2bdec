"""BM25, the row that every dense retriever is measured against.

Title and text as one field, lower-cased words of two characters and more, Lucene's 33 English stop words left out,
English Snowball stems, and Lucene's formula: for each word of the query, summed over its occurrences,

    ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))

where n of the N documents hold the word and this one holds it f times.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import Stemmer

from dense_jax.arrays import Float, Int, np
from dense_jax.errors import DataError
from dense_jax.progress import progress
from dense_jax.types import Document, Ranking


class BM25:
    """An index of words over documents, in memory."""

    def __init__(self, documents: Iterable[Document], count: int, k1: float, b: float) -> None:
        """`count` documents, of which the i-th is row i of the results.

        Raises:
            DataError: no document holds a word.
        """
        import bm25s  # here: its import runs a JAX program, after which processes can no longer be joined
        from bm25s.tokenization import Tokenizer

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import turns debugging on

        self.ids: list[str] = []
        self._words: Any = Tokenizer(stopwords="english", stemmer=Stemmer.Stemmer("english"))
        texts = self._texts(progress(documents, "bm25", count, "documents"))
        tokens = self._words.tokenize(texts, length=count, show_progress=False, allow_empty=False)
        if not any(tokens):
            raise DataError(f"none of the {len(self.ids)} documents holds a word that BM25 could index")
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        vocabulary = self._words.get_vocab_dict()
        self._index.index((tokens, vocabulary), create_empty_token=False, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> Ranking:
        """The k best documents for each query, best first, ties by lower row.

        A document without a word of the query is no result: where fewer than k are left, the last rows are -1 and their
        scores -inf.
        """
        scores, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1)
        for i, found in enumerate(self.scores(queries)):
            chosen = top_rows(found, k)
            scores[i, : len(chosen)], rows[i, : len(chosen)] = found[chosen], chosen
        return Ranking(scores, rows)

    def scores(self, queries: Sequence[str]) -> Iterator[Float[np.ndarray, " p"]]:
        """The scores of all documents, for one query after the other."""
        tokens = self._words.tokenize(list(queries), update_vocab=False, show_progress=False, allow_empty=False)
        return (self._index.get_scores_from_ids(words) for words in tokens)

    def _texts(self, documents: Iterable[Document]) -> Iterable[str]:
        for document in documents:
            self.ids.append(document.id)
            yield f"{document.title} {document.text}"


def top_rows(scores: Float[np.ndarray, " p"], k: int) -> Int[np.ndarray, " k"]:
    """Rows of the k largest positive scores, ties by lower row."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        lowest = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= lowest]  # with all that tie with the last one, whose lower rows must win
    return rows[np.argsort(-scores[rows], kind="stable")][:k]
