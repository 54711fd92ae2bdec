"""Raw text -> a workdir's tokenizer, passages, test set and list of rejected rows; a collection -> a store.

The source is read several times, which is cheap beside tokenising it and keeps memory small. Everything is resumable:
the same call goes on where an interrupted one stopped, and does nothing where all is done.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash

from dense_jax.config import Config, CorpusConfig, PassagesConfig, TokenizerConfig, Unit, to_dict
from dense_jax.contracts import Corpus, Document, Reject
from dense_jax.data import held_out
from dense_jax.data.corpus import CheckedCorpus, Source, open_corpus
from dense_jax.data.entries import entries, split_documents, whole_documents
from dense_jax.data.running_text import ChunkStore
from dense_jax.data.store import (
    Group,
    PassageStore,
    StoreWriter,
    check_settings,
    claim,
    is_finished,
    refuse_other,
    started,
)
from dense_jax.data.tokenizer import Tokenizer, folder_fingerprint, import_folder
from dense_jax.errors import ConfigError, DataError
from dense_jax.files import read_json, whole_file, write_json
from dense_jax.progress import bar, progress

_SAMPLE = 100_000_000  # characters of the corpus that a vocabulary is trained on
_COLLECTION_LENGTH = 512  # tokens kept of a document of a collection: no encoder here takes more
_EXAMPLES = 5  # rejected rows shown in an error


def prepare(config: Config, workdir: Path) -> dict[str, Any]:
    """Fills `workdir`, or `passages.workdir`, with tokenizer, test set, rejects.jsonl and passages; returns counts.

    Configs that differ in their passages only can share a workdir: each kind and length has a folder of its own.

    Raises:
        ConfigError: it was prepared with other settings or from other text; lists the differences.
        DataError: a source of the corpus cannot be used, or too many of its rows.
    """
    root = Path(config.passages.workdir or workdir)
    folder = passages_folder(root, config.passages)
    corpus = open_corpus(config.corpus)
    about = _prepare_text(config, corpus, root)
    passages = replace(config.passages, workdir="")
    settings = about["settings"] | {"passages": to_dict(passages)}
    check_settings(folder, settings)
    if not started(folder):
        claim(folder, settings, about["notes"])
    if not is_finished(folder):
        queries = held_out.read_queries(root / "test") if config.corpus.held_out else {}
        tokenizer = Tokenizer.load(root / "tokenizer")
        writer = StoreWriter(folder, passages.shard_size, tokenizer.size)
        _fill(writer, corpus, queries, lambda documents: entries(documents, tokenizer, passages))
    store = open_passages(root, passages)
    for source, part in zip(corpus.sources, store.parts(), strict=True):
        if not part.rows:
            raise DataError(f"{source.name}: {_lack(passages)}")
    return _summary(store)


def open_passages(root: Path, config: PassagesConfig) -> PassageStore:
    """What `prepare` put there to be trained on.

    Raises:
        StorageError: the folder is unfinished, or a file is missing or damaged.
    """
    folder = passages_folder(root, config)
    return ChunkStore(folder) if config.unit is Unit.CHUNKS else PassageStore(folder)


def passages_folder(root: Path, config: PassagesConfig) -> Path:
    """Where `prepare` puts such passages, such as passages-288."""
    untitled = "" if config.titled or config.unit is Unit.SPANS else "-untitled"
    short = f"-{100 * config.short_rate:g}-percent-short" if config.short_rate else ""
    return root / f"{config.unit.value}-{config.length}{untitled}{short}"


def _prepare_text(config: Config, corpus: CheckedCorpus, root: Path) -> dict[str, Any]:
    """What all kinds of passages share: rejects.jsonl, test, tokenizer; what they were made with, and counts."""
    path, settings = root / "text.json", _settings(config, corpus)
    if path.is_file():
        refuse_other(path, read_json(path)["settings"], settings)
        return read_json(path)
    notes = _scan(corpus, root / "rejects.jsonl")
    documents = _Documents(corpus, _hold_out(corpus, config.corpus.held_out, root / "test"))
    tokenizer = _make_tokenizer(config.tokenizer, documents, root / "tokenizer")
    notes |= {"vocabulary": tokenizer.size, "tokenizer": tokenizer.fingerprint}
    write_json(path, {"settings": settings, "notes": notes})
    return read_json(path)


def prepare_collection(
    source: str, config: Config, tokenizer: Tokenizer, folder: Path, *, split: int = 0
) -> PassageStore:
    """Every document of `source` as one passage, in the order of the source, under `folder`.

    With `split`, as passages of up to so many tokens.

    Raises:
        ConfigError: `folder` was made from another source or with another tokenizer.
        DataError: the source cannot be used, or too many of its rows.
    """
    corpus = open_collection(source, config)
    settings = {"source": corpus.fingerprint(), "tokenizer": tokenizer.fingerprint}
    settings |= {"split": split} if split else {"length": _COLLECTION_LENGTH}
    check_settings(folder, settings)
    if not started(folder):
        claim(folder, settings, _scan(corpus, folder / "rejects.jsonl"))
    if not is_finished(folder):
        writer = StoreWriter(folder, config.passages.shard_size, tokenizer.size)
        arrange, length = (split_documents, split) if split else (whole_documents, _COLLECTION_LENGTH)
        _fill(writer, corpus, {}, lambda documents: arrange(documents, tokenizer, length))
    return PassageStore(folder)


def open_collection(source: str, config: Config) -> CheckedCorpus:
    """All documents of `source`, read as the config's corpus is."""
    return open_corpus(replace(config.corpus, source=source, also=(), held_out=0, limit=0))


@dataclass(frozen=True)
class _Documents:
    """The usable rows of a corpus or of one source as they are trained on; every iteration reads them anew."""

    corpus: Corpus
    queries: held_out.Queries

    def __iter__(self) -> Iterator[Document]:
        documents = (row for row in self.corpus if isinstance(row, Document))
        return held_out.without_queries(documents, self.queries)


def _settings(config: Config, corpus: CheckedCorpus) -> dict[str, Any]:
    """What the result depends on; content in the place of paths, so that a moved workdir stays valid."""
    path, chosen = config.tokenizer.path, config.corpus
    trained = {"vocab_size": config.tokenizer.vocab_size, "lowercase": config.tokenizer.lowercase}
    rows = {"max_characters": chosen.max_characters, "held_out": chosen.held_out, "limit": chosen.limit}
    return {
        "corpus": {"source": corpus.fingerprint(), **rows},
        "tokenizer": {"imported": folder_fingerprint(Path(path))} if path else trained,
    }


@dataclass(frozen=True)
class _Scanned:
    """How many rows of a source can be used, and what is wrong with the others."""

    config: CorpusConfig
    documents: int
    reasons: Counter[str]
    first: list[Reject]

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    @property
    def too_bad(self) -> bool:
        return self.rejected > self.config.max_rejects * (self.rejected + self.documents) or not self.documents


def _scan(corpus: CheckedCorpus, rejects: Path) -> dict[str, int]:
    """Reads every row once, lists the bad ones in `rejects`, and returns how many rows are of either kind.

    Raises:
        DataError: their share in a source is above corpus.max_rejects, or nothing is left of it.
    """
    with whole_file(rejects) as partial, partial.open("wb") as file:
        found = [_scan_source(source, file) for source in corpus.sources]
    if bad := [_too_many(scanned, rejects) for scanned in found if scanned.too_bad]:
        raise DataError("\n".join(bad))
    return {"usable": sum(of.documents for of in found), "rejected": sum(of.rejected for of in found)}


def _scan_source(source: Source, rejects: BinaryIO) -> _Scanned:
    reasons: Counter[str] = Counter()
    first: list[Reject] = []
    documents = 0
    for row in progress(source, f"check {source.name}", None, "rows"):
        if isinstance(row, Reject):
            place, _, line = row.where.rpartition(":")
            rejects.write(orjson.dumps({"file": place, "line": int(line), "reason": row.reason}) + b"\n")
            reasons[_kind(row.reason)] += 1
            first += [row] if len(first) < _EXAMPLES else []
        else:
            documents += 1
    return _Scanned(source.config, documents, reasons, first)


def _kind(reason: str) -> str:
    """A reason without the details of its row."""
    return re.split(r"[('\"\d]", reason, maxsplit=1)[0].strip(" ,:")


def _too_many(found: _Scanned, file: Path) -> str:
    rows = found.rejected + found.documents
    allowed = found.config.max_rejects
    fix = f"correct them, or skip them by --config.corpus.max_rejects={min(1.0, found.rejected / rows + 0.005):.2f}"
    return "\n".join(
        [
            f"{found.rejected:,} of {rows:,} rows cannot be used (corpus.max_rejects={allowed}):",
            *(f"  {count:,} x {kind or 'other'}" for kind, count in found.reasons.most_common()),
            "for example",
            *(f"  {row.where}: {row.reason}" for row in found.first),
            f"all are in {file}; {fix if found.documents else 'no document is left'}",
        ]
    )


def _hold_out(corpus: CheckedCorpus, count: int, test: Path) -> held_out.Queries:
    """Writes the test set of `count` queries, if there are to be any; its queries.

    Raises:
        ConfigError: there is one that was not asked for.
        DataError: too few documents are fit for it.
    """
    if not count:
        if test.exists():
            raise ConfigError(f"{test} is left from another preparation and would be evaluated on; remove it")
        return {}
    queries = held_out.choose_queries(_Documents(corpus, {}), count)
    held_out.write_test_set(test, _Documents(corpus, queries), queries)
    return queries


def _make_tokenizer(config: TokenizerConfig, documents: Iterable[Document], folder: Path) -> Tokenizer:
    """The tokenizer that the config names or describes, saved to `folder`."""
    if config.path:
        tokenizer = import_folder(Path(config.path))
    else:
        texts = _sample(progress(documents, "sample for the vocabulary", None, "documents"), _SAMPLE)
        tokenizer = Tokenizer.train(texts, config.vocab_size, config.lowercase)
    tokenizer.save(folder)
    return tokenizer


def _sample(documents: Iterable[Document], characters: int) -> list[str]:
    """Titles and texts of about `characters` in all: the documents whose id has enough zeros at the end of its hash."""
    kept: list[tuple[int, str]] = []
    zeros = size = 0
    for document in documents:
        number = xxhash.xxh3_64_intdigest(document.id.encode())
        if number % (1 << zeros) == 0:
            kept += [(number, text) for text in (document.title, document.text)]
            size += len(document.title) + len(document.text)
        while size > characters:
            zeros += 1
            kept = [(number, text) for number, text in kept if number % (1 << zeros) == 0]
            size = sum(len(text) for _, text in kept)
    return [text for _, text in kept]


def _fill(
    writer: StoreWriter,
    corpus: CheckedCorpus,
    queries: held_out.Queries,
    arrange: Callable[[Iterable[Document]], Iterator[Group]],
) -> None:
    """Writes what `arrange` makes of the documents of each source that are in no finished shard yet."""
    with bar("tokenise", writer.notes["usable"], "documents", initial=writer.documents) as shown:
        for source in corpus.sources:
            done = writer.begin(source.name)
            for group in arrange(islice(_Documents(source, queries), done, None)):
                writer.add(group)
                shown.update(group.documents)
    writer.finish()


def _lack(config: PassagesConfig) -> str:
    """Why a source gave nothing to train on."""
    if config.unit is Unit.SPANS:
        return (
            f"no document makes two spans of {config.length} tokens; "
            "use a shorter --config.passages.length, or longer documents"
        )
    return "no document has a text, only titles; use another --config.corpus.text_field or corpus"


def _summary(store: PassageStore) -> dict[str, Any]:
    """What `prepare` reports."""
    found = store.manifest
    spans = found["settings"]["passages"]["unit"] == Unit.SPANS.value
    of_each = {f"of {part.name}": f"{len(part.rows):,} passages, {part.tokens:,} tokens" for part in store.parts()}
    return {
        "documents": found["documents"],
        "of fewer than two spans" if spans else "without text": found["left_out"],
        "rejected rows": found["notes"]["rejected"],
        "held-out queries": found["settings"]["corpus"]["held_out"],
        "vocabulary": found["notes"]["vocabulary"],
        "passages": found["count"],
        "tokens": found["tokens"],
        **(of_each if len(of_each) > 1 else {}),
        "folder": str(store.folder),
    }
