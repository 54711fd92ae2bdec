"""Prepared passages on disk, read by row, and the writer that can be interrupted.

    FOLDER/passages-00000.array_record   one record a passage: title ids, token ids, where its sentences start
           texts-00000.array_record      one record a passage: id, title and text as JSON, read only to be shown
           spans-00000.array_record      one record a passage: its salient spans, only where they were asked for
           manifest.json                 written last: counts, digests, and the settings that made the rest
           progress.json                 the same while the writer works; a shard that it does not name does not exist

A shard ends with a document and with its source, so a writer that starts again knows how many documents of which
source to skip.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from dense_jax.arrays import Int
from dense_jax.config_tree import differences
from dense_jax.contracts import NO_SPANS, Document, Part, Passage, Passages
from dense_jax.data.records import Records, write_records
from dense_jax.errors import ConfigError, StorageError
from dense_jax.files import digest, read_json, verify, write_json

_MANIFEST, _PROGRESS = "manifest.json", "progress.json"
_COUNTS = ("count", "documents", "left_out", "tokens")  # of all sources, and of each
_YIELD = ("count", "tokens", "passages")  # of salient spans: how many, of how many tokens, in how many passages
_HEADER = np.dtype("<u4")  # three of them start a record: title tokens, sentences, tokens
_BLOCK = 4_096  # texts held in memory while their ids are read
_SMALL = 1 << 20  # bytes; ArrayRecord's own checksums see a changed bit only in larger files


class Entry(NamedTuple):
    """What is stored of one passage."""

    title: Int[np.ndarray, " t"]
    tokens: Int[np.ndarray, " l"]
    sentences: Int[np.ndarray, " s"]  # where they start; 0 is not among them if a chunk begins within one
    document: Document
    spans: Int[np.ndarray, "n 2"] = NO_SPANS  # first token and one past the last of each salient span


class Group(NamedTuple):
    """Documents that are stored together, and the passages made of them."""

    entries: list[Entry]
    documents: int
    left_out: int  # of the documents, those of which nothing is stored


class PassageStore(Passages):
    """Finished passages by row, from any number of threads and, pickled, from other processes."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            StorageError: the folder is unfinished, or a file is missing or damaged.
        """
        if not is_finished(folder):
            raise StorageError(f"{folder}: not prepared to the end (no {_MANIFEST}); run `dense-jax prepare` again")
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(folder / _MANIFEST)
        ends = accumulate(counts["count"] for counts in _parts(self.manifest))
        self._parts = [
            Part(counts["name"], range(end - counts["count"], end), counts["tokens"])
            for counts, end in zip(_parts(self.manifest), ends, strict=True)
        ]
        counts = self.manifest["passages_per_shard"]
        self._dtype = np.dtype(self.manifest["dtype"])
        self._passages = Records([_shard(folder, "passages", i) for i in range(len(counts))], counts)
        self._texts = Records([_shard(folder, "texts", i) for i in range(len(counts))], counts)
        salient = "spans" in self.manifest
        self._spans = Records([_shard(folder, "spans", i) for i in range(len(counts))], counts) if salient else None
        verify(folder, {name: known for name, known in self.manifest["files"].items() if _is_small(folder / name)})

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, row: int) -> Passage:
        return self.passages([row])[0]

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages of `rows`, in their order; many at once are read some ten times faster than one by one."""
        records = self._passages.read(rows)
        found = [decode(record, int(row), self._dtype) for row, record in zip(rows, records, strict=True)]
        if self._spans is None:
            return found
        spans = map(decode_spans, self._spans.read(rows))
        return [replace(passage, spans=own) for passage, own in zip(found, spans, strict=True)]

    def document(self, row: int) -> Document:
        """The text of passage `row`, and its id."""
        return self.texts([row])[0]

    def texts(self, rows: Sequence[int]) -> list[Document]:
        """The texts of `rows`, in their order; as with `passages`, many at once are read much faster."""
        return [Document(**orjson.loads(text)) for text in self._texts.read(rows)]

    @property
    def fingerprint(self) -> str:
        """Changes with anything in the store."""
        return digest(self.folder / _MANIFEST)

    def ids(self) -> list[str]:
        """The id of the document behind each row."""
        blocks = (range(start, min(start + _BLOCK, len(self))) for start in range(0, len(self), _BLOCK))
        return [orjson.loads(text)["id"] for rows in blocks for text in self._texts.read(rows)]

    def parts(self) -> Sequence[Part]:
        """All rows, source by source."""
        return self._parts


class StoreWriter:
    """Writes a claimed folder shard by shard; a new writer goes on after the last finished one."""

    def __init__(self, folder: Path, shard_size: int, vocab_size: int, *, salient: bool = False) -> None:
        """With `salient`, the spans of entries are stored too."""
        self.folder = folder
        self.shard_size = shard_size
        self._part = -1  # the source that is being written
        self._entries: list[Entry] = []
        self._documents = self._left_out = 0  # added since the last finished shard
        dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        fresh = {**dict.fromkeys(_COUNTS, 0), "passages_per_shard": [], "files": {}, "dtype": dtype}
        fresh |= {"spans": dict.fromkeys(_YIELD, 0)} if salient else {}
        self._state: dict[str, Any] = fresh | read_json(folder / _PROGRESS)
        self._state["parts"] = _parts(self._state)

    @property
    def documents(self) -> int:
        """How many documents are in finished shards."""
        return self._state["documents"]

    @property
    def notes(self) -> dict[str, Any]:
        """What the claim noted."""
        return self._state["notes"]

    def begin(self, source: str) -> int:
        """What is added from now on is from `source`, the next one; how many of its documents are not to be added.

        These are in finished shards already. Every source is begun, those of which nothing is left to add too.
        """
        self._end_part()
        parts: list[dict[str, Any]] = self._state["parts"]
        self._part += 1
        if self._part == len(parts):
            parts.append({"name": "", **dict.fromkeys(_COUNTS, 0)})
        parts[self._part]["name"] = source
        return parts[self._part]["documents"]

    def add(self, group: Group) -> None:
        """The next documents of the source."""
        self._entries += group.entries
        self._documents += group.documents
        self._left_out += group.left_out
        if len(self._entries) >= self.shard_size:
            self._write_shard()

    def finish(self) -> PassageStore:
        """Writes what is left and the manifest."""
        self._end_part()
        write_json(self.folder / _MANIFEST, self._state)
        (self.folder / _PROGRESS).unlink(missing_ok=True)
        return PassageStore(self.folder)

    def _end_part(self) -> None:
        if self._entries:
            self._write_shard()
        self._count()

    def _write_shard(self) -> None:
        state, entries = self._state, self._entries
        dtype, shard = np.dtype(state["dtype"]), len(state["passages_per_shard"])
        kinds = {
            "passages": (encode(entry, dtype) for entry in entries),
            "texts": (orjson.dumps(entry.document) for entry in entries),
        }
        kinds |= {"spans": (encode_spans(entry.spans) for entry in entries)} if "spans" in state else {}
        for kind, records in kinds.items():
            path = _shard(self.folder, kind, shard)
            write_records(path, records)
            state["files"][path.name] = digest(path)
        state["passages_per_shard"].append(len(entries))
        self._count()
        write_json(self.folder / _PROGRESS, state)

    def _count(self) -> None:
        """What was unwritten is written, or holds no passage."""
        tokens = sum(len(entry.tokens) for entry in self._entries)
        found = dict(zip(_COUNTS, (len(self._entries), self._documents, self._left_out, tokens), strict=True))
        for counts in (self._state, self._state["parts"][self._part]):
            counts |= {name: counts[name] + number for name, number in found.items()}
        if "spans" in self._state:
            self._count_spans(self._state["spans"])
        self._entries, self._documents, self._left_out = [], 0, 0

    def _count_spans(self, counts: dict[str, int]) -> None:
        for spans in (entry.spans for entry in self._entries):
            found = (len(spans), int(np.diff(spans).sum()), int(len(spans) > 0))
            counts |= {name: counts[name] + number for name, number in zip(_YIELD, found, strict=True)}


def claim(folder: Path, settings: dict[str, Any], notes: dict[str, Any]) -> None:
    """Starts a store: says what it is made with and what is known so far (JSON values), before any shard."""
    write_json(folder / _PROGRESS, {"settings": settings, "notes": notes})


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """
    Raises:
        ConfigError: the folder holds a store, or the start of one, that was made with other settings; lists them.
    """
    if found := started(folder):
        refuse_other(folder, found["settings"], settings)


def refuse_other(path: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """
    Raises:
        ConfigError: `path` was made with settings `found`, which are not `settings`; lists the differences.
    """
    if found != settings:
        changes = "\n  ".join(differences(found, settings))
        raise ConfigError(
            f"{path} was prepared with other settings:\n  {changes}\n"
            "use these settings again, or another --workdir, or remove it"
        )


def started(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store, or what there is of it as yet; None if the folder was not claimed."""
    for name in (_MANIFEST, _PROGRESS):
        if (folder / name).is_file():
            return read_json(folder / name)
    return None


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a whole store."""
    return (folder / _MANIFEST).is_file()


def _parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The counts of each source. Stores that do not say have one."""
    return manifest.get("parts", [{"name": "", **{name: manifest[name] for name in _COUNTS}}])


def encode(entry: Entry, dtype: np.dtype) -> bytes:
    """A passage as a record: three lengths, then title, tokens (as `dtype`) and sentence starts, little-endian."""
    lengths = np.array([len(entry.title), len(entry.sentences), len(entry.tokens)], _HEADER)
    little = dtype.newbyteorder("<")
    parts = (entry.title.astype(little), entry.tokens.astype(little), entry.sentences.astype(_HEADER))
    return b"".join([lengths.tobytes(), *(part.tobytes() for part in parts)])


def decode(record: bytes, row: int, dtype: np.dtype) -> Passage:
    """The passage that `encode` wrote; its ids are int32."""
    title, sentences, tokens = np.frombuffer(record, _HEADER, 3).tolist()
    little, start = dtype.newbyteorder("<"), 3 * _HEADER.itemsize
    ids = np.frombuffer(record, little, title + tokens, start).astype(np.int32)
    starts = np.frombuffer(record, _HEADER, sentences, start + ids.size * dtype.itemsize).astype(np.int32)
    return Passage(row, ids[:title], ids[title:], starts)


def encode_spans(spans: Int[np.ndarray, "n 2"]) -> bytes:
    """The salient spans of a passage as a record."""
    return spans.astype(_HEADER).tobytes()


def decode_spans(record: bytes) -> Int[np.ndarray, "n 2"]:
    """The spans that `encode_spans` wrote, as int32."""
    return np.frombuffer(record, _HEADER).astype(np.int32).reshape(-1, 2)


def _shard(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{kind}-{number:05d}.array_record"


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size < _SMALL
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; remove its folder and prepare again") from None
