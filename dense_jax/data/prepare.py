"""Raw text -> a workdir's tokenizer, passages, test set and list of rejected rows; a collection -> a store.

The source is read several times, which is cheap beside tokenising it and keeps memory small. Everything is resumable:
the same call goes on where an interrupted one stopped, and does nothing where all is done.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import xxhash

from dense_jax.config import Config, CorpusConfig, PassagesConfig, TokenizerConfig, Unit, to_dict
from dense_jax.contracts import Document, Reject
from dense_jax.data import held_out
from dense_jax.data.corpus import CheckedCorpus, open_corpus
from dense_jax.data.entries import Entry, entries, split_documents, whole_documents
from dense_jax.data.store import (
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
        DataError: the corpus cannot be used, or too many of its rows.
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
        _fill(writer, entries(_after(_Documents(corpus, queries), writer), tokenizer, passages))
    store = PassageStore(folder)
    if not len(store):
        raise DataError(f"{corpus.name}: {_lack(config.passages)}")
    return _summary(store)


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
    documents = _Documents(corpus, _hold_out(corpus, root / "test"))
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
        documents = _after(_Documents(corpus, {}), writer)
        arrange, length = (split_documents, split) if split else (whole_documents, _COLLECTION_LENGTH)
        _fill(writer, arrange(documents, tokenizer, length))
    return PassageStore(folder)


def open_collection(source: str, config: Config) -> CheckedCorpus:
    """All documents of `source`, read as the config's corpus is."""
    return open_corpus(replace(config.corpus, source=source, held_out=0, limit=0))


@dataclass(frozen=True)
class _Documents:
    """The usable rows of a corpus as they are trained on; every iteration reads the source anew."""

    corpus: CheckedCorpus
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


def _scan(corpus: CheckedCorpus, rejects: Path) -> dict[str, int]:
    """Reads every row once, lists the bad ones in `rejects`, and returns how many rows are of either kind.

    Raises:
        DataError: their share is above corpus.max_rejects, or nothing is left.
    """
    reasons: Counter[str] = Counter()
    first: list[Reject] = []
    documents = 0
    with whole_file(rejects) as partial, partial.open("wb") as file:
        for row in progress(corpus, f"check {corpus.name}", None, "rows"):
            if isinstance(row, Reject):
                place, _, line = row.where.rpartition(":")
                file.write(orjson.dumps({"file": place, "line": int(line), "reason": row.reason}) + b"\n")
                reasons[_kind(row.reason)] += 1
                first += [row] if len(first) < _EXAMPLES else []
            else:
                documents += 1
    rejected = reasons.total()
    if rejected > corpus.config.max_rejects * (rejected + documents) or not documents:
        raise DataError(_too_many(corpus.config, documents, reasons, first, rejects))
    return {"usable": documents, "rejected": rejected}


def _kind(reason: str) -> str:
    """A reason without the details of its row."""
    return re.split(r"[('\"\d]", reason, maxsplit=1)[0].strip(" ,:")


def _too_many(config: CorpusConfig, documents: int, reasons: Counter[str], first: list[Reject], file: Path) -> str:
    rejected = reasons.total()
    counts = [f"  {count:,} x {kind or 'other'}" for kind, count in reasons.most_common()]
    examples = [f"  {row.where}: {row.reason}" for row in first]
    share = rejected / (rejected + documents)
    fix = f"correct them, or skip them by --config.corpus.max_rejects={min(1.0, share + 0.005):.2f}"
    return "\n".join(
        [
            f"{rejected:,} of {rejected + documents:,} rows cannot be used (corpus.max_rejects={config.max_rejects}):",
            *counts,
            "for example",
            *examples,
            f"all are in {file}; {fix if documents else 'no document is left'}",
        ]
    )


def _hold_out(corpus: CheckedCorpus, test: Path) -> held_out.Queries:
    """Writes the test set, if the config asks for one; its queries.

    Raises:
        ConfigError: there is one that was not asked for.
        DataError: too few documents are fit for it.
    """
    if not corpus.config.held_out:
        if test.exists():
            raise ConfigError(f"{test} is left from another preparation and would be evaluated on; remove it")
        return {}
    queries = held_out.choose_queries(_Documents(corpus, {}), corpus.config.held_out)
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


def _after(documents: Iterable[Document], writer: StoreWriter) -> Iterator[Document]:
    """The documents that are in no finished shard yet."""
    return islice(documents, writer.documents, None)


def _fill(writer: StoreWriter, found: Iterable[list[Entry]]) -> None:
    with bar("tokenise", writer.notes["usable"], "documents", initial=writer.documents) as shown:
        for of_one_document in found:
            writer.add(of_one_document)
            shown.update()
    writer.finish()


def _lack(config: PassagesConfig) -> str:
    """Why a corpus gave nothing to train on."""
    if config.unit is Unit.PASSAGES:
        return "no document has a text, only titles; use another --config.corpus.text_field or corpus"
    return (
        f"no document makes two spans of {config.length} tokens; "
        "use a shorter --config.passages.length, or longer documents"
    )


def _summary(store: PassageStore) -> dict[str, Any]:
    """What `prepare` reports."""
    found = store.manifest
    spans = found["settings"]["passages"]["unit"] == Unit.SPANS.value
    return {
        "documents": found["documents"],
        "of fewer than two spans" if spans else "without text": found["left_out"],
        "rejected rows": found["notes"]["rejected"],
        "held-out queries": found["settings"]["corpus"]["held_out"],
        "vocabulary": found["notes"]["vocabulary"],
        "passages": found["count"],
        "tokens": found["tokens"],
        "folder": str(store.folder),
    }
