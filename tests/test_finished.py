"""What is told of an exported checkpoint: figures of its own towers, and no others."""

from dense_jax.files import write_json
from dense_jax.finished import measured
from dense_jax.model_card import Result


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
        Result("fiqa", "test", "nDCG@10", 0.25),
        Result("fiqa", "test", "MRR@10", 0.25),
        Result("fiqa", "test", "Recall@100", 0.25),
        Result("nq.jsonl", "", "AnswerRecall@1", 0.125),
        Result("nq.jsonl", "", "AnswerRecall@5", 0.25),
    )
    assert measured(tmp_path, 8) == ()
