"""The evaluation of a run on one test set: BM25, the parameters before training, and a checkpoint."""

import functools
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dense_jax.data.preparation.scan import rows_left_out
from dense_jax.io import whole_file
from dense_jax.locks import in_turn, lock_of
from dense_jax.multihost import is_process_0, on_process_0
from dense_jax.retrieval import evaluate, search
from dense_jax.retrieval.beir import TestSet, read_test_set
from dense_jax.retrieval.bm25 import BM25
from dense_jax.retrieval.evaluate import own_documents
from dense_jax.retrieval.results import claim_folder
from dense_jax.retrieval.sample import content_of_test_set
from dense_jax.run_results import row_names
from dense_jax.train.checkpoint import has_checkpoint
from dense_jax.train.restore import Trained
from dense_jax.train.same_run import NO_DATA, record
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
    before = [work.trained(0)] if settings.before and chosen.step else []
    rows = [_ranked_by_words(work, test_set)] if settings.bm25 and is_process_0() else []
    rows += [_ranked_by_meaning(work, test_set, trained) for trained in (*before, chosen)]
    notes = dict.fromkeys(note for row in rows for note in row.result.notes(row.name))
    if left_out := rows_left_out(work.collection(chosen.towers.passage, str(folder)).store.folder):
        notes[f"{test_set.name}/{test_set.split}: {left_out}"] = None
    results = {row.name: row.result for row in rows}
    figures = {name: {of: result.scores.mean[of] for of in evaluate.HEADLINE} for name, result in results.items()}
    table = functools.partial(EvaluationTable, figures, evaluate.table(results), list(notes), chosen.step)
    target = _written(work, test_set, rows, table)
    if not has_checkpoint(work.path / "checkpoints"):  # a model as it is: what `compare` reads of a run
        record(work.config, work.written, NO_DATA)
    return table(target)


def _written(
    work: Workdir,
    test_set: TestSet,
    rows: Sequence[evaluate.EvaluatedRetriever],
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
                evaluate.write(target, row.file, row.result, row.step)
            with whole_file(target / "table.md") as partial:
                partial.write_text(table(target).text + "\n", encoding="utf-8")
        return str(target)

    return Path(on_process_0(write))


def _ranked_by_words(work: Workdir, test_set: TestSet) -> evaluate.EvaluatedRetriever:
    settings, documents = work.config.evaluate, work.documents(str(work.test_folder))
    words = BM25(documents, len(documents), settings.bm25_k1, settings.bm25_b)
    own = own_documents(
        settings.drop_same_id, test_set.queries, words.ids, lambda rows: [documents[row] for row in rows]
    )
    result = evaluate.evaluate(words.search, words.ids, test_set, settings.depth, own)
    return evaluate.EvaluatedRetriever("BM25", "BM25", None, result)


def _ranked_by_meaning(work: Workdir, test_set: TestSet, trained: Trained) -> evaluate.EvaluatedRetriever:
    collection = work.collection(trained.towers.passage, str(work.test_folder))
    dense = search.dense_search(work.index(collection, trained), trained.towers.query, work.tokenizer)
    settings, ids = work.config.evaluate, collection.store.ids()
    own = own_documents(settings.drop_same_id, test_set.queries, ids, collection.store.texts)
    result = evaluate.evaluate(dense, ids, test_set, settings.depth, own)
    return evaluate.EvaluatedRetriever(*row_names(work.path, work.config, trained.step), trained.step, result)


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
