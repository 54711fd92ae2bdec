"""The embeddings and indexes of a workdir, in folders that texts, parameters and layout name."""

import sys
from pathlib import Path

from dense_jax.config import EmbedConfig, IndexConfig
from dense_jax.data.preparation.collection import Collection
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import short_digest
from dense_jax.mesh import own_mesh
from dense_jax.multihost import is_process_0, on_process_0
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.index import Index, build, is_finished, load
from dense_jax.retrieval.vectors import Vectors
from dense_jax.train.restore import Trained


def embeddings(
    workdir: Path, config: EmbedConfig, tokenizer: Tokenizer, collection: Collection, trained: Trained
) -> Vectors:
    """The vectors of `collection`, made now as far as they are missing.

    Prints the collection, its number of documents and the checkpoint on standard error.
    """
    if is_process_0():
        print(f"{collection.described}; {trained.described}", file=sys.stderr)
    content = collection.store.content
    return embed(
        collection.store,
        trained.towers.passage,
        tokenizer,
        own_mesh(),
        _folder(workdir / "embeddings", collection.name, content, trained),
        batch=config.batch,
        shard_size=config.shard_size,
        made_by={"checkpoint": trained.passage_fingerprint, "collection": content},
    )


def index(workdir: Path, config: IndexConfig, vectors: Vectors, *, again: bool) -> Index:
    """The index over `vectors`, built now if it is missing, damaged or of other vectors, or if `again`."""
    folder = workdir / "index" / vectors.folder.name
    if not again and on_process_0(lambda: is_finished(folder)):
        try:
            return load(folder, vectors, own_mesh())
        except (ConfigError, StorageError) as error:
            vectors.verify()  # if it is they that are damaged, no index can be built
            if is_process_0():
                print(f"warning: {error}\nthe index in {folder} is built again", file=sys.stderr)
    return build(vectors, config, folder, own_mesh())


def _folder(folder: Path, name: str, content: str, trained: Trained) -> Path:
    """One folder for the same texts, parameters and layout, under the name that the texts had first."""
    tower = trained.towers.passage
    key = [content, trained.passage_fingerprint, tower.length, tower.layout.value, tower.prompt, tower.pools_prompt]
    end = f"-{trained.passage_step:08d}-{short_digest(key)}"
    return folder / on_process_0(lambda: min((path.name for path in folder.glob(f"*{end}")), default=name + end))
