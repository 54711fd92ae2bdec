"""Collections: documents that are searched, and how they are described to people."""

from dataclasses import dataclass
from pathlib import Path

from dense_jax.config import Config
from dense_jax.data.preparation.common import check_same_text, without_duplicates
from dense_jax.data.preparation.near_duplicates import NAME
from dense_jax.data.sources.corpus import CheckedCorpus, open_corpus
from dense_jax.data.stores.passage_store import PassageStore

_LEFT_OUT = {"near_duplicates": ("near-duplicates", NAME), "rejected": ("rejected rows", "rejects.jsonl")}


@dataclass(frozen=True)
class Collection:
    """Passages that can be searched."""

    name: str  # of the folders that are made of it
    source: str  # the files or folders of its documents, for people
    store: PassageStore

    @property
    def described(self) -> str:
        """The source, the number of documents, and what is left out of it."""
        manifest = self.store.manifest
        notes, documents, empty = manifest["notes"], manifest["documents"], manifest["left_out"]
        counts = [f"{documents:,} documents"]
        counts += [f"{empty:,} of them without text and left out"] if empty else []
        for note, (rows, file) in _LEFT_OUT.items():
            if count := notes.get(note):
                counts.append(f"{count:,} {rows} left out (see {file})")
        split = f", as {len(self.store):,} passages" if len(self.store) != documents - empty else ""
        return f"{self.source}: {', '.join(counts)}{split}"


def whole_corpus(config: Config, root: Path) -> CheckedCorpus:
    """All sources of the corpus that `config` names, without the near-duplicates that `prepare` listed in `root`.

    Nothing is held out of it.

    Raises:
        ConfigError: near-duplicates are to be left out, and `root` was not prepared from this corpus.
    """
    corpus = open_corpus(config.corpus)
    if not config.corpus.near_duplicates:
        return corpus
    notes = check_same_text(config, root)
    return without_duplicates(corpus, root, notes)
