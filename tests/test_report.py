"""The report page: what it says of a run, and that nothing in it runs or loads."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dense_jax.config import Config, Select
from dense_jax.errors import StorageError
from dense_jax.io import write_json
from dense_jax.report import findings, page
from dense_jax.report.charts import line_chart
from dense_jax.report.examples import examples
from dense_jax.report.html import render
from dense_jax.report.tables import ResultTable, RetrieverResult, result_tables
from dense_jax.retrieval import beir
from dense_jax.retrieval.results import claim_folder
from dense_jax.retrieval.runs import percent_encoded, write_trec_run
from dense_jax.train.metrics_files import read_metrics
from dense_jax.train.validation import History
from dense_jax.types import Document
from dense_jax.workdir import Workdir
from tests.toys import BagOfTokens, QuestionStore

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x.png" onerror=alert(2)>{{ 7 * 7 }}'
QUERIES = {"q1": "a river", "q2": HOSTILE, "q 3": "a bridge"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 2, "d3": 0}, "q 3": {"d 3%": 1}}
DOCUMENTS = [Document("d1", "river", "A river."), Document("d2", HOSTILE, HOSTILE), Document("d 3%", "", "A bridge.")]


class Tags(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def figures(*values):
    per_query = {q: {"nDCG@10": x, "MRR@10": x, "Recall@100": 1.0} for q, x in zip(QUERIES, values, strict=True)}
    mean = {measure: sum(of[measure] for of in per_query.values()) / 3 for measure in per_query["q1"]}
    return {"collection": "toys/test", "split": "test", "mean": mean, "per_query": per_query}


@pytest.fixture
def table(tmp_path):
    """Three retrievers; training gains the second query (of which BM25 finds nothing) and loses the third."""
    folder = tmp_path / "results" / "toys-test"
    for name, step, values, run in (
        ("after_training", 9, (1.0, 1.0, 0.0), {"q1": {"d1": 2.0}, "q2": {"d2": 3.0, "d1": 1.0}, "q 3": {"d1": 1.0}}),
        ("BM25", None, (1.0, 0.0, 1.0), {"q1": {"d1": 2.0}, "q2": {}, "q 3": {"d1": 1.0, "d 3%": 2.0}}),
        ("before_training", 0, (0.0, 0.0, 0.0), {"q1": {}, "q2": {}, "q 3": {}}),
    ):
        write_json(folder / f"{name}.json", {**figures(*values), "step": step})
        write_trec_run(folder / f"{name}.trec", percent_encoded(run), name)
    (found,) = result_tables(tmp_path)
    return found


@pytest.fixture
def illustrated(table):
    against = table.row("BM25")
    gained, lost = examples(table, against, beir.TestSet("toys", "test", QUERIES, QRELS, ()), DOCUMENTS)
    return page.Illustrated(table, "BM25", gained, lost)


def rendered(illustrated, **changes) -> str:
    chart = page.Chart("loss", HOSTILE, line_chart({"<script>": [(0.0, 1.0), (1.0, 0.5)], "b": [(0.0, float("nan"))]}))
    index = {"name": HOSTILE, "kind": "exact", "vectors": 3, "searched": "", "recall": None}
    return render(
        "run.html",
        {
            "name": HOSTILE,
            "facts": {"corpus": HOSTILE},
            "findings": [findings.Finding(HOSTILE, HOSTILE)],
            "measures": ("nDCG@10", "MRR@10", "Recall@100"),
            "tested": "nDCG@10",
            "results": [illustrated],
            "answers": [(HOSTILE, {"AnswerRecall@1": 0.5})],
            "charts": [chart],
            "indexes": [index],
            "settings": HOSTILE,
            **changes,
        },
    )


def test_rows_are_bm25_then_before_then_after_training_with_their_significance(table):
    assert [row.name for row in table.rows] == ["BM25", "before training", "after training"]
    assert table.last.p == {"BM25": 1.0, "before training": pytest.approx(0.5)}  # 1 and 1 and 0: 4 of 8 signs
    assert table.last.mean["nDCG@10"] == pytest.approx(2 / 3)


def test_a_ranking_fused_with_bm25_comes_last_under_its_name_and_the_checkpoint_stays_the_one_to_explain(table):
    for suffix in ("json", "trec"):
        shutil.copy(table.folder / f"after_training.{suffix}", table.folder / f"hybrid_after_training.{suffix}")
    (found,) = result_tables(table.folder.parent.parent)
    names = ["BM25", "before training", "after training", "BM25 + dense, after training"]
    assert ([row.name for row in found.rows], found.last.name) == (names, "after training")


def copied(table, name, step):
    """The figures after training as those of `step` under another name."""
    for suffix in ("json", "trec"):
        shutil.copy(table.folder / f"after_training.{suffix}", table.folder / f"{name}.{suffix}")
    path = table.folder / f"{name}.json"
    write_json(path, json.loads(path.read_text()) | {"step": step})


def test_rows_are_in_the_order_of_their_steps_and_not_of_their_names(table):
    for name, step in (("step_1000", 1_000), ("step_200", 200)):
        copied(table, name, step)
    for suffix in ("json", "trec"):
        (table.folder / f"after_training.{suffix}").unlink()
    (found,) = result_tables(table.folder.parent.parent)
    assert [row.name for row in found.rows] == ["BM25", "before training", "step 200", "step 1000"]
    assert found.last.name == "step 1000"


def test_a_hybrid_of_another_step_than_its_checkpoint_is_not_shown(table):
    copied(table, "hybrid_after_training", 5)
    (found,) = result_tables(table.folder.parent.parent)
    assert [row.name for row in found.rows] == ["BM25", "before training", "after training"]


def test_a_test_set_is_named_as_evaluate_names_it_and_the_held_out_one_in_plain_words(table):
    results = table.folder.parent
    held_out = results / "test-test"
    shutil.copytree(table.folder, held_out)
    claim_folder(results, "toys-test", "/data/toys", "1")
    other = claim_folder(results, "toys-test", "/other/toys", "2")
    shutil.copytree(table.folder, other, ignore=shutil.ignore_patterns("set.json"), dirs_exist_ok=True)
    claim_folder(results, "test-test", "", "3")
    names = [found.name for found in result_tables(results.parent)]
    assert names == ["the held-out test set", "toys/test", f"toys/test{other.name.removeprefix('toys-test')}"]


def test_figures_that_lack_a_measure_are_named(table):
    path = table.folder / "BM25.json"
    path.write_text(path.read_text().replace("MRR@10", "MRR"))
    with pytest.raises(StorageError, match=r"BM25\.json: damaged .*; run `dense-jax evaluate` \(or `answer`\) again"):
        result_tables(table.folder.parent.parent)


def test_examples_are_the_largest_gains_and_losses_with_the_hits_of_every_retriever(illustrated):
    (gained,), (lost,) = illustrated.gained, illustrated.lost
    assert gained.gain == 1.0 and lost.query == "a bridge"
    assert [found.retriever for found in gained.found] == ["BM25", "before training", "after training"]
    assert [(hit.id, hit.relevant) for hit in gained.found[2].hits] == [("d2", True), ("d1", False)]
    assert [found.first_relevant for found in gained.found] == [0, 0, 1]
    assert [hit.id for hit in lost.found[0].hits] == ["d 3%", "d1"]  # percent-encoded in the run


def test_markup_in_titles_queries_names_and_settings_is_shown_and_never_runs(illustrated):
    html = rendered(illustrated)
    tags = Tags(html)
    assert not tags.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "foreignObject"}
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert tags.text.count("<script>alert(1)</script>") >= 9
    assert "{{ 7 * 7 }}" in tags.text


def test_the_page_loads_nothing_and_forbids_what_would(illustrated):
    html = rendered(illustrated)
    links = [value for name, value in Tags(html).attributes if name in ("src", "href", "xlink:href", "style", "action")]
    assert not [value for value in links if "//" in (value or "")]
    assert "url(http" not in html and "@import" not in html
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in html


def test_the_same_run_gives_the_same_page(illustrated):
    assert rendered(illustrated) == rendered(illustrated)


def test_charts_are_drawn_in_the_colour_of_the_page_and_as_wide_as_their_place():
    svg = line_chart({"loss": [(0.0, 3.0), (1.0, 2.0)]})
    assert svg.startswith("<svg") and "currentColor" in svg and "#010203" not in svg
    assert "viewBox" in svg and 'width="' not in svg.partition(">")[0]


def test_a_cut_line_of_the_metrics_is_left_out(tmp_path):
    line = {"step": 1, "tokens": 2.0, "seconds": 3.0, "loss": 4.0, "note": "text"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 2, "tok')
    assert read_metrics(tmp_path) == [{"step": 1, "tokens": 2.0, "seconds": 3.0, "loss": 4.0}]
    assert read_metrics(tmp_path / "nowhere") == []


# --- Warnings


def of_training(*lines, step=9, steps=9, ended=True, visits=None):
    return " ".join(finding.text for finding in findings.of_training(lines, step, steps, ended, visits))


def test_a_run_that_shows_nothing_odd_has_no_warning():
    falling = [{"loss": 10.0 - i, "collapse/rank_me": 40.0, "collapse/mean_cosine": 0.1} for i in range(8)]
    assert of_training(*falling, visits=3.0) == ""


@pytest.mark.parametrize(
    ("lines", "settings", "warning"),
    [
        ([], {"step": 4, "ended": False}, "Training stands at step 4 of 9."),
        ([{"collapse/rank_me": 60.0}, {"collapse/rank_me": 2.0}], {}, "use only 2.0 directions"),
        ([{"collapse/mean_cosine": 0.99}], {}, "mean cosine of 0.99"),
        ([{"loss": 5.0}] * 8, {}, "The loss no longer falls: 5.000 in the third quarter of the steps, 5.000"),
        ([{"skipped_steps": 2.0}], {}, "2 steps were skipped"),
        ([], {"visits": 120.0}, "Each passage is visited 120 times"),
    ],
)
def test_what_a_run_shows_by_itself_is_a_warning(lines, settings, warning):
    assert warning in of_training(*lines, **settings)


class Run(Workdir):
    """A workdir of queries."""

    config = property(lambda self: self.asked)
    passages = property(lambda self: QuestionStore(3))
    prepared = property(lambda self: self.path)


def found_in(path, step, steps, history=None):
    """The findings of a run that stands at `step`."""
    work, lines = Run(path, Config(BagOfTokens(), steps=steps, batch=100)), [{"step": float(step)}]
    return " ".join(finding.text for finding in page._findings(work, lines, history, [], {"examples": "3"}, []))


def validated(*values, patience=0):
    results = tuple({"step": 10 * (i + 1), "nDCG@10": value} for i, value in enumerate(values))
    return History("sample", "nDCG@10", Select.NEWEST, patience, results)


def test_a_run_that_its_patience_ended_has_ended_and_does_not_continue(tmp_path):
    worse = validated(0.3, 0.2, 0.1, patience=2)
    assert "Training stands" not in found_in(tmp_path, 30, 90, worse)
    assert "Training stands at step 25 of 90." in found_in(tmp_path, 25, 90, worse)


def test_a_measure_that_still_rises_is_a_warning_at_the_end_of_training_only(tmp_path):
    rising = validated(0.1, 0.2, 0.3)
    assert "was still rising" in found_in(tmp_path, 30, 30, rising)
    assert "was still rising" not in found_in(tmp_path, 30, 90, rising)


def test_queries_are_no_small_corpus(tmp_path):
    assert "visited" not in found_in(tmp_path, 9, 9)


def test_damaged_training_data_are_no_missing_preparation(tmp_path):
    class Damaged(Run):
        is_prepared = True

        @property
        def passages(self):
            raise StorageError("queries.npy: damaged")

    config = Config(BagOfTokens(), steps=9, batch=100)
    assert page._counts(Workdir(tmp_path, config)) == {}
    with pytest.raises(StorageError, match="damaged"):
        page._counts(Damaged(tmp_path, config))


def test_less_found_than_before_training_or_than_bm25_is_a_warning_if_it_is_no_chance():
    def retriever(name, value, p=1.0):
        return RetrieverResult(name, Path(), {"nDCG@10": value}, {}, {"BM25": p, "before training": p})

    def warnings(after, p):
        rows = [retriever("BM25", 0.4), retriever("before training", 0.3), retriever("after training", after, p)]
        return [
            finding.text for finding in findings.of_results([ResultTable(Path("toys"), "toys", "test", tuple(rows))])
        ]

    assert warnings(0.5, 0.001) == [] == warnings(0.2, 0.3)
    assert warnings(0.35, 0.01) == ["On toys the model finds less than BM25: nDCG@10 0.350 against 0.400."]
    assert len(warnings(0.2, 0.01)) == 2


def test_rejected_rows_and_low_recall_of_an_index_are_warnings():
    (rejected,) = findings.of_data(3, "docs.jsonl:7 (no text)")
    assert "3 rows of the corpus" in rejected.text and "docs.jsonl:7 (no text)" in rejected.text
    (low,) = findings.of_index("corpus-9", 0.85)
    assert "85.0%" in low.text and "leaves_searched" in low.fix
    assert [*findings.of_index("corpus-9", None), *findings.of_index("corpus-9", 1.0), *findings.of_data(0, "")] == []
