"""The embeddings and indexes of a workdir, in folders that texts, parameters and layout name.

Finished ones are used from any of several places, such as a read-only workdir; new ones are written to the last place.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from dense_jax.config import EmbedConfig, IndexConfig
from dense_jax.data.preparation.collection import Collection
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import is_written, short_digest
from dense_jax.mesh import own_mesh
from dense_jax.multihost import is_process_0, on_process_0
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.index import Index, build_index, is_finished, open_index
from dense_jax.retrieval.vectors import MANIFEST, Vectors
from dense_jax.train.restore import Trained


def embeddings(
    places: Sequence[Path], config: EmbedConfig, tokenizer: Tokenizer, collection: Collection, trained: Trained
) -> Vectors:
    """The vectors of `collection`, made now as far as they are missing.

    Prints the collection, its number of documents and the checkpoint on standard error.
    """
    if is_process_0():
        print(f"{collection.described}; {trained.described}", file=sys.stderr)
    content = collection.store.content
    folders = [_folder(place / "embeddings", collection.name, content, trained) for place in places]
    return embed(
        collection.store,
        trained.towers.passage,
        tokenizer,
        own_mesh(),
        next(filter(_holds_vectors, folders), folders[-1]),
        batch=config.batch,
        shard_size=config.shard_size,
        made_by={"checkpoint": trained.passage_fingerprint, "collection": content},
    )


def index(places: Sequence[Path], config: IndexConfig, vectors: Vectors, *, again: bool) -> Index:
    """The index over `vectors`, built now if it is missing, damaged or of other vectors, or if `again`."""
    folders = [place / "index" / vectors.folder.name for place in places]
    folder = folders[-1] if again else next(filter(_holds_index, folders), folders[-1])
    if not again and _holds_index(folder):
        try:
            return open_index(folder, vectors, own_mesh())
        except (ConfigError, StorageError) as error:
            vectors.verify()  # if it is they that are damaged, no index can be built
            if is_process_0():
                print(f"warning: {error}\nthe index in {folder} is built again", file=sys.stderr)
    return build_index(vectors, config, folders[-1], own_mesh())


def _holds_vectors(folder: Path) -> bool:
    return on_process_0(lambda: is_written(folder / MANIFEST))


def _holds_index(folder: Path) -> bool:
    return on_process_0(lambda: is_finished(folder))


def _folder(folder: Path, name: str, content: str, trained: Trained) -> Path:
    """One folder for the same texts, parameters and layout, under the name that the texts had first."""
    tower = trained.towers.passage
    key = [content, trained.passage_fingerprint, tower.length, tower.layout.value, tower.prompt, tower.pools_prompt]
    end = f"-{trained.passage_step:08d}-{short_digest(key)}"
    return folder / on_process_0(lambda: min((path.name for path in folder.glob(f"*{end}")), default=name + end))
