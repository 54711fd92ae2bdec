"""Raw text -> a workdir's tokenizer, passages, test set and list of rejected rows; a collection -> a store.

The source is read several times, which is cheap compared with tokenising it and keeps memory small. Everything is
resumable: the same call continues an interrupted one, and does nothing if all is done.
"""

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dense_jax.artifact import check_settings, claim, is_finished, read_claim
from dense_jax.config import Config, PassagesConfig, Runner, Unit
from dense_jax.config.tree import to_dict
from dense_jax.data import held_out
from dense_jax.data.dedup import DUPLICATES
from dense_jax.data.preparation.common import (
    AGAIN,
    REJECTS,
    UsableDocuments,
    check_test_set,
    check_unchanged,
    fill,
    prepare_text,
    rows_left_out,
    scan,
    without_duplicates,
)
from dense_jax.data.preparation.entries import entries, lines_of_text, salient_entries, split_documents, whole_documents
from dense_jax.data.preparation.queries import DOCUMENT_LENGTH, prepare_queries
from dense_jax.data.preparation.running_text import ChunkStore
from dense_jax.data.salient.chosen import make_tagger, spans_settings
from dense_jax.data.salient.taggers import SpanTagger
from dense_jax.data.salient.tokens import tagged
from dense_jax.data.sources.corpus import CheckedCorpus, open_corpus
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.stores.shards import Group
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.io import json_digest, short_digest
from dense_jax.locks import alone, lock_of
from dense_jax.types import Document


def prepare(config: Config, workdir: Path) -> dict[str, Any]:
    """Fill `workdir`, or `passages.workdir`, with tokenizer, test set, rejects.jsonl and passages; return counts.

    Configs that differ in their passages only can share a workdir: each kind and length has a folder of its own.

    Raises:
        ConfigError: the workdir was prepared with other settings or from other text; the error lists the differences.
        DataError: a source or too many of its rows cannot be used, or it changed while it was read.
        StorageError: the test set changed after it was held out.
    """
    root = Path(config.passages.workdir or workdir)
    asked = config.passages.unit is Unit.QUERIES
    corpus = open_corpus(config.corpus, with_queries=asked)
    if asked and not config.corpus.queries:
        for source in corpus.sources:
            source.queries()  # refuses a source that has none, before its documents are read
    about = prepare_text(config, corpus, root)
    check_test_set(root)
    if asked:
        return prepare_queries(config, corpus, root, about)
    corpus = without_duplicates(corpus, root, about["notes"])
    passages, spans = replace(config.passages, workdir=""), config.spans.sources
    folder = passages_folder(root, passages, spans)
    of_passages = replace(passages, shard_size=PassagesConfig.shard_size)  # which changes no passage
    settings = about["settings"] | {"passages": to_dict(of_passages)}
    settings |= {"spans": spans_settings(config.spans)} if spans else {}
    check_settings(folder, settings)
    if not is_finished(folder):
        tokenizer = Tokenizer.load(root / "tokenizer")
        arrange = _arrangement(config, corpus, root, tokenizer)
        if not read_claim(folder):
            claim(folder, settings, about["notes"])
        check = partial(_check_yield, folder, config, or_copies=_or_all_are_copies(root, about["notes"]))
        writer = StoreWriter(folder, passages.shard_size, tokenizer.size, salient=bool(spans), check=check)
        fill(writer, corpus, arrange, config.prepare, chunk=_chunk(config))
    return prepared_counts(open_passages(root, passages, spans))


def _check_yield(folder: Path, config: Config, manifest: dict[str, Any], *, or_copies: str) -> None:
    """Remove a store that cannot be trained on, before it counts as finished.

    Raises:
        DataError: a source gave no passage, or no passage has a salient span.
    """
    spans = config.spans.sources
    lacking = [part["name"] for part in manifest["parts"] if not part["count"]]
    problems = [f"{name}: {_lack(config.passages)}{or_copies}" for name in lacking]
    if not problems and spans and not manifest["spans"]["count"]:
        found = f"no salient span in {manifest['count']:,} passages"
        problems = [f"spans.{', spans.'.join(spans)}: {found}; use other sources"]
    if problems:
        shutil.rmtree(folder)
        raise DataError("\n".join(problems))


@dataclass(frozen=True)
class _Arrangement:
    """Passages of the usable documents without the held-out sentences."""

    queries: held_out.Queries
    tagger: SpanTagger | None  # of salient spans, if wanted
    tokenizer: Tokenizer
    passages: PassagesConfig
    by_line: bool  # workers will cut chunks of the lines

    def __call__(self, documents: Iterable[Document]) -> Iterator[Group]:
        if self.tagger is None:
            arrange = lines_of_text if self.by_line else entries
            return arrange(held_out.without_queries(documents, self.queries), self.tokenizer, self.passages)
        return salient_entries(tagged(documents, self.tagger, self.queries), self.tokenizer, self.passages)


def _arrangement(config: Config, corpus: CheckedCorpus, root: Path, tokenizer: Tokenizer) -> _Arrangement:
    queries = held_out.read_queries(root / "test") if config.corpus.held_out else {}
    tagger = make_tagger(config.spans, UsableDocuments(corpus, {})) if config.spans.sources else None
    return _Arrangement(queries, tagger, tokenizer, config.passages, by_line=_chunk(config) > 0)


def _chunk(config: Config) -> int:
    """Tokens of the chunks that workers cut; 0: passages are made of one document at a time."""
    chunks = config.passages.unit is Unit.CHUNKS and config.prepare.runner is Runner.BEAM
    return config.passages.length if chunks else 0


def open_passages(root: Path, config: PassagesConfig, spans: Sequence[str] = ()) -> PassageStore:
    """The prepared passages; `spans` are the sources of their salient spans.

    Raises:
        StorageError: the folder is unfinished, or a file is missing or damaged.
    """
    folder = passages_folder(root, config, spans)
    return ChunkStore(folder) if config.unit is Unit.CHUNKS else PassageStore(folder)


def passages_folder(root: Path, config: PassagesConfig, spans: Sequence[str] = ()) -> Path:
    """The folder of such passages: passages-288, or passages-288-salient-titles with spans of titles."""
    untitled = "" if config.titled or config.unit is Unit.SPANS else "-untitled"
    short = f"-{100 * config.short_rate:g}-percent-short" if config.short_rate else ""
    salient = f"-salient-{'-'.join(spans)}" if spans else ""
    return root / f"{config.unit.value}-{config.length}{untitled}{short}{salient}"


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
            cut, cure = partial(arrange, tokenizer=tokenizer, length=length), f"remove {folder} and {AGAIN}"
            fill(writer, corpus, cut, config.prepare, cure=cure)
    check_settings(folder, settings)
    return PassageStore(folder)


def _collection_settings(corpus: CheckedCorpus, tokenizer: Tokenizer, split: int) -> dict[str, Any]:
    """The settings that decide the content of a collection's store."""
    rows = corpus.sources[0].config
    settings: dict[str, Any] = {"source": corpus.fingerprint(), "tokenizer": tokenizer.fingerprint}
    settings |= {"max_characters": rows.max_characters, "limit": rows.limit}
    settings |= {"left_out": json_digest(sorted(left_out))} if (left_out := corpus.left_out) else {}
    # In stores without "texts", each piece of a sentence has the text of the whole sentence.
    return settings | ({"split": split, "texts": "split"} if split else {"length": DOCUMENT_LENGTH})


def open_collection(source: str, config: Config) -> CheckedCorpus:
    """All documents of `source`, read with the settings of the config's corpus."""
    return open_corpus(replace(config.corpus, source=source, also=(), held_out=0, limit=0))


def _lack(config: PassagesConfig) -> str:
    """The reason for a source without passages."""
    if config.unit is Unit.SPANS:
        return (
            f"no document makes two spans of {config.length} tokens; "
            "use a shorter --passages.length, or longer documents"
        )
    return "no document has a text, only titles; use another --corpus.text_field or corpus"


def _or_all_are_copies(root: Path, notes: dict[str, Any]) -> str:
    return f"; or all are near-duplicates: see {root / DUPLICATES}" if notes.get("near_duplicates") else ""


def prepared_counts(store: PassageStore) -> dict[str, Any]:
    """The counts that `prepare` reports."""
    found = store.manifest
    spans = found["settings"]["passages"]["unit"] == Unit.SPANS.value
    of_each = {f"of {part.name}": f"{len(part.rows):,} passages, {part.tokens:,} tokens" for part in store.parts()}
    return {
        "documents": found["documents"],
        "of fewer than two spans" if spans else "without text": found["left_out"],
        "rejected rows": found["notes"]["rejected"],
        **({"near-duplicates": copies} if (copies := found["notes"].get("near_duplicates")) is not None else {}),
        "held-out queries": found["settings"]["corpus"]["held_out"],
        "vocabulary": found["notes"]["vocabulary"],
        "passages": found["count"],
        "tokens": found["tokens"],
        **(of_each if len(of_each) > 1 else {}),
        **(_yield_of(found["spans"], found["count"]) if "spans" in found else {}),
        "folder": str(store.folder),
    }


def _yield_of(spans: dict[str, int], passages: int) -> dict[str, Any]:
    """Number and length of the salient spans."""
    return {
        "salient spans": spans["count"],
        "spans a passage": f"{spans['count'] / max(passages, 1):.2f}",
        "wordpieces a span": f"{spans['tokens'] / max(spans['count'], 1):.2f}",
        "passages with a span": f"{spans['passages'] / max(passages, 1):.1%}",
    }
