"""BM25, the baseline of every dense retriever.

Title and text are one field. Words of two characters or more are lower-cased and stemmed by English Snowball; Lucene's
33 English stop words are left out. Scores follow Lucene's formula: for each word of the query, summed over its
occurrences,

    ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * length / mean length))

where n of the N documents hold the word and the scored document holds it f times.

    FOLDER/claim.json       written first: the collection, k1 and b
           scores.npy       of each word in each document that holds it, word by word
           rows.npy         these documents
           starts.npy       first score of each word, and the end of the last
           stems.json       the words
           ids.json         the documents' ids
           manifest.json    written last: claim, digests
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import Stemmer

from dense_jax.arrays import Float, Int, np
from dense_jax.artifact import MANIFEST, Manifest, check_settings, claim, finish, is_finished, verify_together
from dense_jax.errors import DataError, StorageError
from dense_jax.io import Ids, digests, read_json, whole_file, write_strings
from dense_jax.processes.locks import lock_of, only_one
from dense_jax.processes.multihost import all_or_none, on_process_0
from dense_jax.retrieval.vector_search import no_results
from dense_jax.terminal.progress import progress
from dense_jax.types import Document, PassageCollection, Ranking

_BLOCK = 4_096  # texts read at a time


class BM25Settings(TypedDict):
    """The settings that decide the content of the files."""

    collection: str  # digest of its texts
    k1: float
    b: float


class Postings(NamedTuple):
    """The score of each word in each document that holds it, word by word; one array a file."""

    scores: Float[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]  # documents
    starts: Int[np.ndarray, " w"]  # first score of each word, and the end of the last


class BM25:
    """Inverted index over documents; `ids[i]` is the id of row i of the results."""

    def __init__(self, ids: list[str], stems: Iterable[str], postings: Postings) -> None:
        self.ids, self.postings = ids, postings
        self._words = _word_tokenizer()
        self._words.stem_to_sid = {stem: number for number, stem in enumerate(stems)}

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
        return map(self._sum, tokens)

    def _sum(self, words: Sequence[int]) -> Float[np.ndarray, " p"]:
        scores = np.zeros(len(self.ids), np.float32)
        for word in words:
            held = slice(self.postings.starts[word], self.postings.starts[word + 1])
            scores[self.postings.rows[held]] += self.postings.scores[held]  # a document is once in the list of a word
        return scores

    def save(self, folder: Path) -> None:
        """Write the files of a claimed folder; the manifest comes last."""
        write_strings(folder / "stems.json", self._words.stem_to_sid)
        write_strings(folder / "ids.json", self.ids)
        for name, values in self.postings._asdict().items():
            with whole_file(folder / f"{name}.npy") as partial, partial.open("wb") as file:
                np.save(file, values, allow_pickle=False)
        files = digests(folder, "*.npy") | digests(folder, "ids.json") | digests(folder, "stems.json")
        finish(folder, {}, files)


def index_documents(documents: Iterable[Document], k1: float, b: float) -> BM25:
    """Index documents in memory.

    Raises:
        DataError: no document holds a word.
    """
    import bm25s  # its import runs a JAX program, after which processes can no longer join a cluster

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import turns debugging on
    ids, words = [], _word_tokenizer()

    def texts() -> Iterator[str]:
        for document in progress(documents, "bm25", None, "documents"):
            ids.append(document.id)
            yield f"{document.title} {document.text}"

    tokens = words.tokenize(texts(), length=0, show_progress=False, allow_empty=False)
    if not any(tokens):
        raise DataError(f"none of the {len(ids)} documents holds a word of two letters that BM25 could index")
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index((tokens, words.get_vocab_dict()), create_empty_token=False, show_progress=False)
    found = index.scores
    return BM25(ids, words.get_vocab_dict(), Postings(found["data"], found["indices"], found["indptr"]))


def open_or_index(store: PassageCollection, folders: Sequence[Path], settings: BM25Settings) -> BM25:
    """Return the index over the documents of `store` in the first of `folders` with a finished one.

    If none is finished, build it in the last folder. All processes call it together.

    Raises:
        ConfigError: the folder was made with other settings, or another process builds there.
        DataError: no document holds a word.
        StorageError: a file is missing or damaged, or the disk refuses the write.
    """
    finished = on_process_0(lambda: [str(folder) for folder in folders if is_finished(folder)])
    folder = Path(finished[0]) if finished else folders[-1]
    if not finished:
        with only_one(lock_of(folder), f"{folder} is being built"):
            on_process_0(lambda: claim(folder, {**settings}))
            on_process_0(lambda: index_documents(documents_of(store), settings["k1"], settings["b"]).save(folder))
    all_or_none(lambda: check_settings(folder, {**settings}))
    _verify(folder)
    return all_or_none(lambda: _open(folder))


def documents_of(store: PassageCollection) -> Iterator[Document]:
    """Yield the documents behind the passages of `store`, each joined from its passages, which are neighbours."""
    blocks = (range(start, min(start + _BLOCK, len(store))) for start in range(0, len(store), _BLOCK))
    passages = itertools.chain.from_iterable(map(store.texts, blocks))
    for identifier, group in itertools.groupby(passages, lambda passage: passage.id):
        pieces = list(group)
        yield Document(identifier, pieces[0].title, " ".join(piece.text for piece in pieces))


def top_rows(scores: Float[np.ndarray, " p"], k: int) -> Int[np.ndarray, " k"]:
    """Return the rows of the k largest positive scores, best first, ties by lower row."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        lowest = np.partition(scores[rows], -k)[-k]
        rows = rows[scores[rows] >= lowest]  # keeps all ties of the last one, of which the lower rows win
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


def _verify(folder: Path) -> None:
    """
    Raises:
        StorageError: a file is missing or has changed; raised on all processes.
    """
    manifest = all_or_none(lambda: read_json(folder / MANIFEST, Manifest))
    try:
        verify_together(folder, manifest["files"])
    except StorageError as error:
        raise StorageError(f"{error}; remove {folder} and give the same command again") from None


def _open(folder: Path) -> BM25:
    ids, stems = (read_json(folder / name, Ids) for name in ("ids.json", "stems.json"))
    arrays = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in Postings._fields)
    return BM25(ids, stems, Postings(*arrays))


def _word_tokenizer() -> Any:
    from bm25s.tokenization import Tokenizer  # its import runs a JAX program, as above

    return Tokenizer(stopwords="english", stemmer=Stemmer.Stemmer("english"))
