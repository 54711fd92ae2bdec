"""Finished runs side by side, from workdirs written by hand."""

import itertools
import json
import re
import struct
from base64 import b64decode

import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.compare import compare
from dense_jax.config import Select
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import read_json, write_json
from dense_jax.retrieval.significance import bootstrap_interval, randomisation_test
from dense_jax.train.validation import History


def figures(values):
    """nDCG@10 of queries q0, q1, ...; half of it as MRR@10, and everything found within 100."""
    return {f"q{i}": {"nDCG@10": x, "MRR@10": x / 2, "Recall@100": 1.0, "MAP@1": 0.0} for i, x in enumerate(values)}


def workdir(path, values, *, seed=0, method="ICT", steps=10, million=2.0, seconds=90.0, bm25=None, **settings):
    """A workdir as training and evaluation leave it; its evaluation set is toy/test."""
    objective = {"class": method, "temperature": 1.0}
    write_json(path / "config.json", {"objective": objective, "steps": steps, "seed": seed, **settings})
    if steps:
        half = {"step": 5, "tokens": 1.0, "seconds": 1.0}
        lines = [half, {"step": steps, "tokens": million * 1e6, "seconds": seconds}]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluated(path, values, "after_training" if steps else "before_training", steps)
    if bm25:
        evaluated(path, bm25, "BM25", None)
    return path


def evaluated(path, values, name="after_training", step=10, test_set="toy-test"):
    write_json(path / "results" / test_set / f"{name}.json", {"step": step, "per_query": figures(values)})


@pytest.fixture(autouse=True)
def without_charts(request, monkeypatch):
    """Charts take a second each: those that are not looked at are empty files."""
    if "charts" not in request.fixturenames:
        for name in ("draw_scores", "draw_forest"):
            monkeypatch.setattr(f"dense_jax.compare.{name}", lambda *arguments: arguments[-1].write_bytes(b""))


@pytest.fixture
def charts():
    """The charts are drawn."""


@pytest.fixture
def runs(tmp_path):
    """Two seeds of ICT and one of MLM."""
    return [
        workdir(tmp_path / "ict-0", [0.6, 0.7, 0.8], bm25=[0.5, 0.5, 0.5]),
        workdir(tmp_path / "ict-1", [0.8, 0.9, 1.0], seed=1, million=4.0, seconds=30.0),
        workdir(tmp_path / "mlm-0", [0.5, 0.4, 0.6], method="MLM", steps=2_000),
    ]


@pytest.mark.slow
def test_the_table(runs, tmp_path):
    """ICT's seeds have means 0.7 and 0.9: 0.8, standard deviation sqrt(2) / 10; its MRR@10 is half of that.

    Against BM25 all three differences of ICT are positive, which 2 of 8 exchanges of signs are as extreme as; those of
    MLM, 0 and -0.1 and 0.1, have mean 0.
    """
    expected = """\
toy-test, 3 queries; mean over seeds ± standard deviation of one run

| run | seeds | steps | tokens | time | nDCG@10 | MRR@10 | Recall@100 |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| BM25 |  |  |  |  | 0.500 | 0.250 | 1.000 |
| ict | 2 | 10 | 3.0M | 1m00s | 0.800 ± 0.141 | 0.400 ± 0.071 | 1.000 ± 0.000 |
| mlm | 1 | 2,000 | 2.0M | 1m30s | 0.500 | 0.250 | 1.000 |

| gain in nDCG@10 | over BM25 |
| --- | ---: |
| BM25 |  |
| ict | +0.300 [+0.200, +0.400], p 0.2500 |
| mlm | +0.000 [-0.100, +0.100], p 1.0000 |

Gains: mean over queries, 95 % interval of the paired bootstrap over queries (10,000 resamples, seed 0), \
p of the paired randomisation test (9,999 exchanges, seed 0); not corrected for the number of rows."""
    assert compare(runs, "", tmp_path / "out") == expected
    assert (tmp_path / "out" / "comparison.md").read_text() == expected + "\n"


def test_the_json_holds_what_the_table_rounds(runs, tmp_path):
    compare(runs, "mlm", tmp_path)
    found = read_json(tmp_path / "comparison.json")
    assert found["against"] == "mlm"
    words, ict, mlm = found["rows"]
    here = ict["sets"]["toy-test"]
    assert {key: ict[key] for key in ("name", "seeds", "steps", "tokens", "seconds")} == {
        "name": "ict", "seeds": [0, 1], "steps": 10, "tokens": 3e6, "seconds": 60.0
    }  # fmt: skip
    assert ict["workdirs"] == [str(path) for path in runs[:2]]
    assert here["queries"] == 3
    assert here["measures"]["nDCG@10"] == pytest.approx({"mean": 0.8, "sd": np.sqrt(2) / 10})
    assert here["gains"]["BM25"] == {"mean": pytest.approx(0.3), "interval": pytest.approx([0.2, 0.4]), "p": 0.25}
    assert list(here["gains"]) == ["mlm", "BM25"] and list(words["sets"]["toy-test"]["gains"]) == ["mlm"]
    assert list(mlm["sets"]["toy-test"]["gains"]) == ["BM25"]
    assert mlm["sets"]["toy-test"]["measures"]["MRR@10"] == pytest.approx({"mean": 0.25, "sd": None})
    assert words["workdirs"] == words["seeds"] == []
    assert words["tokens"] is None


def test_the_chart_is_a_png_that_grows_with_the_rows(runs, tmp_path, charts):
    sizes = []
    for count in (2, 3):
        compare(runs[:count], "", tmp_path)
        content = (tmp_path / "comparison.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        sizes.append(struct.unpack(">II", content[16:24]))
    assert 600 < sizes[0][0] < 2_000
    assert 200 < sizes[0][1] < sizes[1][1] < 1_000


# What is a row


def compared(workdirs, tmp_path, against=""):
    compare(workdirs, against, tmp_path / "out")
    return read_json(tmp_path / "out" / "comparison.json")["rows"]


def names(workdirs, tmp_path, against=""):
    return [row["name"] for row in compared(workdirs, tmp_path, against)]


def test_runs_that_differ_in_the_seed_and_in_what_may_change_during_a_run_are_one_row(tmp_path):
    same = [
        workdir(tmp_path / f"ict-seed{i}", [0.5], seed=i, log_every=i, passages={"workdir": f"w{i}"}) for i in range(3)
    ]
    assert names(same, tmp_path) == ["ict"]


@pytest.mark.parametrize("change", [{"method": "MLM"}, {"steps": 20}, {"batch": 16}], ids=["method", "steps", "batch"])
def test_runs_that_differ_in_anything_else_are_rows_of_their_own(tmp_path, change):
    first, second = workdir(tmp_path / "a-0", [0.5]), workdir(tmp_path / "b-0", [0.5], **change, seed=1)
    if "steps" in change:
        evaluated(second, [0.5], step=20)
    assert names([first, second], tmp_path) == ["a", "b"]


def test_folders_without_a_name_in_common_are_joined(tmp_path):
    assert names([workdir(tmp_path / "good", [0.5]), workdir(tmp_path / "luck", [0.5], seed=1)], tmp_path) == [
        "good+luck"
    ]


def test_two_rows_never_have_the_same_name(tmp_path):
    paths = [workdir(tmp_path / f"{i}" / "ict-0", [0.5], batch=i) for i in range(3)]
    assert names(paths, tmp_path) == ["ict", "ict-0", str(paths[2])]


def test_a_run_of_no_steps_stands_as_it_was_initialised(tmp_path):
    rows = [workdir(tmp_path / "untrained-0", [0.1], steps=0), workdir(tmp_path / "ict-0", [0.5])]
    assert names(rows, tmp_path, "untrained") == ["untrained", "ict"]
    assert "| untrained | 1 | 0 | 0.0M | 0s | 0.100 |" in (tmp_path / "out" / "comparison.md").read_text()


def test_each_evaluation_set_has_a_table(tmp_path):
    path = workdir(tmp_path / "ict-0", [0.5])
    evaluated(path, [0.2, 0.4], test_set="other-dev")
    text = compare([path], "", tmp_path)
    assert "other-dev, 2 queries" in text
    assert "toy-test, 1 queries" in text
    assert text.index("| ict | 1 | 10 | 2.0M | 1m30s | 0.300 |") < text.index("| ict | 1 | 10 | 2.0M | 1m30s | 0.500 |")


def test_bm25_stands_where_it_was_measured_only(tmp_path):
    path = workdir(tmp_path / "ict-0", [0.5], bm25=[0.4])
    assert names([path], tmp_path) == ["BM25", "ict"]
    evaluated(path, [0.5], test_set="other-dev")
    words, ict = compared([path], tmp_path)
    assert list(words["sets"]) == ["toy-test"]
    assert list(ict["sets"]["toy-test"]["gains"]) == ["BM25"]
    assert ict["sets"]["other-dev"]["gains"] == {}


def answered(path, values, *, step=10):
    """A workdir that was asked questions: `values` are exact match, answer recall of 1 passage and of 5."""
    measures = ("exact_match", "AnswerRecall@1", "AnswerRecall@5")[-len(values[0]) :]
    per_query = {f"q{i}": dict(zip(measures, map(float, value), strict=True)) for i, value in enumerate(values)}
    figures = {measure: float(np.mean([q[measure] for q in per_query.values()])) for measure in measures}
    write_json(
        path / "results" / "nq-answers" / "figures.json", {"step": step, "figures": figures, "per_query": per_query}
    )
    return path


def test_answers_are_compared_by_exact_match_where_all_runs_have_a_reader(tmp_path):
    """3 of 4 questions answered, and 1: two differences of 1 of one sign, so all but 2 of 4 exchanges are less."""
    good = answered(workdir(tmp_path / "good-0", [0.5], bm25=[0.4]), [[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]])
    poor = answered(workdir(tmp_path / "poor-0", [0.5], method="B"), [[1, 1, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    text = compare([good, poor], "poor", tmp_path / "out")
    assert "nq-answers, 4 queries" in text
    assert "| exact_match | AnswerRecall@1 | AnswerRecall@5 |" in text
    assert "| good | 1 | 10 | 2.0M | 1m30s | 0.750 | 0.500 | 0.750 |" in text
    answers = text[text.index("nq-answers") :].partition("\n\ntoy")[0]
    assert (
        "| gain in exact_match | over poor |" in answers and "| good | +0.500 [+0.000, +1.000], p 0.5000 |" in answers
    )
    assert "BM25" not in answers


def test_a_run_without_a_reader_is_compared_by_answer_recall(tmp_path):
    reads = answered(workdir(tmp_path / "orqa-0", [0.5]), [[1, 1, 1], [0, 0, 1]])
    finds = answered(workdir(tmp_path / "ict-0", [0.5], method="B"), [[0, 1], [0, 1]])
    text = compare([reads, finds], "", tmp_path / "out")
    assert "| AnswerRecall@1 | AnswerRecall@5 |" in text and "| gain in AnswerRecall@1 | over orqa |" in text
    assert "exact_match" not in text


def test_answers_alone_can_be_compared(tmp_path):
    path = answered(workdir(tmp_path / "orqa-0", [0.5]), [[1, 1, 1]])
    (path / "results" / "toy-test" / "after_training.json").unlink()
    (row,) = compared([path], tmp_path)
    assert list(row["sets"]) == ["nq-answers"]


def test_answers_of_an_older_step_are_refused(tmp_path):
    path = answered(workdir(tmp_path / "orqa-0", [0.5]), [[1, 1, 1]], step=5)
    with pytest.raises(DataError, match="nq-answers is of step 5, but training stands at 10"):
        compare([path], "", tmp_path)


def of_set(path, folder, content, values):
    evaluated(path, values, test_set=folder)
    about = {"name": "toy-test", "place": f"{content}/toy", "content": content}
    write_json(path / "results" / folder / "set.json", about)


def test_sets_of_one_name_and_other_content_have_tables_of_their_own_whatever_was_measured_first(tmp_path):
    first = workdir(tmp_path / "a-0", [0.5])
    of_set(first, "toy-test", "1111", [0.25])
    of_set(first, "toy-test-2222", "2222", [0.75])
    second = workdir(tmp_path / "b-0", [0.5], method="B")
    of_set(second, "toy-test", "2222", [0.5])
    of_set(second, "toy-test-1111", "1111", [1.0])
    text = compare([first, second], "", tmp_path / "out")
    assert text.count("toy-test, 1 queries") == text.count("toy-test-2222, 1 queries") == 1
    rows = {row["name"]: row["sets"] for row in read_json(tmp_path / "out" / "comparison.json")["rows"]}
    means = {name: {s: of["measures"]["nDCG@10"]["mean"] for s, of in sets.items()} for name, sets in rows.items()}
    assert means == {"a": {"toy-test": 0.25, "toy-test-2222": 0.75}, "b": {"toy-test": 1.0, "toy-test-2222": 0.5}}


def test_runs_measured_on_other_sets_of_the_same_name_are_refused(tmp_path):
    runs = [workdir(tmp_path / name, [0.5], method=name) for name in ("a-0", "b-0")]
    for path, content in zip(runs, ("1111", "2222"), strict=True):
        of_set(path, "toy-test", content, [0.5])
    with pytest.raises(DataError, match="not measured on the same queries of toy-test"):
        compare(runs, "", tmp_path / "out")


# BM25 and the run together


def fused(path, values, *, step=10, chosen_on=""):
    """Figures of BM25 with the run at `step`."""
    fusion = {"method": "rrf", "weight": 0.5, "depth": 100, "chosen_on": chosen_on}
    about = {"step": step, "fusion": fusion, "per_query": figures(values)}
    write_json(path / "results" / "toy-test" / "hybrid_after_training.json", about)


def test_the_runs_of_a_row_together_with_bm25_are_a_row_that_the_others_are_tested_against(runs, tmp_path):
    """ICT's seeds have means 0.7 and 0.9 and with BM25 0.9 each: 0.1 more, with differences 0.2, 0.1 and 0."""
    fused(runs[0], [0.9, 0.9, 0.9])
    fused(runs[1], [0.9, 0.9, 0.9])
    text = compare(runs, "mlm", tmp_path / "out")
    assert "| BM25 + ict | 2 | 10 | 3.0M | 1m00s | 0.900 ± 0.000 |" in text
    assert "| gain in nDCG@10 | over mlm | over BM25 | over BM25 + itself |" in text
    assert (
        "| ict | +0.300 [+0.200, +0.400], p 0.2500 | +0.300 [+0.200, +0.400], p 0.2500 | -0.100 [-0.200, +0.00" in text
    )
    assert "| BM25 + ict | +0.400 [+0.300, +0.500], p 0.2500 | +0.400 [+0.400, +0.400], p 0.2500 |  |" in text
    assert "BM25 + mlm" not in text


@pytest.mark.parametrize("measured", [[0], [1]])
def test_bm25_with_a_part_of_the_seeds_is_no_row(runs, tmp_path, measured):
    for i in measured:
        fused(runs[i], [0.9, 0.9, 0.9])
    assert names(runs, tmp_path) == ["BM25", "ict", "mlm"]


def test_bm25_with_an_older_step_is_no_row(runs, tmp_path):
    for path in runs[:2]:
        fused(path, [0.9, 0.9, 0.9], step=5)
    assert names(runs, tmp_path) == ["BM25", "ict", "mlm"]


def test_a_row_together_with_bm25_can_be_the_reference(runs, tmp_path):
    fused(runs[2], [0.6, 0.6, 0.6], step=2_000)
    assert "| ict | +0.200 [" in compare(runs, "BM25 + mlm", tmp_path / "out")


# What was chosen, and on what


def test_a_note_names_the_queries_that_a_weight_was_chosen_on(runs, tmp_path):
    fused(runs[2], [0.6, 0.6, 0.6], step=2_000, chosen_on="toy/dev")
    note = "BM25 + mlm: the weight of its dense side was chosen on toy/dev"
    assert compare(runs, "", tmp_path / "out").count(note) == 1
    assert read_json(tmp_path / "out" / "comparison.json")["notes"] == {"toy-test": [note]}


def validated(path, place="", folder="", split="test"):
    """A run whose checkpoint was chosen on `folder`, measured on the set of `place`."""
    results = tuple({"step": step, "nDCG@10": value} for step, value in ((0, 0.1), (10, 0.3)))
    History("sample", "nDCG@10", Select.BEST, 0, results).write(path)
    config = read_json(path / "config.json") | {"validation": {"folder": folder, "split": split}}
    write_json(path / "config.json", config)
    write_json(path / "results" / "toy-test" / "set.json", {"name": "toy-test", "place": place, "content": "1"})


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({}, "queries of this set, so its figures here are too good"),
        ({"place": "/toy", "folder": "/toy"}, "queries of this set, so its figures here are too good"),
        ({"place": "/toy", "folder": "/toy", "split": "dev"}, "other queries"),
        ({"place": "/toy", "folder": "/other"}, "other queries"),
        ({"place": "/toy"}, "other queries"),
    ],
    ids=["held out", "named", "another split", "another folder", "held out, tested elsewhere"],
)
def test_a_note_tells_whether_a_checkpoint_was_chosen_on_queries_of_the_set(tmp_path, places, words):
    path = workdir(tmp_path / "ict-0", [0.5])
    validated(path, **places)
    text = compare([path], "", tmp_path / "out")
    assert f"ict: its checkpoint was chosen (best in nDCG@10, patience 0) on {words}" in text


def test_a_run_that_was_validated_without_a_choice_has_no_note(tmp_path):
    path = workdir(tmp_path / "ict-0", [0.5])
    History("sample", "nDCG@10", Select.NEWEST, 0, ({"step": 10, "nDCG@10": 0.3},)).write(path)
    assert "chosen" not in compare([path], "", tmp_path / "out")


# More than chance?


def test_the_interval_of_two_queries_spans_all_resamples():
    """Differences 0 and 1: of the resamples a fourth has mean 0, half 0.5, a fourth 1."""
    assert bootstrap_interval(np.array([0.5, 1.0]), np.array([0.5, 0.0])) == (0.0, 1.0)


def test_the_interval_is_that_of_the_percentiles_of_the_means_of_resampled_queries():
    rng = np.random.default_rng(1)
    a, b = rng.random(50), rng.random(50)
    means = (a - b)[np.random.default_rng(2).integers(50, size=(10_000, 50))].mean(1)
    found = bootstrap_interval(a, b)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.005)
    assert bootstrap_interval(a, b) == found
    spread = 1.96 * (a - b).std() / np.sqrt(50)
    assert found == pytest.approx([(a - b).mean() - spread, (a - b).mean() + spread], abs=0.01)


def test_one_query_has_no_interval():
    assert bootstrap_interval(np.array([1.0]), np.array([0.0])) is None


def test_the_p_value_is_the_share_of_exchanges_with_at_least_the_found_difference():
    """Differences 0.4 -0.1 0.3 of sum 0.6; with all signs the sums are 0, 0.2, 0.6, 0.8 and their negatives: 4 of 8."""
    a, b = np.array([0.9, 0.4, 0.5]), np.array([0.5, 0.5, 0.2])
    assert randomisation_test(a, b) == randomisation_test(b, a) == 0.5


def test_the_p_value_of_six_queries_is_that_of_all_sixty_four_exchanges():
    difference = np.array([0.4, -0.05, 0.5, 0.05, -0.1, 0.25])
    sums = np.array([difference @ signs for signs in itertools.product((1, -1), repeat=6)])
    extreme = np.sum(np.abs(sums) >= difference.sum() - 1e-12)
    assert 0 < extreme < 32
    assert randomisation_test(difference, np.zeros(6)) == pytest.approx(extreme / 64)


def test_one_query_proves_nothing():
    assert randomisation_test(np.array([1.0]), np.array([0.0])) == 1.0


def test_equal_values_have_a_p_value_of_one():
    assert randomisation_test(np.ones(4), np.ones(4)) == 1.0


def test_with_many_queries_exchanges_are_drawn_and_the_p_value_is_never_zero():
    """No one of 9,999 draws of 40 signs is as extreme: twice 1 / 10,000."""
    assert randomisation_test(np.ones(40), np.zeros(40)) == pytest.approx(2e-4)


def test_seeds_are_averaged_for_each_query_before_the_test(tmp_path):
    """Means over seeds 0.5 0.5 0.5, which are the other run's, although each seed differs from it."""
    seeds = [workdir(tmp_path / "a-0", [0.1, 0.5, 0.9]), workdir(tmp_path / "a-1", [0.9, 0.5, 0.1], seed=1)]
    other = workdir(tmp_path / "b-0", [0.5, 0.5, 0.5], method="MLM")
    compare([*seeds, other], "b", tmp_path)
    gain = read_json(tmp_path / "comparison.json")["rows"][0]["sets"]["toy-test"]["gains"]["b"]
    assert gain == {"mean": pytest.approx(0), "interval": pytest.approx([0, 0]), "p": 1.0}


# What is refused


def test_a_workdir_named_twice_is_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="a workdir is given twice; give each one once"):
        compare([runs[0], tmp_path / "mlm-0" / ".." / "ict-0"], "", tmp_path)


def test_an_unknown_reference_is_refused_with_the_names_there_are(runs, tmp_path):
    with pytest.raises(ConfigError, match="--against=dpr is not among the runs; use one of BM25, ict, mlm"):
        compare(runs, "dpr", tmp_path)


@pytest.mark.parametrize("lacking", ["config.json", "results/toy-test/after_training.json"])
def test_a_workdir_that_was_not_trained_or_not_evaluated_is_refused(runs, tmp_path, lacking):
    (runs[1] / lacking).unlink()
    with pytest.raises(DataError, match=r"ict-1: not trained and evaluated; run `dense-jax train` and `dense-jax eval"):
        compare(runs, "", tmp_path)


def test_a_run_that_did_not_come_to_its_end_is_refused(runs, tmp_path):
    first, _ = (runs[0] / "metrics.jsonl").read_text().splitlines()
    (runs[0] / "metrics.jsonl").write_text(first + "\n")
    with pytest.raises(DataError, match="ict-0: training stands at step 5 of 10; run `dense-jax train` to the end"):
        compare(runs, "", tmp_path)


def test_a_run_evaluated_at_an_older_step_is_refused(runs, tmp_path):
    evaluated(runs[2], [0.5, 0.4, 0.6], step=1_000)
    with pytest.raises(DataError, match=r"toy-test is of step 1,000, but training stands at 2,000; run"):
        compare(runs, "", tmp_path)


@pytest.mark.parametrize("values", [[0.5, 0.4], [0.5, 0.4, 0.6, 0.7]], ids=["fewer", "more"])
def test_runs_evaluated_on_different_queries_are_refused(runs, tmp_path, values):
    evaluated(runs[2], values, step=2_000)
    with pytest.raises(DataError, match=r"mlm-0: not measured on the same queries .* as .*ict-0; .*\.workdir"):
        compare(runs, "", tmp_path)


@pytest.mark.parametrize(("has", "lacks"), [("ict-0", "ict-1"), ("mlm-0", "ict-0")])
def test_a_run_that_lacks_an_evaluation_set_is_refused(runs, tmp_path, has, lacks):
    evaluated(tmp_path / has, [0.5], test_set="other-dev", step=2_000 if has == "mlm-0" else 10)
    with pytest.raises(DataError, match=f"{lacks}: not measured on the same queries of other-dev as .*{has};"):
        compare(runs, "", tmp_path)


# The verb


def test_the_verb_prints_the_tables_and_leaves_five_files(runs, tmp_path, capsys, charts):
    out = tmp_path / "new" / "folder"
    assert run(["compare", *map(str, runs), "--against=mlm", f"--workdir={out}"]) == 0
    said = capsys.readouterr().out
    assert "| gain in nDCG@10 | over mlm | over BM25 |" in said and said.endswith(f"{out}/comparison.html\n")
    assert {path.name for path in out.iterdir()} - {"compare.lock"} == {
        "comparison.md",
        "comparison.json",
        "comparison.png",
        "comparison.html",
        "gains.png",
    }


def test_the_page_holds_the_tables_the_notes_and_the_charts_and_needs_no_other_file(runs, tmp_path, charts):
    fused(runs[2], [0.6, 0.6, 0.6], step=2_000, chosen_on="toy/<script>")
    compare(runs, "mlm", tmp_path)
    html = (tmp_path / "comparison.html").read_text()
    assert "<h2>toy-test, 3 queries</h2>" in html
    for cells in (("ict", "2", "10", "3.0M", "1m00s", "0.800 ± 0.141"), ("ict", "+0.300 [+0.200, +0.400], p 0.2500")):
        assert "<tr>" + '</td><td class="number">'.join(cells).replace(cells[0], f"<td>{cells[0]}", 1) in html
    assert "was chosen on toy/&lt;script&gt;" in html and "<script" not in html
    drawn = [(tmp_path / name).read_bytes() for name in ("comparison.png", "gains.png")]
    assert [b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]+)"', html)] == drawn
    assert len(re.findall(r"\b(?:src|href)=", html)) == 2
    assert all(str(path) in html for path in runs)


def test_an_older_chart_of_gains_goes_where_there_are_none_to_draw(runs, tmp_path):
    compare(runs, "mlm", tmp_path)
    assert (tmp_path / "gains.png").is_file()
    alone = runs[0]
    for path in alone.glob("results/*/BM25.json"):
        path.unlink()
    compare([alone], "", tmp_path)
    assert not (tmp_path / "gains.png").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--workdir=out"], 2, "compare takes the workdirs of finished runs, and --workdir=DIR"),
        (["ict-0"], 2, "compare takes the workdirs of finished runs, and --workdir=DIR"),
        (["ict-0", "--workdir=out", "--seed=1"], 2, "unknown flag --seed; the flags are --workdir, --against"),
        (["none", "--workdir=out"], 3, "none: not trained and evaluated"),
    ],
    ids=["no runs", "no workdir", "another flag", "no run"],
)
def test_the_verb_says_what_it_takes(runs, tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    assert run(["compare", *arguments]) == status
    assert message in capsys.readouterr().err
