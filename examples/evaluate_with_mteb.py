"""Evaluate a model on tasks of mteb, encoded by JAX or by sentence-transformers.

    pip install "dense_jax[mteb]"
    python examples/evaluate_with_mteb.py MODEL NanoSciFactRetrieval NanoFiQA2018Retrieval --out=results

MODEL is the workdir of a trained run, or a folder of sentence-transformers such as one that `dense-jax export` wrote.
With --torch a folder is encoded by sentence-transformers instead. mteb fetches its tasks from the Hugging Face Hub and
keeps results in the folder --out, from where its own tools read them.
"""

import argparse
import functools
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import torch
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

import dense_jax


class RunEncoder:
    """A run as a model of mteb. Queries and documents get the prompts, lengths and layout that search gives them."""

    def __init__(self, run: dense_jax.Run, name: str) -> None:
        """`name` is the one under which mteb keeps results, of the form ORG/NAME."""
        self.run, self.name = run, name

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **settings: Any) -> np.ndarray:
        """Vectors of the texts in `inputs`, batches of mteb; texts of no side, as in STS, are encoded as queries."""
        if prompt_type is PromptType.document:
            return self.run.encode_passages([text for batch in inputs for text in documents(batch)])
        return self.run.encode_queries([text for batch in inputs for text in batch["text"]])

    def similarity(self, first: Any, second: Any) -> torch.Tensor:
        """Inner products, which are cosines where the model normalises its vectors."""
        return torch.as_tensor(first) @ torch.as_tensor(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
        """The same for corresponding rows."""
        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(-1)

    @functools.cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """The name, and as the revision a digest of the vectors of a text, so that results of two models never mix."""
        vectors = self.run.encode_queries(["a text"]), self.run.encode_passages([("a title", "a text")])
        revision = hashlib.sha256(b"".join(one.tobytes() for one in vectors)).hexdigest()
        return ModelMeta.create_empty(overwrites={"name": self.name, "revision": revision})


def documents(batch: dict[str, list]) -> list[str | tuple[str, str]]:
    """The texts of a batch, with their titles where mteb has them apart."""
    if "body" not in batch:
        return batch["text"]
    titles = batch.get("title") or [""] * len(batch["body"])
    return list(zip([title or "" for title in titles], batch["body"], strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a workdir, or a folder of sentence-transformers")
    parser.add_argument("tasks", nargs="+", help="names of tasks, such as NanoSciFactRetrieval")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--torch", action="store_true", help="encode by sentence-transformers, not by JAX")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        model = opened(given.model, Path(scratch), by_torch=given.torch)
        for line in scores(model, mteb.get_tasks(tasks=given.tasks), given.out):
            print(line)


def opened(model: Path, scratch: Path, *, by_torch: bool) -> Any:
    """The model that mteb is to evaluate."""
    if by_torch:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(model))
    name = f"dense_jax/{model.absolute().name}"
    if (model / "modules.json").is_file():
        return RunEncoder(dense_jax.Run(scratch, dense_jax.load_config(f"pretrained:{model}")), name)
    return RunEncoder(dense_jax.Run(model), name)


def scores(model: Any, tasks: Any, out: Path) -> list[str]:
    """The main score of each task, a line each; all results go to `out`."""
    found = mteb.evaluate(model, tasks, cache=mteb.ResultCache(out))
    return [f"{one.task_name:40} {one.get_score():.4f}" for one in found.task_results]


if __name__ == "__main__":
    main()
