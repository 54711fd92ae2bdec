"""What all kinds of prepared data share: the usable documents, the list of rejected rows, test set and tokenizer."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash

from dense_jax.config import Config, CorpusConfig, PrepareConfig, Runner, TokenizerConfig
from dense_jax.config_tree import differences
from dense_jax.contracts import Corpus, Document, Reject
from dense_jax.data import held_out
from dense_jax.data.preparation.near_duplicates import (
    NAME,
    Edges,
    alike,
    first_of_each,
    list_duplicates,
    read_duplicates,
)
from dense_jax.data.sources.corpus import CheckedCorpus, Source, open_corpus
from dense_jax.data.stores.passage_store import StoreWriter, refuse_other
from dense_jax.data.stores.shards import Group
from dense_jax.data.tokenizer import Tokenizer, folder_fingerprint, import_folder
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.files import digests, is_written, read_json, verify, whole_file, write_json
from dense_jax.progress import bar, progress
from dense_jax.schemas import Text

_SAMPLE = 100_000_000  # characters of the corpus that a vocabulary is trained on
_TEXT = "text.json"
AGAIN = "give the same command again"
_EXAMPLES = 5  # rejected rows shown in an error


def prepare_text(config: Config, corpus: CheckedCorpus, root: Path) -> dict[str, Any]:
    """What all kinds of passages share: rejects.jsonl, test, tokenizer; what they were made with, and counts."""
    path, settings = root / _TEXT, _settings(config)
    if is_written(path):
        found = read_json(path, Text)
        refuse_other(path, found["settings"], settings)
        return found
    notes = scan(corpus, root / "rejects.jsonl")
    if config.corpus.near_duplicates:
        edges = _alike(config, Documents(corpus, {}), notes["usable"], root)
        first = first_of_each(edges, notes["usable"])
        notes["near_duplicates"] = list_duplicates(Documents(corpus, {}), first, root / NAME)
        notes["usable"] -= notes["near_duplicates"]
    corpus = without_duplicates(corpus, root, notes)
    documents = Documents(corpus, _hold_out(corpus, config.corpus.held_out, root / "test"))
    tokenizer = _make_tokenizer(config.tokenizer, documents, root / "tokenizer")
    notes |= {"vocabulary": tokenizer.size, "tokenizer": tokenizer.fingerprint}
    notes |= {"test": digests(root / "test")} if config.corpus.held_out else {}
    check_unchanged(open_corpus(config.corpus), settings["corpus"]["source"])
    write_json(path, {"settings": settings, "notes": notes})
    return read_json(path)


def check_test_set(root: Path) -> None:
    """
    Raises:
        StorageError: the test set that `prepare` held out has changed since: its figures would compare with no others.
    """
    known = read_json(root / _TEXT, Text)["notes"].get("test", {})  # older preparations have none
    try:
        verify(root / "test", known)
    except StorageError as error:
        raise StorageError(
            f"{error}; restore it, or prepare in another --workdir; a test set of your own is a folder elsewhere, "
            "named by --evaluate.folder or --probe.folder"
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
    """Writes what `arrange` makes of the documents of each source that are in no finished shard yet.

    Workers of a pipeline give it any run of documents of a source, so there it must go by single documents, and is
    pickled; with `chunk`, it gives lines, which they cut every so many tokens. `cure` is what to do about a corpus that
    changes meanwhile.

    Raises:
        MachineError: it is to be done by Beam, which is missing or fails.
        DataError: the corpus changed while it was read.
    """
    before = corpus.fingerprint()

    def finish() -> None:
        check_unchanged(corpus, before, cure)
        writer.finish()

    if settings.runner is Runner.BEAM:
        from dense_jax.data.preparation.by_beam import fill_by_beam  # imported here: an extra

        sources = [(source.name, Documents(source, {})) for source in corpus.sources]
        fill_by_beam(writer, sources, arrange, settings, chunk, finish)
        return
    with bar("tokenise", writer.notes["usable"], "documents", initial=writer.documents) as shown:
        for source in corpus.sources:
            done = writer.begin(source.name)
            for group in arrange(islice(Documents(source, {}), done, None)):
                writer.add(group)
                shown.update(group.documents)
    finish()


def check_unchanged(corpus: CheckedCorpus, before: dict[str, Any], cure: str = AGAIN) -> None:
    """
    Raises:
        DataError: the corpus, read since it had the fingerprint `before`, has another one now; `cure` is what to do.
    """
    if changes := "\n  ".join(differences(before, corpus.fingerprint())):
        raise DataError(
            f"{corpus.name} changed while it was read:\n  {changes}\n"
            f"wait until nothing writes to it any more, then {cure}"
        )


def without_duplicates(corpus: CheckedCorpus, root: Path, notes: dict[str, Any]) -> CheckedCorpus:
    """`corpus` as it is prepared: without the near-duplicates that `notes` counts, if they were looked for.

    Raises:
        StorageError: their list is missing or damaged.
    """
    count = notes.get("near_duplicates", 0)
    return corpus.without(read_duplicates(root / NAME, count)) if count else corpus


@dataclass(frozen=True)
class Documents:
    """The usable rows of a corpus or of one source as they are trained on; every iteration reads them anew."""

    corpus: Corpus
    queries: held_out.Queries

    def __iter__(self) -> Iterator[Document]:
        documents = (row for row in self.corpus if isinstance(row, Document))
        return held_out.without_queries(documents, self.queries)


def _settings(config: Config) -> dict[str, Any]:
    """What the result depends on; content in the place of paths, so that a moved workdir stays valid."""
    path, chosen = config.tokenizer.path, config.corpus
    trained = {"vocab_size": config.tokenizer.vocab_size, "lowercase": config.tokenizer.lowercase}
    rows = {"max_characters": chosen.max_characters, "held_out": chosen.held_out, "limit": chosen.limit}
    rows |= {"near_duplicates": chosen.near_duplicates} if chosen.near_duplicates else {}
    return {
        "corpus": {"source": open_corpus(chosen).fingerprint(), **rows},  # whether queries are asked for or not
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


def scan(corpus: CheckedCorpus, rejects: Path) -> dict[str, int]:
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
    fix = f"correct them, or skip them by --corpus.max_rejects={min(1.0, found.rejected / rows + 0.005):.2f}"
    return "\n".join(
        [
            f"{found.rejected:,} of {rows:,} rows cannot be used (corpus.max_rejects={allowed}):",
            *(f"  {count:,} x {kind or 'other'}" for kind, count in found.reasons.most_common()),
            "for example",
            *(f"  {row.where}: {row.reason}" for row in found.first),
            f"all are in {file}; {fix if found.documents else 'no document is left'}",
        ]
    )


def _alike(config: Config, documents: Documents, count: int, root: Path) -> Edges:
    """Pairs of near-duplicates among `documents`."""
    similarity = config.corpus.near_duplicates
    if config.prepare.runner is Runner.BEAM:
        from dense_jax.data.preparation.by_beam import alike_by_beam  # imported here: an extra

        return alike_by_beam(documents, similarity, config.prepare, root, _settings(config)["corpus"])
    shown = progress(documents, "compare documents", count, "documents")
    return alike((document.text for document in shown), similarity)


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
    queries = held_out.choose_queries(Documents(corpus, {}), count)
    held_out.write_test_set(test, Documents(corpus, queries), queries)
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
