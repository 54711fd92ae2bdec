"""Raw text -> a workdir's tokenizer, passages, test set and list of rejected rows.

The source is read several times, which is cheap compared with tokenising it and keeps memory small. Everything is
resumable: the same call continues an interrupted one, and does nothing if all is done.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dense_jax.artifact import check_settings, claim, is_finished, read_claim
from dense_jax.config import Config, PassagesConfig, Runner, SpansConfig, Unit
from dense_jax.config.tree import differences, to_dict
from dense_jax.data import held_out
from dense_jax.data.dedup import DUPLICATES
from dense_jax.data.preparation.entries import entries, lines_of_text, salient_entries
from dense_jax.data.preparation.fill import UsableDocuments, fill_store
from dense_jax.data.preparation.queries import prepare_queries
from dense_jax.data.preparation.running_text import ChunkStore
from dense_jax.data.preparation.text import check_test_set, prepare_text, without_duplicates
from dense_jax.data.salient.chosen import make_tagger, spans_settings
from dense_jax.data.salient.taggers import SpanTagger
from dense_jax.data.salient.tokens import tagged
from dense_jax.data.sources.corpus import CheckedCorpus, open_corpus
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.stores.shards import Group
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, DataError
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
        arrange = _passage_arrangement(config, corpus, root, tokenizer)
        if not read_claim(folder):
            claim(folder, settings, about["notes"])
        check = partial(_check_yield, folder, config, or_copies=_or_all_are_copies(root, about["notes"]))
        writer = StoreWriter(folder, passages.shard_size, tokenizer.size, salient=bool(spans), check=check)
        fill_store(writer, corpus, arrange, config.prepare, chunk=_tokens_of_a_cut(config))
    return _summary(open_passages(root, passages, spans))


def check_spans(store: PassageStore, config: SpansConfig) -> None:
    """
    Raises:
        ConfigError: the passages of `store` have other salient spans than those of `config`.
        DataError: a file of spans that the config names is not there.
    """
    if changes := list(differences(store.manifest["settings"]["spans"], spans_settings(config), "spans.")):
        raise ConfigError(
            f"{store.folder} was prepared with other salient spans:\n  " + "\n  ".join(changes) + "\n"
            "use these settings again, or run `dense-jax prepare` in another --workdir or passages.workdir"
        )


def _check_yield(folder: Path, config: Config, manifest: dict[str, Any], *, or_copies: str) -> None:
    """Refuse and remove a store that cannot be trained on, before it counts as finished."""
    spans = config.spans.sources
    lacking = [part["name"] for part in manifest["parts"] if not part["count"]]
    problems = [f"{name}: {_why_empty(config.passages)}{or_copies}" for name in lacking]
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


def _passage_arrangement(config: Config, corpus: CheckedCorpus, root: Path, tokenizer: Tokenizer) -> _Arrangement:
    queries = held_out.read_held_out(root / "test") if config.corpus.held_out else {}
    tagger = make_tagger(config.spans, UsableDocuments(corpus, {})) if config.spans.sources else None
    return _Arrangement(queries, tagger, tokenizer, config.passages, by_line=_tokens_of_a_cut(config) > 0)


def _tokens_of_a_cut(config: Config) -> int:
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


def _why_empty(config: PassagesConfig) -> str:
    """The reason for a source without passages."""
    if config.unit is Unit.SPANS:
        return (
            f"no document makes two spans of {config.length} tokens; "
            "use a shorter --passages.length, or longer documents"
        )
    return "no document has a text, only titles; use another --corpus.text_field or corpus"


def _or_all_are_copies(root: Path, notes: dict[str, Any]) -> str:
    return f"; or all are near-duplicates: see {root / DUPLICATES}" if notes.get("near_duplicates") else ""


def _summary(store: PassageStore) -> dict[str, Any]:
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
