"""BM25, the baseline of every dense retriever.

Title and text are one field. Words of two characters or more are lower-cased and stemmed by English Snowball; Lucene's
33 English stop words are left out. Scores follow Lucene's formula: for each word of the query, summed over its
occurrences,

    ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))

where n of the N documents hold the word and the scored document holds it f times.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import Stemmer

from dense_jax.arrays import Float, Int, np
from dense_jax.errors import DataError
from dense_jax.progress import progress
from dense_jax.retrieval.vector_search import no_results
from dense_jax.types import Document, Ranking


class BM25:
    """Inverted index over documents, in memory."""

    def __init__(self, documents: Iterable[Document], count: int, k1: float, b: float) -> None:
        """Index `count` documents; the i-th is row i of the results.

        Raises:
            DataError: no document holds a word.
        """
        import bm25s  # its import runs a JAX program, after which processes can no longer join a cluster
        from bm25s.tokenization import Tokenizer

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import turns debugging on

        self.ids: list[str] = []
        self._words: Any = Tokenizer(stopwords="english", stemmer=Stemmer.Stemmer("english"))
        texts = self._texts(progress(documents, "bm25", count, "documents"))
        tokens = self._words.tokenize(texts, length=count, show_progress=False, allow_empty=False)
        if not any(tokens):
            raise DataError(f"none of the {len(self.ids)} documents holds a word of two letters that BM25 could index")
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        vocabulary = self._words.get_vocab_dict()
        self._index.index((tokens, vocabulary), create_empty_token=False, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> Ranking:
        """Return the k best documents for each query, best first, ties by lower row.

        A document that shares no word with the query is not a result: with fewer than k results the last rows are -1
        and their scores -inf.
        """
        result = no_results(len(queries), k)
        for i, scores in enumerate(self.scores(queries)):
            rows = top_rows(scores, k)
            result.scores[i, : len(rows)], result.rows[i, : len(rows)] = scores[rows], rows
        return result

    def scores(self, queries: Sequence[str]) -> Iterator[Float[np.ndarray, " p"]]:
        """Yield the scores of all documents for each query."""
        tokens = self._words.tokenize(list(queries), update_vocab=False, show_progress=False, allow_empty=False)
        return (self._index.get_scores_from_ids(words) for words in tokens)

    def _texts(self, documents: Iterable[Document]) -> Iterable[str]:
        for document in documents:
            self.ids.append(document.id)
            yield f"{document.title} {document.text}"


def top_rows(scores: Float[np.ndarray, " p"], k: int) -> Int[np.ndarray, " k"]:
    """Return the rows of the k largest positive scores, best first, ties by lower row."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        lowest = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= lowest]  # keeps all ties of the last one, of which the lower rows win
    return rows[np.argsort(-scores[rows], kind="stable")][:k]
