"""Small files of queries in every form, and what is read of them."""

import gzip
import json
import lzma

from dense_jax.config import CorpusConfig
from dense_jax.data.preparation.merged_queries import MergedQueries
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.types import Reject

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def write(path, content):
    """`content` as a file packed as its name says: bytes, a text, or rows that become JSON lines."""
    if isinstance(content, list):
        content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
    raw = content if isinstance(content, bytes) else content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PACK.get(path.suffix, bytes)(raw))
    return path


def source_of(path, **settings):
    (source,) = open_corpus(CorpusConfig(source=str(path), **settings), with_queries=True).sources
    return source


def read(path, **settings):
    """All documents and all queries of a source, in which there is no bad row."""
    source = source_of(path, **settings)
    documents, queries = list(source), list(source.queries())
    assert not [row for row in (*documents, *queries) if isinstance(row, Reject)]
    return documents, queries


def rejects(rows):
    """(line, reason) of the bad rows."""
    return [(int(row.where.rpartition(":")[2]), row.reason) for row in rows if isinstance(row, Reject)]


def merged(rows):
    """The queries of `rows` with the documents of all their rows."""
    rows = list(rows)
    documents = dict.fromkeys(one.id for row in rows for one in (*row.positives, *row.negatives))
    names = [*documents]
    queries = MergedQueries(lambda: rows, names.index, lambda identifier: True, lambda reject: None)

    def named(side):
        return tuple(ScoredDocument(names[row], score) for row, score in zip(*side, strict=True))

    return [JudgedQuery(one.id, one.text, named(one.positives), named(one.negatives)) for one in queries]


def ids(scored):
    return [document.id for document in scored]


def scores(scored):
    return [document.score for document in scored]
