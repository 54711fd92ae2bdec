"""Prepared passages on disk, read by row, and their writer.

    FOLDER/claim.json                    written first: the settings that made the rest, and what is known of the text
           passages-00000.array_record   one record a passage: title ids, token ids, sentence starts
           texts-00000.array_record      one record a passage: id, title and text as JSON, read only to be shown
           spans-00000.array_record      one record a passage: its salient spans, if the passages have any
           progress.json                 counts of the finished shards, while the writer works
           manifest.json                 written last: claim, counts, digests

A shard ends with a document and with its source. A new writer continues after the last shard that progress.json
counts: it knows how many documents of which source to skip.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NotRequired

import numpy as np
import orjson
from typing_extensions import TypedDict

from dense_jax.artifact import CLAIM, MANIFEST, Claim, Manifest, finish, read_manifest
from dense_jax.data.stores.records import Records, verify_records
from dense_jax.data.stores.shards import (
    Entry,
    Group,
    RecordFormat,
    Shard,
    decode_passage,
    decode_spans,
    shard_path,
    write_shard,
)
from dense_jax.errors import StorageError
from dense_jax.io import Count, Digests, digest, is_written, json_digest, read_json, write_json
from dense_jax.types import Document, Passage, PassageCollection, SourceRows, TrainingSet

_PROGRESS = "progress.json"
_COUNTS = ("count", "documents", "left_out", "tokens")  # of all sources, and of each
_SPAN_COUNTS = ("count", "tokens", "passages")  # salient spans, their tokens, the passages that have any
_BLOCK = 4_096  # texts held in memory while their ids are read


class TextNotes(TypedDict):
    """Counts of a prepared text, and fingerprints."""

    usable: NotRequired[Count]
    rejected: NotRequired[Count]
    near_duplicates: NotRequired[Count]
    vocabulary: NotRequired[Count]
    tokenizer: NotRequired[str]
    test: NotRequired[Digests]  # of the files of the held-out test set


class _SourceCounts(TypedDict):
    name: str
    count: Count
    documents: Count
    left_out: Count
    tokens: Count


class _SpanCounts(TypedDict):
    count: Count
    tokens: Count
    passages: Count


class _StoreClaim(Claim):
    notes: TextNotes


class _StoreCounts(TypedDict):
    """Content of progress.json."""

    count: Count
    documents: Count
    left_out: Count
    tokens: Count
    passages_per_shard: list[Count]
    files: Digests
    dtype: Literal["uint16", "uint32"]
    parts: list[_SourceCounts]
    spans: NotRequired[_SpanCounts]


class _StoreManifest(_StoreCounts, Manifest):
    notes: TextNotes


class PassageStore(PassageCollection, TrainingSet):
    """Finished passages by row, read from any number of threads and, pickled, from other processes."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            StorageError: the folder is unfinished, or a file is missing or damaged.
        """
        self.folder = folder
        self.manifest = read_manifest(folder, _StoreManifest, "passages", "prepare")
        ends = accumulate(counts["count"] for counts in self.manifest["parts"])
        self._parts = [
            SourceRows(counts["name"], range(end - counts["count"], end), counts["tokens"])
            for counts, end in zip(self.manifest["parts"], ends, strict=True)
        ]
        counts = self.manifest["passages_per_shard"]
        if not sum(counts) == self.manifest["count"] == sum(len(part.rows) for part in self._parts):
            raise StorageError(
                f"{folder / MANIFEST}: damaged (its counts of passages contradict each other); remove {folder} and run "
                "`dense-jax prepare` again"
            )
        self._dtype = np.dtype(self.manifest["dtype"])
        self._passages = Records([shard_path(folder, "passages", i) for i in range(len(counts))], counts)
        self._texts = Records([shard_path(folder, "texts", i) for i in range(len(counts))], counts)
        salient = "spans" in self.manifest
        self._spans = Records([shard_path(folder, "spans", i) for i in range(len(counts))], counts) if salient else None
        verify_records(folder, self.manifest["files"])

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, row: int) -> Passage:
        return self.passages([row])[0]

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """Return the passages of `rows` in their order; one call is about ten times faster than a call per row."""
        records = self._passages.read(rows)
        found = [decode_passage(record, int(row), self._dtype) for row, record in zip(rows, records, strict=True)]
        if self._spans is None:
            return found
        spans = map(decode_spans, self._spans.read(rows))
        return [replace(passage, spans=own) for passage, own in zip(found, spans, strict=True)]

    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> Passage:
        """The passage of `row`, every time the same."""
        return self[row]

    def document(self, row: int) -> Document:
        """Return id, title and text of passage `row`."""
        return self.texts([row])[0]

    def texts(self, rows: Sequence[int]) -> list[Document]:
        """Return id, title and text of each of `rows`, in their order; one call for many rows, as with `passages`."""
        return [Document(**orjson.loads(text)) for text in self._texts.read(rows)]

    @property
    def fingerprint(self) -> str:
        """Digest of the whole store: its settings, counts and files."""
        return digest(self.folder / MANIFEST)

    @property
    def content(self) -> str:
        """Digest of tokens and texts in their order, independent of the names of their sources."""
        files = self.manifest["files"]
        return json_digest({name: files[name] for name in files if name.startswith(("passages-", "texts-"))})

    def ids(self) -> list[str]:
        """The id of the document behind each row."""
        return [*self.each_id()]

    def each_id(self) -> Iterator[str]:
        """`ids`, one after the other."""
        blocks = (range(start, min(start + _BLOCK, len(self))) for start in range(0, len(self), _BLOCK))
        return (orjson.loads(text)["id"] for rows in blocks for text in self._texts.read(rows))

    def parts(self) -> Sequence[SourceRows]:
        """Rows of each source."""
        return self._parts


class StoreWriter:
    """Writer of a claimed folder, shard by shard, that continues after the last finished shard."""

    def __init__(
        self,
        folder: Path,
        shard_size: int,
        vocab_size: int,
        *,
        salient: bool = False,
        check: Callable[[dict[str, Any]], None] = lambda manifest: None,
    ) -> None:
        """With `salient`, store the spans of entries too. A manifest that `check` refuses is not written."""
        self.folder, self._check = folder, check
        self.shard_size = shard_size
        self._claim: dict[str, Any] = read_json(folder / CLAIM, _StoreClaim)
        self._part = -1  # number of the current source
        self._entries: list[Entry] = []
        self._documents = self._left_out = 0  # added since the last finished shard
        dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        fresh = {**dict.fromkeys(_COUNTS, 0), "passages_per_shard": [], "files": {}, "dtype": dtype, "parts": []}
        fresh |= {"spans": dict.fromkeys(_SPAN_COUNTS, 0)} if salient else {}
        before = read_json(folder / _PROGRESS, _StoreCounts) if is_written(folder / _PROGRESS) else {}
        self._state: dict[str, Any] = fresh | before

    @property
    def documents(self) -> int:
        """Number of documents in finished shards."""
        return self._state["documents"]

    def read_of(self, source: int) -> tuple[int, int]:
        """Return the number of finished documents of a source, by its number, and how many of them gave no passage."""
        parts = self._state["parts"]
        return (parts[source]["documents"], parts[source]["left_out"]) if source < len(parts) else (0, 0)

    @property
    def next_shard(self) -> int:
        """Number of the next shard."""
        return len(self._state["passages_per_shard"])

    @property
    def record_format(self) -> RecordFormat:
        """Format of the passages' records."""
        return RecordFormat(self._state["dtype"], "spans" in self._state)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the claim."""
        return self._claim["settings"]

    @property
    def notes(self) -> dict[str, Any]:
        """Counts of the text in the claim."""
        return self._claim["notes"]

    def begin(self, source: str) -> int:
        """Begin the next source, called `source`; return the number of its documents that finished shards hold.

        The caller skips these. It begins every source, even a finished one.
        """
        self._end_part()
        parts: list[dict[str, Any]] = self._state["parts"]
        self._part += 1
        if self._part == len(parts):
            parts.append({"name": "", **dict.fromkeys(_COUNTS, 0)})
        parts[self._part]["name"] = source
        return parts[self._part]["documents"]

    def add(self, group: Group) -> None:
        """Add the next documents of the source."""
        self._entries += group.entries
        self._documents += group.documents
        self._left_out += group.left_out
        if len(self._entries) >= self.shard_size:
            self._write_shard()

    def finish(self) -> PassageStore:
        """Write the last shard and, after the check, the manifest."""
        self._end_part()
        self._check(self._claim | self._state)
        figures = {name: value for name, value in self._state.items() if name != "files"}
        finish(self.folder, figures, self._state["files"])
        (self.folder / _PROGRESS).unlink(missing_ok=True)
        return PassageStore(self.folder)

    def shard(self, written: Shard, documents: int, left_out: int) -> None:
        """Record the next shard of the source, made of `documents` documents."""
        state = self._state
        state["files"] |= written.files
        state["passages_per_shard"].append(written.passages)
        self.count(documents, left_out, written)
        write_json(self.folder / _PROGRESS, state)

    def count(self, documents: int, left_out: int, written: Shard | None = None) -> None:
        """Count `documents` more documents of the source; without a shard they gave no passage."""
        passages, tokens = (written.passages, written.tokens) if written else (0, 0)
        added = dict(zip(_COUNTS, (passages, documents, left_out, tokens), strict=True))
        for counts in (self._state, self._state["parts"][self._part]):
            counts |= {name: counts[name] + number for name, number in added.items()}
        if "spans" in self._state and written:
            counts = self._state["spans"]
            counts |= {name: counts[name] + number for name, number in zip(_SPAN_COUNTS, written.spans, strict=True)}

    def _end_part(self) -> None:
        if self._entries:
            self._write_shard()
        elif self._documents:
            self.count(self._documents, self._left_out)
            self._documents = self._left_out = 0

    def _write_shard(self) -> None:
        written = write_shard(self.folder, self.next_shard, self._entries, self.record_format)
        self.shard(written, self._documents, self._left_out)
        self._entries, self._documents, self._left_out = [], 0, 0
