"""Retrieval metrics of parameters on a sample of a test collection, by the same functions as `evaluate`."""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from dense_jax.arrays import Params
from dense_jax.config.retrieval import HEADLINE, DropSameId
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.io import digest
from dense_jax.mesh import check_batch, process_mesh
from dense_jax.objective import Objective
from dense_jax.processes.multihost import all_or_none, gather_to_host, process_share
from dense_jax.retrieval.beir import TestSet, read_test_set
from dense_jax.retrieval.embed import encode_passages
from dense_jax.retrieval.encode import Program, Tokenizes, TowerOnMesh, encode_queries
from dense_jax.retrieval.evaluate import DEEPEST, evaluate, own_documents
from dense_jax.retrieval.exact import ExactSearch
from dense_jax.retrieval.vector_search import VectorSearch, best_per_passage, map_rows, search_all_parts
from dense_jax.types import PassageCollection, Tower


@dataclass(frozen=True)
class Sample:
    """Judged queries, and the documents that they are searched in."""

    test_set: TestSet
    store: PassageCollection  # its documents, tokenised
    tokenizer: Tokenizes
    fingerprint: str  # other samples' figures do not compare
    own: frozenset[str] | None = None  # queries that must not find their own document (see `own_documents`); None: all


def open_sample(
    folder: Path, split: str, store: PassageStore, tokenizer: Tokenizes, drop_same_id: DropSameId
) -> Sample:
    """The sample that `retrieval.sample` wrote to `folder`; `store` holds its documents."""
    test_set = read_test_set(folder, split)
    fingerprint = f"{store.fingerprint}-{digest(folder / 'qrels' / f'{split}.tsv')}"
    own = own_documents(drop_same_id, test_set.queries, store.ids(), store.texts)
    return Sample(test_set, store, tokenizer, fingerprint, own)


class Validator:
    """Parameters -> the headline metrics on a sample, with programs that are compiled once.

    Every process embeds its share of the documents on its own devices, and searches in it; the metrics of process 0
    are those of all.
    """

    def __init__(self, sample: Sample, objective: Objective, batch: int) -> None:
        """`batch` passages are encoded at a time.

        Raises:
            ConfigError: `batch` does not split over the devices.
        """
        self.sample, self.objective, self.mesh, self.batch = sample, objective, process_mesh(), batch
        check_batch(batch, self.mesh, "embed.batch")
        self._ids = sample.store.ids()
        self._programs: dict[str, Program] = {}

    @property
    def fingerprint(self) -> str:
        return self.sample.fingerprint

    def __call__(self, params: Params) -> dict[str, float]:
        """
        Raises:
            DataError: a vector is NaN or infinite.
        """
        sample, towers = self.sample, self.objective.towers(gather_to_host(params))
        with jax.set_mesh(self.mesh):
            passages, queries = self._placed("passage", towers.passage), self._placed("query", towers.query)
            search = best_per_passage(
                search_all_parts([all_or_none(lambda: self._embedded(passages))]), towers.passage.encoder.views
            )
            result = evaluate(
                lambda texts, k: search(encode_queries(texts, queries, sample.tokenizer), k),
                self._ids,
                sample.test_set,
                DEEPEST,
                sample.own,
            )
        figures = np.array([result.scores.mean[name] for name in HEADLINE])
        return dict(zip(HEADLINE, _of_first_process(figures).tolist(), strict=True))

    def _embedded(self, tower: TowerOnMesh) -> VectorSearch:
        """Search in this process's share."""
        rows, views = process_share(range(len(self._ids))), tower.tower.encoder.views
        vectors = encode_passages(self.sample.store, rows, tower, self.sample.tokenizer, self.batch)
        places = np.array(rows, np.int64)[:, None] * views + np.arange(views)
        return map_rows(ExactSearch(vectors, self.mesh).search, places.reshape(-1))

    def _placed(self, side: str, tower: Tower) -> TowerOnMesh:
        placed = TowerOnMesh(tower, self.mesh, self._programs.get(side))
        self._programs[side] = placed.program
        return placed


def _of_first_process(figures: np.ndarray) -> np.ndarray:
    return figures if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(figures)
