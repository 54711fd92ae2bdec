"""Collections: documents to be searched, with a description for people."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.config import Config, require
from dense_jax.data.dedup import DUPLICATES
from dense_jax.data.preparation.common import Text, without_duplicates
from dense_jax.data.sources.corpus import CheckedCorpus, open_corpus
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.io import is_written, read_json

_LEFT_OUT = {"near_duplicates": ("near-duplicates", DUPLICATES), "rejected": ("rejected rows", "rejects.jsonl")}


@dataclass(frozen=True)
class Collection:
    """Passages that can be searched."""

    name: str  # of the folders made from it
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


def whole_corpus(config: Config, root: Path) -> CheckedCorpus:
    """All sources of the corpus that `config` names, without the near-duplicates that `prepare` listed in `root`.

    Nothing is held out of it.

    Raises:
        ConfigError: `root` was prepared from another corpus, or lists near-duplicates of an older state of this one.
    """
    corpus, path = open_corpus(config.corpus), root / "text.json"
    if not is_written(path):
        duplicates = config.corpus.near_duplicates
        require(not duplicates, f"corpus.near_duplicates={duplicates}: run `dense-jax prepare` first, which finds them")
        return corpus
    prepared = read_json(path, Text)
    notes, before, now = prepared["notes"], prepared["settings"]["corpus"]["source"], corpus.fingerprint()
    if before == now or (before | {"name": ""} == now | {"name": ""} and len(corpus.sources) == 1):
        return without_duplicates(corpus, root, notes)
    theirs, ours = ", ".join(_names(before)), ", ".join(_names(now))
    fix = "name what is to be searched by --embed.collection, or prepare the corpus in another --workdir"
    require(theirs == ours, f"{root} was prepared from {theirs}, but corpus.source and corpus.also are {ours}; {fix}")
    require(
        not notes.get("near_duplicates"),
        f"{ours} changed since {root} was prepared, and {root / DUPLICATES} lists near-duplicates of its former texts; "
        f"{fix}",
    )
    return corpus


def _names(fingerprint: dict[str, Any]) -> list[str]:
    """The names of the sources in a corpus's fingerprint."""
    return [fingerprint["name"], *(also["name"] for also in fingerprint.get("also", {}).values())]
