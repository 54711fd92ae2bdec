"""A test set from the corpus itself: find the document of a sentence.

The query is a document's first sentence without the words of its title; the relevant document is the rest. The sentence
is removed from the training text and occurs nowhere else in the corpus, so no test query is ever trained on.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from pathlib import Path

import xxhash

from dense_jax.data.beir_folder import write_beir
from dense_jax.data.sentence_split import split_sentences
from dense_jax.data.sources.judgements import judgement_rows, query_rows
from dense_jax.data.sources.rejects import sound
from dense_jax.errors import DataError
from dense_jax.terminal.progress import progress
from dense_jax.types import Document

SPLIT = "test"  # of the judgements
_SHORTEST, _LONGEST = 5, 40  # words of a query
_REST = 10  # words that must be left of the document
_SPARE = 4  # candidates for each wanted query; those whose sentence occurs elsewhere are dropped
_KEY = 4  # first words of a sentence, the key of its look-up
_WORD = re.compile(r"\w+")

Queries = dict[str, str]  # document id -> query


def choose_queries(documents: Iterable[Document], count: int) -> Queries:
    """`count` documents with their queries: those with the smallest hashes of their ids among the suitable ones.

    `documents` is read twice. The choice depends on the corpus only.

    Raises:
        DataError: fewer documents are suitable.
    """
    fit = (row for row in progress(documents, "choose test queries", None, "documents") if _query(row))
    candidates = nsmallest(_SPARE * count, fit, key=lambda document: xxhash.xxh3_64_intdigest(document.id.encode()))
    sentences = [_normal(split_sentences(document.text)[0]) for document in candidates]
    found = _occurrences(set(sentences), progress(documents, "search for them elsewhere", None, "documents"))
    unique = [document for document, sentence in zip(candidates, sentences, strict=True) if found[sentence] == 1]
    if len(unique) < count:
        raise DataError(
            f"corpus.held_out={count}, but only {len(unique)} documents start with a sentence of {_SHORTEST} to "
            f"{_LONGEST} words that occurs nowhere else and have more text; use --corpus.held_out={len(unique)}"
        )
    return {document.id: _query(document) for document in unique[:count]}


def without_queries(documents: Iterable[Document], queries: Queries) -> Iterator[Document]:
    """All documents, those of `queries` without their first sentence, for training and for search."""
    for document in documents:
        yield Document(document.id, document.title, _rest(document.text)) if document.id in queries else document


def write_test_set(folder: Path, documents: Iterable[Document], queries: Queries) -> None:
    """A BEIR folder: `documents` as the corpus, one query and one judgement for each of `queries`."""
    texts = {f"q{i}": text for i, text in enumerate(queries.values())}
    qrels = {f"q{i}": {identifier: 1} for i, identifier in enumerate(queries)}
    write_beir(folder, documents, texts, qrels, SPLIT)


def read_held_out(folder: Path) -> Queries:
    """The queries in the folder of `write_test_set`.

    Raises:
        DataError: a file is missing or damaged.
    """
    texts = {row.id: row.text for row in sound(query_rows(folder / "queries.jsonl"))}
    judgements = sound(judgement_rows(folder / "qrels" / f"{SPLIT}.tsv"))
    return {row.document: texts[row.query] for row in judgements}


def _query(document: Document) -> str:
    """The query of `document`; empty if the document is not suitable."""
    first, *more = split_sentences(document.text)[:2] or [""]
    if not more:
        return ""
    query = _without_name(first, document.title)
    enough_left = sum(1 for _ in _WORD.finditer(document.text)) >= _REST + len(_WORD.findall(first))
    return query if enough_left and _SHORTEST <= len(_WORD.findall(query)) <= _LONGEST else ""


def _without_name(sentence: str, title: str) -> str:
    """`sentence` without the words of the title; of a dotted name like `numpy.linalg.svd` only the last part counts."""
    name = title if " " in title.strip() else title.rpartition(".")[2]
    words = {word.lower() for word in _WORD.findall(name)}
    return " ".join(_WORD.sub(lambda match: "" if match[0].lower() in words else match[0], sentence).split())


def _rest(text: str) -> str:
    """`text` after its first sentence, by the count of characters that are not white space, which splitting keeps."""
    left = len(split_sentences(text)[0].replace(" ", ""))
    for place, character in enumerate(text):
        left -= not character.isspace()
        if not left:
            return text[place + 1 :].lstrip()
    return ""


def _normal(sentence: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(sentence.lower()))


def _occurrences(sentences: set[tuple[str, ...]], documents: Iterable[Document]) -> Counter[tuple[str, ...]]:
    """The number of occurrences of each of `sentences` in `documents`, at a sentence's start or inside another."""
    lengths: dict[tuple[str, ...], set[int]] = {}  # first words -> lengths of the sentences
    for sentence in sentences:
        lengths.setdefault(sentence[:_KEY], set()).add(len(sentence))
    found: Counter[tuple[str, ...]] = Counter()
    for document in documents:
        words = _normal(document.text)
        for place, start in enumerate(zip(*(words[i:] for i in range(_KEY)), strict=False)):
            for length in lengths.get(start, ()):
                run = words[place : place + length]
                found[run] += len(run) == length and run in sentences
    return found
