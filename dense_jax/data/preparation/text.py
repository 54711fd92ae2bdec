"""The parts that all kinds of prepared data share, made once for each corpus: rejected rows, test set and tokenizer."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash
from typing_extensions import TypedDict

from dense_jax.artifact import content_of, read_claim, refuse_changes
from dense_jax.config import Config, Runner, TokenizerConfig
from dense_jax.data import held_out
from dense_jax.data.dedup import (
    DUPLICATES,
    Pairs,
    first_of_each_group,
    list_duplicates,
    read_duplicates,
    similar_pairs,
)
from dense_jax.data.preparation.fill import UsableDocuments, check_unchanged
from dense_jax.data.preparation.scan import REJECTS, scan
from dense_jax.data.sources.corpus import CheckedCorpus, open_corpus
from dense_jax.data.stores.passage_store import TextNotes
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import folder_fingerprint, import_folder
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import Count, Settings, digests, is_written, read_json, verify, write_json
from dense_jax.terminal.progress import progress
from dense_jax.types import Document

TEXT = "text.json"  # written last of the shared parts
_SAMPLED = 100_000_000  # characters of the corpus that a vocabulary is trained on


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
    settings = _with_same_tokenizer(_text_settings(config), config.tokenizer, path)
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


def without_duplicates(corpus: CheckedCorpus, root: Path, notes: dict[str, Any]) -> CheckedCorpus:
    """`corpus` without the near-duplicates that `notes` counts, if any.

    Raises:
        StorageError: their list is missing or damaged.
    """
    count = notes.get("near_duplicates", 0)
    return corpus.without(read_duplicates(root / DUPLICATES, count)) if count else corpus


def corpus_fingerprint(config: Config) -> dict[str, Any]:
    """The fingerprint of the content of the config's corpus, independent of its path and of its queries."""
    return content_of(open_corpus(config.corpus).fingerprint())


def prepared_corpus(root: Path) -> dict[str, Any]:
    """The fingerprint of the corpus that was prepared in `root`; empty if `root` has none."""
    text = root / TEXT
    return content_of(read_json(text, Text)["settings"]["corpus"]["source"]) if is_written(text) else {}


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


def _text_settings(config: Config) -> dict[str, Any]:
    """The settings that the result depends on; content instead of paths, so that a moved workdir stays valid."""
    path, chosen = config.tokenizer.path, config.corpus
    trained = {"vocab_size": config.tokenizer.vocab_size, "lowercase": config.tokenizer.lowercase}
    rows = {"max_characters": chosen.max_characters, "held_out": chosen.held_out, "limit": chosen.limit}
    rows |= {"near_duplicates": chosen.near_duplicates} if chosen.near_duplicates else {}
    return {
        "corpus": {"source": open_corpus(chosen).fingerprint(), **rows},  # with or without queries
        "tokenizer": {"imported": folder_fingerprint(Path(path))} if path else trained,
    }


def _similar_pairs(config: Config, documents: UsableDocuments, count: int, root: Path) -> Pairs:
    """Pairs of near-duplicates among `documents`."""
    similarity = config.corpus.near_duplicates
    if config.prepare.runner is Runner.BEAM:
        from dense_jax.data.beam import similar_pairs_by_beam  # imported here: an extra

        return similar_pairs_by_beam(documents, similarity, config.prepare, root, _text_settings(config)["corpus"])
    shown = progress(documents, "compare documents", count, "documents")
    return similar_pairs((document.text for document in shown), similarity)


def _choose_queries(corpus: CheckedCorpus, count: int, test: Path) -> held_out.Queries:
    """`count` queries for a test set in `test`; none if `count` is 0."""
    if not count:
        if test.exists():
            raise ConfigError(f"{test} is left from another preparation and would be evaluated on; remove it")
        return {}
    return held_out.choose_queries(UsableDocuments(corpus, {}), count)


def _make_tokenizer(config: TokenizerConfig, documents: Iterable[Document]) -> Tokenizer:
    """The tokenizer that the config names or describes."""
    if config.path:
        return import_folder(Path(config.path))
    texts = _sampled_texts(progress(documents, "sample for the vocabulary", None, "documents"), _SAMPLED)
    return Tokenizer.train(texts, config.vocab_size, config.lowercase)


def _sampled_texts(documents: Iterable[Document], characters: int) -> list[str]:
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
