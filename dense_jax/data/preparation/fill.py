"""The documents of a corpus, source by source, into the shards of a store: here, or by the workers of Beam."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dense_jax.config import PrepareConfig, Runner
from dense_jax.config.tree import differences
from dense_jax.data import held_out
from dense_jax.data.sources.corpus import CheckedCorpus
from dense_jax.data.stores.passage_store import StoreWriter
from dense_jax.data.stores.shards import Group
from dense_jax.errors import DataError
from dense_jax.terminal.progress import progress_bar
from dense_jax.types import Corpus, Document

AGAIN = "give the same command again"


def fill_store(
    writer: StoreWriter,
    corpus: CheckedCorpus,
    arrange: Callable[[Iterable[Document]], Iterator[Group]],
    settings: PrepareConfig,
    *,
    chunk: int = 0,
    advice: str = "prepare it in another --workdir",
) -> None:
    """Write the passages that `arrange` makes of the documents not yet in a finished shard, source by source.

    The workers of a Beam pipeline call `arrange`, which is pickled, with any run of documents of a source, so it must
    treat each document alone. With `chunk` it returns lines, which the workers cut into chunks of that many tokens.
    `advice` is the fix in the error if the corpus changes meanwhile.

    Raises:
        MachineError: Beam is chosen, and is missing or fails.
        DataError: the corpus changed while it was read.
    """
    before = corpus.fingerprint()

    def finish() -> None:
        check_unchanged(corpus, before, advice)
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


def check_unchanged(corpus: CheckedCorpus, before: dict[str, Any], advice: str = AGAIN) -> None:
    """
    Raises:
        DataError: the fingerprint of the corpus is no longer `before`; `advice` is the fix.
    """
    if changes := "\n  ".join(differences(before, corpus.fingerprint())):
        raise DataError(
            f"{corpus.name} changed while it was read:\n  {changes}\n"
            f"wait until nothing writes to it any more, then {advice}"
        )


@dataclass(frozen=True)
class UsableDocuments:
    """The usable rows of a corpus or source; each iteration reads the source again."""

    corpus: Corpus
    queries: held_out.Queries

    def __iter__(self) -> Iterator[Document]:
        documents = (row for row in self.corpus if isinstance(row, Document))
        return held_out.without_queries(documents, self.queries)
