"""Shared parts of all kinds of prepared data: usable documents, list of rejected rows, test set and tokenizer."""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash
from typing_extensions import TypedDict

from dense_jax.artifact import content_of, read_claim, refuse_changes
from dense_jax.config import Config, CorpusConfig, PrepareConfig, Runner, TokenizerConfig
from dense_jax.config.tree import differences
from dense_jax.data import held_out
from dense_jax.data.dedup import (
    DUPLICATES,
    Pairs,
    first_of_each_group,
    list_duplicates,
    read_duplicates,
    similar_pairs,
)
from dense_jax.data.sources.corpus import CheckedCorpus, Source, open_corpus
from dense_jax.data.sources.documents import EMPTY
from dense_jax.data.sources.rejects import advice, likely_cause
from dense_jax.data.stores.passage_store import StoreWriter, TextNotes
from dense_jax.data.stores.shards import Group
from dense_jax.data.tokenizer import Tokenizer, folder_fingerprint, import_folder
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.io import Count, Settings, digests, is_written, read_json, verify, whole_file, write_json
from dense_jax.progress import progress, progress_bar
from dense_jax.types import Corpus, Document, Reject

REJECTS = "rejects.jsonl"
TEXT = "text.json"  # written last of the shared parts
_SAMPLE = 100_000_000  # characters of the corpus that a vocabulary is trained on
AGAIN = "give the same command again"
_EXAMPLES = 5  # rejected rows shown in an error


class _TextCorpus(TypedDict):
    source: Settings
    held_out: Count


class _TextSettings(TypedDict):
    corpus: _TextCorpus
    tokenizer: Settings


class Text(TypedDict):
    """Content of text.json."""

    settings: _TextSettings
    notes: TextNotes


def prepare_text(config: Config, corpus: CheckedCorpus, root: Path) -> dict[str, Any]:
    """Prepare rejects.jsonl, test and tokenizer, which all kinds of passages share; return settings and counts."""
    path = root / TEXT
    settings = _with_same_tokenizer(_settings(config), config.tokenizer, path)
    if is_written(path) and not _is_replaced(root, settings):
        found = read_json(path, Text)
        refuse_changes(path, found["settings"], settings)
        return found
    notes = scan(corpus, root / REJECTS)
    if config.corpus.near_duplicates:
        pairs = _similar_pairs(config, UsableDocuments(corpus, {}), notes["usable"], root)
        first = first_of_each_group(pairs, notes["usable"])
        notes["near_duplicates"] = list_duplicates(UsableDocuments(corpus, {}), first, root / DUPLICATES)
        notes["usable"] -= notes["near_duplicates"]
    corpus = without_duplicates(corpus, root, notes)
    queries = _choose_queries(corpus, config.corpus.held_out, root / "test")
    tokenizer = _make_tokenizer(config.tokenizer, UsableDocuments(corpus, queries))
    if queries:  # after all checks, and before the file that marks the text as finished
        held_out.write_test_set(root / "test", UsableDocuments(corpus, queries), queries)
    tokenizer.save(root / "tokenizer")
    notes |= {"vocabulary": tokenizer.size, "tokenizer": tokenizer.fingerprint}
    notes |= {"test": digests(root / "test")} if config.corpus.held_out else {}
    check_unchanged(open_corpus(config.corpus), settings["corpus"]["source"])
    write_json(path, {"settings": settings, "notes": notes})
    return read_json(path)


def _with_same_tokenizer(settings: dict[str, Any], config: TokenizerConfig, text: Path) -> dict[str, Any]:
    """`settings` with the tokenizer that `text` records, if the config names the folder of the same one."""
    if not config.path or not is_written(text):
        return settings
    before = read_json(text, Text)
    if settings["tokenizer"] == before["settings"]["tokenizer"]:
        return settings
    same = import_folder(Path(config.path)).fingerprint == before["notes"].get("tokenizer")
    return settings | ({"tokenizer": before["settings"]["tokenizer"]} if same else {})


def _is_replaced(root: Path, settings: dict[str, Any]) -> bool:
    """True if `settings` may replace the text of `root`: they differ, and no store was begun from it.

    A preparation that was refused at its end leaves such a text.
    """
    before = read_json(root / TEXT, Text)["settings"]
    if content_of(before) == content_of(settings) or any(read_claim(folder) for folder in root.iterdir()):
        return False
    if before["corpus"]["held_out"]:
        shutil.rmtree(root / "test", ignore_errors=True)
    return True


def check_test_set(root: Path) -> None:
    """
    Raises:
        StorageError: the test set changed after `prepare` held it out, so its figures compare with no others.
    """
    known = read_json(root / TEXT, Text)["notes"].get("test", {})  # older preparations have none
    try:
        verify(root / "test", known)
    except StorageError as error:
        raise StorageError(
            f"{error}; restore it, or prepare in another --workdir; a test set of your own is a folder elsewhere, "
            "named by --evaluate.folder or --validation.folder"
        ) from None


def fill(
    writer: StoreWriter,
    corpus: CheckedCorpus,
    arrange: Callable[[Iterable[Document]], Iterator[Group]],
    settings: PrepareConfig,
    *,
    chunk: int = 0,
    cure: str = "prepare it in another --workdir",
) -> None:
    """Write the passages that `arrange` makes of the documents that are in no finished shard yet, source by source.

    The workers of a Beam pipeline call `arrange`, which is pickled, with any run of documents of a source, so it must
    treat each document alone. With `chunk` it returns lines, which the workers cut into chunks of that many tokens.
    `cure` is the advice if the corpus changes meanwhile.

    Raises:
        MachineError: Beam is chosen, and is missing or fails.
        DataError: the corpus changed while it was read.
    """
    before = corpus.fingerprint()

    def finish() -> None:
        check_unchanged(corpus, before, cure)
        writer.finish()

    if settings.runner is Runner.BEAM:
        from dense_jax.data.beam import fill_by_beam  # imported here: an extra

        sources = [(source.name, UsableDocuments(source, {})) for source in corpus.sources]
        fill_by_beam(writer, sources, arrange, settings, chunk, finish)
        return
    with progress_bar("tokenise", writer.notes["usable"], "documents", initial=writer.documents) as shown:
        for source in corpus.sources:
            done = writer.begin(source.name)
            for group in arrange(islice(UsableDocuments(source, {}), done, None)):
                writer.add(group)
                shown.update(group.documents)
    finish()


def check_unchanged(corpus: CheckedCorpus, before: dict[str, Any], cure: str = AGAIN) -> None:
    """
    Raises:
        DataError: the fingerprint of the corpus is no longer `before`; `cure` is the advice.
    """
    if changes := "\n  ".join(differences(before, corpus.fingerprint())):
        raise DataError(
            f"{corpus.name} changed while it was read:\n  {changes}\n"
            f"wait until nothing writes to it any more, then {cure}"
        )


def without_duplicates(corpus: CheckedCorpus, root: Path, notes: dict[str, Any]) -> CheckedCorpus:
    """`corpus` without the near-duplicates that `notes` counts, if any.

    Raises:
        StorageError: their list is missing or damaged.
    """
    count = notes.get("near_duplicates", 0)
    return corpus.without(read_duplicates(root / DUPLICATES, count)) if count else corpus


@dataclass(frozen=True)
class UsableDocuments:
    """The usable rows of a corpus or source, for training; each iteration reads the source again."""

    corpus: Corpus
    queries: held_out.Queries

    def __iter__(self) -> Iterator[Document]:
        documents = (row for row in self.corpus if isinstance(row, Document))
        return held_out.without_queries(documents, self.queries)


def corpus_fingerprint(config: Config) -> dict[str, Any]:
    """The fingerprint of the content of the config's corpus, independent of its path and of its queries."""
    return content_of(open_corpus(config.corpus).fingerprint())


def prepared_corpus(root: Path) -> dict[str, Any]:
    """The fingerprint of the corpus that was prepared in `root`; empty if `root` has none."""
    text = root / TEXT
    return content_of(read_json(text, Text)["settings"]["corpus"]["source"]) if is_written(text) else {}


def _settings(config: Config) -> dict[str, Any]:
    """The settings that the result depends on; content instead of paths, so that a moved workdir stays valid."""
    path, chosen = config.tokenizer.path, config.corpus
    trained = {"vocab_size": config.tokenizer.vocab_size, "lowercase": config.tokenizer.lowercase}
    rows = {"max_characters": chosen.max_characters, "held_out": chosen.held_out, "limit": chosen.limit}
    rows |= {"near_duplicates": chosen.near_duplicates} if chosen.near_duplicates else {}
    return {
        "corpus": {"source": open_corpus(chosen).fingerprint(), **rows},  # with or without queries
        "tokenizer": {"imported": folder_fingerprint(Path(path))} if path else trained,
    }


@dataclass(frozen=True)
class _Scanned:
    """The number of usable rows of a source, and the reasons of the others."""

    config: CorpusConfig
    documents: int
    reasons: Counter[str]
    causes: Counter[str]  # of the same rows
    first: list[Reject]

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    def too_bad(self, may_be_empty: bool) -> bool:
        counted = self.rejected - (self.reasons[_kind(EMPTY)] if may_be_empty else 0)
        return counted > self.config.max_rejects * (self.rejected + self.documents) or not self.documents


def scan(corpus: CheckedCorpus, rejects: Path, *, may_be_empty: bool = False) -> dict[str, int]:
    """Read every row once, list the bad ones in `rejects`, and return the numbers of rows of either kind.

    With `may_be_empty`, rows with neither text nor title do not count against corpus.max_rejects.

    Raises:
        DataError: the share of bad rows in a source is above corpus.max_rejects, or it has no usable row.
    """
    with whole_file(rejects) as partial, partial.open("wb") as file:
        found = [_scan_source(source, file) for source in corpus.sources]
    if bad := [_too_many(scanned, rejects) for scanned in found if scanned.too_bad(may_be_empty)]:
        raise DataError("\n".join(bad))
    return {"usable": sum(of.documents for of in found), "rejected": sum(of.rejected for of in found)}


def rows_left_out(folder: Path) -> str:
    """A sentence about the rows that `scan` listed in `folder`, with file and line; empty if it listed none."""
    lines = (folder / REJECTS).read_bytes().split(b"\n")[:-1] if (folder / REJECTS).is_file() else []
    if not lines:
        return ""
    first = orjson.loads(lines[0])
    are = "rows are left out, such as" if len(lines) > 1 else "row is left out:"
    return f"{len(lines):,} {are} {first['file']}:{first['line']} ({first['reason']}); see {folder / REJECTS}"


def _scan_source(source: Source, rejects: BinaryIO) -> _Scanned:
    if source.contents.note:
        print(source.contents.note, file=sys.stderr)
    reasons: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    first: list[Reject] = []
    documents = 0
    for row in progress(source, f"check {source.name}", None, "rows"):
        if isinstance(row, Reject):
            place, _, line = row.where.rpartition(":")
            rejects.write(orjson.dumps({"file": place, "line": int(line), "reason": row.reason}) + b"\n")
            reasons[_kind(row.reason)] += 1
            causes[likely_cause(row.reason)] += 1
            first += [row] if len(first) < _EXAMPLES else []
        else:
            documents += 1
    return _Scanned(source.config, documents, reasons, causes, first)


def _kind(reason: str) -> str:
    """A reason without the details of its row."""
    return re.split(r"[('\"\d]", reason, maxsplit=1)[0].strip(" ,:")


def _too_many(found: _Scanned, file: Path) -> str:
    rows = found.rejected + found.documents
    allowed = found.config.max_rejects
    fix = advice(found.causes, found.documents)
    return "\n".join(
        [
            f"{found.rejected:,} of {rows:,} rows cannot be used (corpus.max_rejects={allowed}):",
            *(f"  {count:,} x {kind or 'other'}" for kind, count in found.reasons.most_common()),
            "for example",
            *(f"  {row.where}: {row.reason}" for row in found.first),
            f"all are in {file}; {fix if found.documents else f'no document is left; {fix}'}",
        ]
    )


def _similar_pairs(config: Config, documents: UsableDocuments, count: int, root: Path) -> Pairs:
    """Pairs of near-duplicates among `documents`."""
    similarity = config.corpus.near_duplicates
    if config.prepare.runner is Runner.BEAM:
        from dense_jax.data.beam import similar_pairs_by_beam  # imported here: an extra

        return similar_pairs_by_beam(documents, similarity, config.prepare, root, _settings(config)["corpus"])
    shown = progress(documents, "compare documents", count, "documents")
    return similar_pairs((document.text for document in shown), similarity)


def _choose_queries(corpus: CheckedCorpus, count: int, test: Path) -> held_out.Queries:
    """`count` queries for a test set in `test`; none if `count` is 0.

    Raises:
        ConfigError: `test` exists although `count` is 0.
        DataError: too few documents are fit for a query.
    """
    if not count:
        if test.exists():
            raise ConfigError(f"{test} is left from another preparation and would be evaluated on; remove it")
        return {}
    return held_out.choose_queries(UsableDocuments(corpus, {}), count)


def _make_tokenizer(config: TokenizerConfig, documents: Iterable[Document]) -> Tokenizer:
    """The tokenizer that the config names or describes."""
    if config.path:
        return import_folder(Path(config.path))
    texts = _sample(progress(documents, "sample for the vocabulary", None, "documents"), _SAMPLE)
    return Tokenizer.train(texts, config.vocab_size, config.lowercase)


def _sample(documents: Iterable[Document], characters: int) -> list[str]:
    """Titles and texts of about `characters` in total: of documents whose id's hash ends with enough zeros."""
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
