"""Shards of prepared passages: entries, and their encoding as records."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

from dense_jax.arrays import Int
from dense_jax.data.stores.records import write_records
from dense_jax.io import digest
from dense_jax.types import NO_SPANS, Document, Passage

_HEADER = np.dtype("<u4")  # three of them start a record: title tokens, sentences, tokens


class Entry(NamedTuple):
    """Stored content of one passage."""

    title: Int[np.ndarray, " t"]
    tokens: Int[np.ndarray, " l"]
    sentences: Int[np.ndarray, " s"]  # their first tokens; without 0 if a chunk begins within a sentence
    document: Document
    spans: Int[np.ndarray, "n 2"] = NO_SPANS  # first token and one past the last of each salient span


class Group(NamedTuple):
    """Documents that share a shard, and the passages made of them."""

    entries: list[Entry]
    documents: int
    left_out: int  # documents that gave no passage


class RecordFormat(NamedTuple):
    """Format of the passages' records."""

    dtype: str  # of token ids
    salient: bool  # with a file of salient spans


class Shard(NamedTuple):
    """Files and counts of a written shard."""

    files: dict[str, str]  # name -> digest
    passages: int
    tokens: int
    spans: tuple[int, int, int]  # salient spans, their tokens, the passages that have any


def write_shard(folder: Path, number: int, entries: Sequence[Entry], record_format: RecordFormat) -> Shard:
    """Write the files of shard `number` to `folder`.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    dtype = np.dtype(record_format.dtype)
    kinds = {
        "passages": (encode_passage(entry, dtype) for entry in entries),
        "texts": (orjson.dumps(entry.document) for entry in entries),
    }
    kinds |= {"spans": (encode_spans(entry.spans) for entry in entries)} if record_format.salient else {}
    files: dict[str, str] = {}
    for kind, records in kinds.items():
        path = shard_path(folder, kind, number)
        write_records(path, records)
        files[path.name] = digest(path)
    spans = [entry.spans for entry in entries]
    found = sum(map(len, spans)), sum(int(np.diff(own).sum()) for own in spans), sum(len(own) > 0 for own in spans)
    return Shard(files, len(entries), sum(len(entry.tokens) for entry in entries), found)


def encode_passage(entry: Entry, dtype: np.dtype) -> bytes:
    """Return a record of three lengths, title, tokens (as `dtype`) and sentence starts, little-endian."""
    lengths = np.array([len(entry.title), len(entry.sentences), len(entry.tokens)], _HEADER)
    little = dtype.newbyteorder("<")
    parts = (entry.title.astype(little), entry.tokens.astype(little), entry.sentences.astype(_HEADER))
    return b"".join([lengths.tobytes(), *(part.tobytes() for part in parts)])


def decode_passage(record: bytes, row: int, dtype: np.dtype) -> Passage:
    """Return the passage of a record of `encode_passage`, its ids as int32."""
    title, sentences, tokens = np.frombuffer(record, _HEADER, 3).tolist()
    little, start = dtype.newbyteorder("<"), 3 * _HEADER.itemsize
    ids = np.frombuffer(record, little, title + tokens, start).astype(np.int32)
    starts = np.frombuffer(record, _HEADER, sentences, start + ids.size * dtype.itemsize).astype(np.int32)
    return Passage(row, ids[:title], ids[title:], starts)


def encode_spans(spans: Int[np.ndarray, "n 2"]) -> bytes:
    """Return the record of a passage's salient spans."""
    return spans.astype(_HEADER).tobytes()


def decode_spans(record: bytes) -> Int[np.ndarray, "n 2"]:
    """Return the spans of a record of `encode_spans`, as int32."""
    return np.frombuffer(record, _HEADER).astype(np.int32).reshape(-1, 2)


def shard_path(folder: Path, kind: str, number: int) -> Path:
    """Return the path of a shard's `passages`, `texts` or `spans`."""
    return folder / f"{kind}-{number:05d}.array_record"
