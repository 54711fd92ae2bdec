"""Prepared passages on disk, read by row, and the writer that can be interrupted.

    FOLDER/passages-00000.array_record   one record a passage: title ids, token ids, where its sentences start
           texts-00000.array_record      one record a passage: id, title and text as JSON, read only to be shown
           spans-00000.array_record      one record a passage: its salient spans, only where they were asked for
           manifest.json                 written last: counts, digests, and the settings that made the rest
           progress.json                 the same while the writer works; a shard that it does not name does not exist

A shard ends with a document and with its source, so a writer that starts again knows how many documents of which
source to skip.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dense_jax.artifact import Claim
from dense_jax.config.tree import differences
from dense_jax.data.stores.records import Records
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
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import digest, is_written, json_digest, read_json, verify, write_json
from dense_jax.schemas import StoreManifest, StoreProgress
from dense_jax.types import Document, Passage, PassageCollection, SourceRows, TrainingSet

_MANIFEST, _PROGRESS = "manifest.json", "progress.json"
_COUNTS = ("count", "documents", "left_out", "tokens")  # of all sources, and of each
_YIELD = ("count", "tokens", "passages")  # of salient spans: how many, of how many tokens, in how many passages
_BLOCK = 4_096  # texts held in memory while their ids are read
_SMALL = 1 << 20  # bytes; ArrayRecord's own checksums see a changed bit only in larger files


class PassageStore(PassageCollection, TrainingSet):
    """Finished passages by row, from any number of threads and, pickled, from other processes."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            StorageError: the folder is unfinished, or a file is missing or damaged.
        """
        if not is_finished(folder):
            raise StorageError(f"{folder}: not prepared to the end (no {_MANIFEST}); run `dense-jax prepare` again")
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(folder / _MANIFEST, StoreManifest)
        ends = accumulate(counts["count"] for counts in _parts(self.manifest))
        self._parts = [
            SourceRows(counts["name"], range(end - counts["count"], end), counts["tokens"])
            for counts, end in zip(_parts(self.manifest), ends, strict=True)
        ]
        counts = self.manifest["passages_per_shard"]
        if not sum(counts) == self.manifest["count"] == sum(len(part.rows) for part in self._parts):
            raise StorageError(
                f"{folder / _MANIFEST}: damaged (its counts of passages contradict each other); remove {folder} and "
                "prepare again"
            )
        self._dtype = np.dtype(self.manifest["dtype"])
        self._passages = Records([shard_path(folder, "passages", i) for i in range(len(counts))], counts)
        self._texts = Records([shard_path(folder, "texts", i) for i in range(len(counts))], counts)
        salient = "spans" in self.manifest
        self._spans = Records([shard_path(folder, "spans", i) for i in range(len(counts))], counts) if salient else None
        verify(folder, {name: known for name, known in self.manifest["files"].items() if _is_small(folder / name)})

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, row: int) -> Passage:
        return self.passages([row])[0]

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages of `rows`, in their order; many at once are read some ten times faster than one by one."""
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
        """The text of passage `row`, and its id."""
        return self.texts([row])[0]

    def texts(self, rows: Sequence[int]) -> list[Document]:
        """The texts of `rows`, in their order; as with `passages`, many at once are read much faster."""
        return [Document(**orjson.loads(text)) for text in self._texts.read(rows)]

    @property
    def fingerprint(self) -> str:
        """Changes with anything in the store."""
        return digest(self.folder / _MANIFEST)

    @property
    def content(self) -> str:
        """Equal for the same tokens and texts in the same order, whatever their source is called."""
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
        """All rows, source by source."""
        return self._parts


class StoreWriter:
    """Writes a claimed folder shard by shard; a new writer goes on after the last finished one."""

    def __init__(
        self,
        folder: Path,
        shard_size: int,
        vocab_size: int,
        *,
        salient: bool = False,
        check: Callable[[dict[str, Any]], None] = lambda manifest: None,
    ) -> None:
        """With `salient`, the spans of entries are stored too. What `check` refuses of a manifest is never finished."""
        self.folder, self._check = folder, check
        self.shard_size = shard_size
        self._part = -1  # the source that is being written
        self._entries: list[Entry] = []
        self._documents = self._left_out = 0  # added since the last finished shard
        dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        fresh = {**dict.fromkeys(_COUNTS, 0), "passages_per_shard": [], "files": {}, "dtype": dtype}
        fresh |= {"spans": dict.fromkeys(_YIELD, 0)} if salient else {}
        self._state: dict[str, Any] = fresh | read_json(folder / _PROGRESS, StoreProgress)
        self._state["parts"] = _parts(self._state)

    @property
    def documents(self) -> int:
        """How many documents are in finished shards."""
        return self._state["documents"]

    def read_of(self, source: int) -> tuple[int, int]:
        """How many documents of a source, by its number, are done; of how many of them nothing is stored."""
        parts = self._state["parts"]
        return (parts[source]["documents"], parts[source]["left_out"]) if source < len(parts) else (0, 0)

    @property
    def next_shard(self) -> int:
        """The number of the shard that is written next."""
        return len(self._state["passages_per_shard"])

    @property
    def form(self) -> RecordFormat:
        """How passages are written."""
        return RecordFormat(self._state["dtype"], "spans" in self._state)

    @property
    def settings(self) -> dict[str, Any]:
        """What the claim says that the store is made with."""
        return self._state["settings"]

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
        """Writes what is left and, once it has passed the check, the manifest."""
        self._end_part()
        self._check(self._state)
        write_json(self.folder / _MANIFEST, self._state)
        (self.folder / _PROGRESS).unlink(missing_ok=True)
        return PassageStore(self.folder)

    def shard(self, written: Shard, documents: int, left_out: int) -> None:
        """The next shard of the source is written, of so many `documents`."""
        state = self._state
        state["files"] |= written.files
        state["passages_per_shard"].append(written.passages)
        self.count(documents, left_out, written)
        write_json(self.folder / _PROGRESS, state)

    def count(self, documents: int, left_out: int, written: Shard | None = None) -> None:
        """So many more documents of the source were read; without a shard, nothing is stored of them."""
        passages, tokens = (written.passages, written.tokens) if written else (0, 0)
        found = dict(zip(_COUNTS, (passages, documents, left_out, tokens), strict=True))
        for counts in (self._state, self._state["parts"][self._part]):
            counts |= {name: counts[name] + number for name, number in found.items()}
        if "spans" in self._state and written:
            counts = self._state["spans"]
            counts |= {name: counts[name] + number for name, number in zip(_YIELD, written.spans, strict=True)}

    def _end_part(self) -> None:
        if self._entries:
            self._write_shard()
        elif self._documents:
            self.count(self._documents, self._left_out)
            self._documents = self._left_out = 0

    def _write_shard(self) -> None:
        written = write_shard(self.folder, self.next_shard, self._entries, self.form)
        self.shard(written, self._documents, self._left_out)
        self._entries, self._documents, self._left_out = [], 0, 0


def claim(folder: Path, settings: dict[str, Any], notes: dict[str, Any]) -> None:
    """Starts a store: says what it is made with and what is known so far (JSON values), before any shard."""
    write_json(folder / _PROGRESS, {"settings": settings, "notes": notes})


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """
    Raises:
        ConfigError: the folder holds a store, or the start of one, that was made with other settings; lists them.
    """
    if found := read_claim(folder):
        refuse_changes(folder, found["settings"], settings)


def refuse_changes(path: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """
    Raises:
        ConfigError: `path` was made with settings `found`, which are not `settings`; lists the differences.
    """
    found, settings = content_of(found), content_of(settings)
    if found != settings:
        changes = "\n  ".join(differences(found, settings))
        raise ConfigError(
            f"{path} was prepared with other settings:\n  {changes}\n"
            "use these settings again, or another --workdir, or remove it"
        )


def content_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the names of files that stand alone in a corpus: their digests say what they hold.

    >>> content_of({"source": {"name": "old.jsonl", "digest": "5f"}})
    {'source': {'digest': '5f'}}
    """
    if "also" in settings:  # the names stand before the ids of their documents
        return settings
    kept = {key: value for key, value in settings.items() if not (key == "name" and "digest" in settings)}
    return {key: content_of(value) if isinstance(value, dict) else value for key, value in kept.items()}


def read_claim(folder: Path) -> dict[str, Any] | None:
    """The manifest of a store of any kind, or what there is of it as yet; None if the folder was not claimed."""
    for name in (_MANIFEST, _PROGRESS):
        if is_written(folder / name):
            return read_json(folder / name, Claim)
    return None


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds a whole store."""
    return is_written(folder / _MANIFEST)


def _parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The counts of each source. Stores that do not say have one."""
    return manifest.get("parts", [{"name": "", **{name: manifest[name] for name in _COUNTS}}])


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size < _SMALL
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; remove its folder and prepare again") from None
