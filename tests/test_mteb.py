"""examples/evaluate_with_mteb.py: the figures of mteb are those of `evaluate`, encoded by JAX and by torch."""

import json
from dataclasses import replace

import pytest

import dense_jax
from tests.test_finetune_folder import folder_of, judge, judged_queries  # noqa: F401  judge is a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # mteb and its libraries warn of their own calls
]


@pytest.fixture
def task(tmp_path):
    """The judged queries as a task of mteb, which never asks the Hub."""
    abstasks = pytest.importorskip("mteb.abstasks", reason="the extra [mteb]")
    datasets = pytest.importorskip("datasets")
    folder = judged_queries(tmp_path / "judged")
    read = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("corpus", "queries")
    }
    table = {name: datasets.Dataset.from_list([{"id": row.pop("_id"), **row} for row in rows])
             for name, rows in read.items()}  # fmt: skip
    judged = {f"q{i}": {f"d{i}": 1} for i in range(24)}

    class Keepers(abstasks.AbsTaskRetrieval):
        metadata = abstasks.task_metadata.TaskMetadata(
            name="Keepers", description="judged queries of a test", type="Retrieval", modalities=["text"],
            category="t2t", dataset={"path": "none/none", "revision": "1"}, eval_splits=["test"],
            eval_langs=["eng-Latn"], main_score="ndcg_at_10",
        )  # fmt: skip

        def load_data(self, *args, **kwargs):
            self.dataset = {"default": {"test": table | {"relevant_docs": judged, "top_ranked": None}}}
            self.data_loaded = True

    return folder, Keepers()


def test_figures_by_jax_equal_those_by_torch_and_those_of_evaluate(task, tmp_path, judge):  # noqa: F811
    from examples.evaluate_with_mteb import opened, scores

    judged, keepers = task
    folder = folder_of("nomic", tmp_path, judge)
    config = dense_jax.load_config(f"pretrained:{folder}", {"evaluate.folder": str(judged)})
    run = dense_jax.Run(tmp_path / "work", config)
    ours = next(of for row, of in run.evaluate().figures.items() if row.startswith("nomic"))["nDCG@10"]
    run.export()
    exported = tmp_path / "work" / "export"
    (by_jax,) = scores(opened(exported, tmp_path / "scratch", by_torch=False), [keepers], tmp_path / "jax")
    (by_workdir,) = scores(opened(tmp_path / "work", tmp_path / "scratch", by_torch=False), [keepers], tmp_path / "run")
    (by_torch,) = scores(opened(exported, tmp_path / "scratch", by_torch=True), [keepers], tmp_path / "torch")
    assert by_jax == by_workdir == by_torch
    assert float(by_jax.split()[-1]) == pytest.approx(ours, abs=1e-4)


def test_results_of_two_models_have_two_revisions(task, tmp_path, judge):  # noqa: F811
    from examples.evaluate_with_mteb import RunEncoder

    config = dense_jax.load_config(f"pretrained:{folder_of('e5-small-v2', tmp_path, judge)}").config
    other = replace(config, objective=replace(config.objective, query_prompt="ask: "))
    runs = [dense_jax.Run(tmp_path / str(i), one) for i, one in enumerate((config, other))]
    assert len({RunEncoder(run, "dense_jax/one").mteb_model_meta.revision for run in runs}) == 2
