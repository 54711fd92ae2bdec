"""What training and measuring left: the figures of an exported checkpoint, and the names of rows."""

import json

import pytest

from dense_jax.config import Config, Select
from dense_jax.hf.model_card import CardResult
from dense_jax.io import write_json
from dense_jax.run_results import measured, row_names
from dense_jax.train.validation import History
from tests.toys import BagOfTokens


def evaluated(path, step, value, name="after_training"):
    mean = dict.fromkeys(("nDCG@10", "MRR@10", "Recall@100", "MAP"), value)
    about = {"collection": "fiqa/test", "split": "test", "step": step}
    write_json(path / "results" / f"fiqa-{step}" / f"{name}.json", about | {"mean": mean})


def answered(path, step, value):
    figures = {"exact_match": 0.5, "reader_oracle": 0.75, "AnswerRecall@1": value, "AnswerRecall@5": 2 * value}
    write_json(
        path / "results" / f"nq-{step}-answers" / "figures.json",
        {"questions": "nq.jsonl", "step": step} | {"figures": figures},
    )


def test_figures_of_the_checkpoint_are_those_of_its_rankings_and_its_answer_recall(tmp_path):
    evaluated(tmp_path, 7, 0.25)
    evaluated(tmp_path, 7, 0.75, "BM25")
    evaluated(tmp_path, 9, 0.5)
    answered(tmp_path, 7, 0.125)
    answered(tmp_path, 9, 0.375)
    assert measured(tmp_path, 7) == (
        CardResult("fiqa", "test", "nDCG@10", 0.25),
        CardResult("fiqa", "test", "MRR@10", 0.25),
        CardResult("fiqa", "test", "Recall@100", 0.25),
        CardResult("nq.jsonl", "", "AnswerRecall@1", 0.125),
        CardResult("nq.jsonl", "", "AnswerRecall@5", 0.25),
    )
    assert measured(tmp_path, 8) == ()


def test_figures_of_a_step_before_the_end_and_of_no_training_are_those_of_their_checkpoints(tmp_path):
    evaluated(tmp_path, 7, 0.25, "step_7")
    evaluated(tmp_path, 0, 0.5, "before_training")
    assert [measured(tmp_path, step)[0].value for step in (7, 0)] == [0.25, 0.5]


def test_figures_on_two_sets_of_one_name_have_names_of_their_own(tmp_path):
    for folder, content in (("fiqa-test", "1111"), ("fiqa-test-2222", "2222")):
        about = {"collection": "fiqa/test", "split": "test", "step": 7}
        mean = dict.fromkeys(("nDCG@10", "MRR@10", "Recall@100"), 0.5)
        write_json(tmp_path / "results" / folder / "after_training.json", about | {"mean": mean})
        write_json(tmp_path / "results" / folder / "set.json", {"name": "fiqa-test", "place": "", "content": content})
    assert list(dict.fromkeys(result.dataset for result in measured(tmp_path, 7))) == ["fiqa", "fiqa-2222"]


def logged(path, step):
    path.mkdir(exist_ok=True)
    (path / "metrics.jsonl").write_text(json.dumps({"step": step, "tokens": 1.0, "seconds": 1.0}) + "\n")
    return path


def run_of(steps, init_from=""):
    return Config(BagOfTokens(), steps=steps, batch=8, init_from=init_from)


def test_a_row_is_called_after_training_only_where_training_has_ended(tmp_path):
    assert row_names(logged(tmp_path, 400), run_of(1_000), 200) == ("step 200 of 1,000", "step_200")
    assert row_names(logged(tmp_path, 1_000), run_of(1_000), 1_000) == ("after training", "after_training")
    assert row_names(tmp_path, run_of(1_000), 200) == ("step 200 of 1,000", "step_200")
    assert row_names(tmp_path, run_of(1_000), 0) == ("before training", "before_training")


@pytest.mark.parametrize(("patience", "name"), [(0, "step 20 of 90"), (2, "after training")])
def test_the_best_step_of_a_run_that_its_patience_ended_is_after_training(tmp_path, patience, name):
    results = tuple({"step": step, "nDCG@10": value} for step, value in ((10, 0.1), (20, 0.3), (30, 0.2), (40, 0.1)))
    History("sample", "nDCG@10", Select.BEST, patience, results).write(logged(tmp_path, 40))
    assert row_names(tmp_path, run_of(90), 20)[0] == name


def test_a_run_of_no_steps_is_called_by_what_it_starts_from(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    names = [row_names(tmp_path, run_of(0, place), 0)[0] for place in ("models/minilm/", ".", "../run/checkpoints/200")]
    assert names == ["minilm", "run", "run, step 200"]
    assert row_names(tmp_path, run_of(0), 0) == ("before training", "before_training")
