"""The evaluation of a run on one test set: BM25, the parameters before training, a checkpoint, and both together."""

import functools
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.config.retrieval import FusionConfig
from dense_jax.data.preparation.collection import Collection
from dense_jax.data.preparation.scan import rows_left_out
from dense_jax.io import whole_file
from dense_jax.processes.locks import in_turn, lock_of
from dense_jax.processes.multihost import on_process_0
from dense_jax.retrieval import evaluate
from dense_jax.retrieval.beir import TestSet, read_test_set
from dense_jax.retrieval.evaluate import EvaluatedRetriever, own_documents
from dense_jax.retrieval.fusion import Fusion, at_depth, choose_weight, describe, fuse
from dense_jax.retrieval.results import claim_folder
from dense_jax.retrieval.sample import content_of_test_set
from dense_jax.retrieval.search import as_documents, by_document, dense_search, number_documents
from dense_jax.run_results import BM25, HYBRID, hybrid_file, row_names
from dense_jax.train.checkpoint import has_checkpoint
from dense_jax.train.restore import Trained
from dense_jax.train.same_run import NO_DATA, record
from dense_jax.types import Ranking
from dense_jax.workdir import Workdir


@dataclass(frozen=True)
class EvaluationTable:
    """The headline measures of each retriever on one test set."""

    figures: Mapping[str, Mapping[str, float]]  # row -> measure -> mean over the queries
    markdown: str  # the figures as a Markdown table
    notes: Sequence[str]  # what must be known before the figures are compared
    step: int  # of the evaluated checkpoint
    folder: Path  # all measures, and the rankings as TREC runs

    @property
    def text(self) -> str:
        """The table and its notes."""
        return "\n".join([self.markdown, *self.notes])

    def __str__(self) -> str:
        return f"{self.text}\nstep {self.step:,}; all measures and the rankings are in {self.folder}"

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markdown import Markdown

        return Group(
            Markdown(self._repr_markdown_()),
            f"step {self.step:,}; all measures and the rankings are in",
            str(self.folder),
        )

    def _repr_markdown_(self) -> str:
        return "\n\n".join([self.markdown, *self.notes])

    def _repr_html_(self) -> str:
        measures = next(iter(self.figures.values()))
        header = _html_row("th", ["", *measures])
        rows = [_html_row("td", [name, *(f"{x:.3f}" for x in of.values())]) for name, of in self.figures.items()]
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table>{header}{''.join(rows)}</table>{notes}"


def evaluated(work: Workdir, chosen: Trained) -> EvaluationTable:
    """The table of the checkpoint `chosen`, written to the results of `work`. All processes call it."""
    settings, folder = work.config.evaluate, work.test_folder
    evaluate.check_depth(settings.depth)
    test_set = read_test_set(folder, settings.split)
    searched = _SearchedDocuments(work, work.collection(chosen.towers.passage, str(folder)))
    judged = _JudgedQueries(searched, test_set)
    before = [work.narrowed(work.trained(0))] if settings.before and chosen.step else []
    rows = _evaluated_rows(judged, [*before, chosen])
    notes = dict.fromkeys(note for row in rows for note in row.result.notes(row.name))
    notes |= dict.fromkeys(f"{row.name}: {describe(row.fusion)}" for row in rows if row.fusion)
    if left_out := rows_left_out(searched.collection.store.folder):
        notes[f"{judged.name}: {left_out}"] = None
    results = {row.name: row.result for row in rows}
    figures = {name: {of: result.scores.mean[of] for of in evaluate.HEADLINE} for name, result in results.items()}
    table = functools.partial(EvaluationTable, figures, evaluate.table(results), list(notes), chosen.step)
    target = _written(work, test_set, rows, table)
    if not has_checkpoint(work.path / "checkpoints"):  # a model as it is: what `compare` reads of a run
        record(work.config, work.written, NO_DATA)
    return table(target)


class _SearchedDocuments:
    """The documents of one collection, which BM25 and checkpoints rank."""

    def __init__(self, work: Workdir, collection: Collection) -> None:
        self.work, self.collection = work, collection
        self.passages = collection.store.ids()
        self.bm25 = work.bm25(collection) if work.config.evaluate.bm25 else None
        self.ids = self.bm25.ids if self.bm25 else list(dict.fromkeys(self.passages))
        self.numbers = number_documents(self.passages, self.ids)
        self.fusion = at_depth(work.config.fusion, work.config.evaluate.depth)
        self.depth = max(self.fusion.depth, work.config.evaluate.depth + 1)  # one more, for the query's own document


class _JudgedQueries:
    """The queries of one test set: rankings of the documents for them, and their figures."""

    def __init__(self, searched: _SearchedDocuments, test_set: TestSet) -> None:
        self.searched, self.test_set = searched, test_set
        self.name, self.texts = f"{test_set.name}/{test_set.split}", list(test_set.queries.values())
        drop, texts = searched.work.config.evaluate.drop_same_id, searched.collection.store.texts
        self._own = own_documents(drop, test_set.queries, searched.passages, texts)

    @functools.cached_property
    def lexical(self) -> Ranking:
        """The documents by BM25."""
        assert self.searched.bm25 is not None
        return self.searched.bm25.search(self.texts, self.searched.depth)

    def dense(self, trained: Trained) -> Ranking:
        """The documents by a checkpoint; all processes call it."""
        at, work = self.searched, self.searched.work
        find = dense_search(work.index(at.collection, trained), trained.towers.query, work.tokenizer)
        k = min(at.depth, len(at.ids))
        return as_documents(by_document(find, self.texts, at.passages.__getitem__, k, len(at.passages)), at.numbers)

    def hybrid(self, dense: Ranking, fusion: FusionConfig) -> Ranking:
        """The documents by BM25 and by a checkpoint together."""
        return fuse(self.lexical, dense, fusion, self.searched.depth)

    def score(self, ranking: Ranking) -> evaluate.Evaluation:
        """The figures of a ranking."""
        depth = self.searched.work.config.evaluate.depth
        return evaluate.score_ranking(ranking, self.searched.ids, self.test_set, depth, self._own)


def _evaluated_rows(judged: _JudgedQueries, checkpoints: Sequence[Trained]) -> list[EvaluatedRetriever]:
    """The rows of BM25, of each checkpoint, and of BM25 with the last checkpoint."""
    work, has_bm25 = judged.searched.work, judged.searched.bm25 is not None
    rows = [EvaluatedRetriever(BM25, BM25, None, judged.score(judged.lexical))] if has_bm25 else []
    for trained in checkpoints:
        dense = judged.dense(trained)
        name, file = row_names(work.path, work.config, trained.step)
        rows.append(EvaluatedRetriever(name, file, trained.step, judged.score(dense)))
        if has_bm25 and trained is checkpoints[-1]:
            fusion = _fusion(judged.searched, trained)
            result = judged.score(judged.hybrid(dense, fusion.config))
            rows.append(EvaluatedRetriever(HYBRID, hybrid_file(file), trained.step, result, fusion))
    return rows


def _fusion(searched: _SearchedDocuments, trained: Trained) -> Fusion:
    """The settings of the fusion, with the weight chosen on the queries of `evaluate.dev_split` if there is one."""
    split = searched.work.config.evaluate.dev_split
    if not split:
        return Fusion(searched.fusion)
    dev = _JudgedQueries(searched, read_test_set(searched.work.test_folder, split))
    dense = dev.dense(trained)
    measure = evaluate.HEADLINE[0]
    best = choose_weight(searched.fusion, lambda fusion: dev.score(dev.hybrid(dense, fusion)).scores.mean[measure])
    return Fusion(best, chosen_on=dev.name)


def _written(
    work: Workdir,
    test_set: TestSet,
    rows: Sequence[EvaluatedRetriever],
    table: functools.partial[EvaluationTable],
) -> Path:
    """The folder of the results, which the first process writes."""
    settings, folder = work.config.evaluate, work.test_folder
    content, name = content_of_test_set(folder, settings.split, work.asked), f"{test_set.name}-{test_set.split}"

    def write() -> str:
        results = work.written / "results"
        with in_turn(lock_of(results / name)):
            target = claim_folder(results, name, settings.folder, content)
            for row in rows:
                evaluate.write(target, row)
            with whole_file(target / "table.md") as partial:
                partial.write_text(table(target).text + "\n", encoding="utf-8")
        return str(target)

    return Path(on_process_0(write))


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
