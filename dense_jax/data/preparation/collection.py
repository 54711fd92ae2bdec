"""Collections: documents to be searched, as stores or in memory, with a description for people."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dense_jax.artifact import check_settings, claim, is_finished, read_claim
from dense_jax.config import Config, require
from dense_jax.data.dedup import DUPLICATES
from dense_jax.data.preparation.entries import DOCUMENT_LENGTH, split_documents, whole_documents
from dense_jax.data.preparation.fill import AGAIN, check_unchanged, fill_store
from dense_jax.data.preparation.scan import REJECTS, rows_left_out, scan
from dense_jax.data.preparation.text import TEXT, Text, without_duplicates
from dense_jax.data.sources.corpus import CheckedCorpus, open_corpus
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.io import is_written, json_digest, read_json, short_digest
from dense_jax.processes.locks import alone, lock_of
from dense_jax.types import Document, Passage, PassageCollection

_LEFT_OUT = {"near_duplicates": ("near-duplicates", DUPLICATES), "rejected": ("rejected rows", REJECTS)}


@dataclass(frozen=True)
class Collection:
    """Passages that can be searched."""

    name: str  # used in the names of derived folders
    source: str  # the files or folders of its documents, for people
    store: PassageStore

    @property
    def described(self) -> str:
        """The source, the number of documents and the rows left out."""
        manifest = self.store.manifest
        notes, documents, empty = manifest["notes"], manifest["documents"], manifest["left_out"]
        counts = [f"{documents:,} documents"]
        counts += [f"{empty:,} of them without text and left out"] if empty else []
        for note, (rows, file) in _LEFT_OUT.items():
            if count := notes.get(note):
                counts.append(f"{count:,} {rows} left out (see {file})")
        split = f", as {len(self.store):,} passages" if len(self.store) != documents - empty else ""
        return f"{self.source}: {', '.join(counts)}{split}"


def prepared_collection(name: str, store: PassageStore) -> Collection:
    """The prepared passages as a collection, described by their sources."""
    return Collection(name, ", ".join(part.name for part in store.parts()), store)


def open_collection(source: str, config: Config) -> CheckedCorpus:
    """All documents of `source`, read with the settings of the config's corpus."""
    return open_corpus(replace(config.corpus, source=source, also=(), held_out=0, limit=0))


def whole_corpus(config: Config, root: Path) -> CheckedCorpus:
    """All sources of the corpus that `config` names, without the near-duplicates that `prepare` listed in `root`.

    Nothing is held out of it.

    Raises:
        ConfigError: `root` was prepared from another corpus, or lists near-duplicates of an earlier version of this
            corpus.
    """
    corpus, path = open_corpus(config.corpus), root / TEXT
    if not is_written(path):
        duplicates = config.corpus.near_duplicates
        require(not duplicates, f"corpus.near_duplicates={duplicates}: run `dense-jax prepare` first, which finds them")
        return corpus
    prepared = read_json(path, Text)
    notes, before, now = prepared["notes"], prepared["settings"]["corpus"]["source"], corpus.fingerprint()
    if before == now or (before | {"name": ""} == now | {"name": ""} and len(corpus.sources) == 1):
        return without_duplicates(corpus, root, notes)
    theirs, ours = ", ".join(_source_names(before)), ", ".join(_source_names(now))
    fix = "name what is to be searched by --embed.collection, or prepare the corpus in another --workdir"
    require(theirs == ours, f"{root} was prepared from {theirs}, but corpus.source and corpus.also are {ours}; {fix}")
    require(
        not notes.get("near_duplicates"),
        f"{ours} changed since {root} was prepared, and {root / DUPLICATES} lists near-duplicates of its former texts; "
        f"{fix}",
    )
    return corpus


def prepare_collection(
    corpus: CheckedCorpus,
    config: Config,
    tokenizer: Tokenizer,
    root: Path,
    name: str,
    *,
    split: int = 0,
    finished_in: Sequence[Path] = (),
) -> PassageStore:
    """Every document of `corpus` as one passage, in order, in a folder of `root` named by `name` and the content.

    With `split`, documents are passages of up to that many tokens. Rows with neither text nor title are left out with a
    note: they cannot be found, and stay among the judged documents. A finished folder of that name in one of
    `finished_in`, which may be read-only, is used as it is.

    Raises:
        ConfigError: another process makes the folder.
        DataError: a source or too many of its rows cannot be used, or it changed while it was read.
    """
    settings = _collection_settings(corpus, tokenizer, split)
    folders = [place / f"{name}-{short_digest(settings)}" for place in (*finished_in, root)]
    folder = next(filter(is_finished, folders), folders[-1])
    if not is_finished(folder):
        with alone(lock_of(folder), f"{folder} is being prepared"):
            check_settings(folder, settings)
            if not read_claim(folder):
                notes = scan(corpus, folder / REJECTS, may_be_empty=True)
                notes |= {"near_duplicates": len(left_out)} if (left_out := corpus.left_out) else {}
                check_unchanged(corpus, settings["source"])
                claim(folder, settings, notes)
                if rows := rows_left_out(folder):
                    print(f"note: {rows}", file=sys.stderr)
            writer = StoreWriter(folder, config.passages.shard_size, tokenizer.size)
            arrange, length = (split_documents, split) if split else (whole_documents, DOCUMENT_LENGTH)
            cut, advice = partial(arrange, tokenizer=tokenizer, length=length), f"remove {folder} and {AGAIN}"
            fill_store(writer, corpus, cut, config.prepare, advice=advice)
    check_settings(folder, settings)
    return PassageStore(folder)


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


def _collection_settings(corpus: CheckedCorpus, tokenizer: Tokenizer, split: int) -> dict[str, Any]:
    """The settings that decide the content of a collection's store."""
    rows = corpus.sources[0].config
    settings: dict[str, Any] = {"source": corpus.fingerprint(), "tokenizer": tokenizer.fingerprint}
    settings |= {"max_characters": rows.max_characters, "limit": rows.limit}
    settings |= {"left_out": json_digest(sorted(left_out))} if (left_out := corpus.left_out) else {}
    # In stores without "texts", each piece of a sentence has the text of the whole sentence.
    return settings | ({"split": split, "texts": "split"} if split else {"length": DOCUMENT_LENGTH})


def _source_names(fingerprint: dict[str, Any]) -> list[str]:
    """The names of the sources in a corpus's fingerprint."""
    return [fingerprint["name"], *(also["name"] for also in fingerprint.get("also", {}).values())]
