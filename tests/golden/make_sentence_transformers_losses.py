"""Write sentence_transformers/losses.npz: losses and gradients of sentence-transformers on given vectors, in float64.

python -m tests.golden.make_sentence_transformers_losses
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

FILE = Path(__file__).parent / "sentence_transformers" / "losses.npz"
BATCH, GROUP, WIDTH = 5, 3, 6
Columns = list[Any]  # tensors: queries, answers, first negatives, second negatives


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


QUERIES, PASSAGES = numbers(0, BATCH, WIDTH), numbers(1, BATCH, GROUP, WIDTH)
GUIDE = numbers(2, BATCH, 4), numbers(3, BATCH, GROUP, 4)
TEACHER = numbers(4, BATCH, GROUP)

DIRECTIONS = {
    "passages": {},
    "both": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "joint": {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
}
MARGINS = [("absolute", 0.0), ("absolute", 0.2), ("relative", 0.3)]


def results() -> dict[str, np.ndarray]:
    """Loss, gradient of the queries and gradient of the passages in one row, by the name of the case."""
    return {name: gradients(loss, group) for name, (loss, group) in losses().items()}


def gradients(loss: Callable[[Columns], Any], group: int) -> np.ndarray:
    torch = importlib.import_module("torch")
    columns = [torch.tensor(x, requires_grad=True) for x in (QUERIES, *PASSAGES[:, :group].swapaxes(0, 1))]
    value = loss(columns)
    value.backward()
    passages = np.stack([column.grad.numpy() for column in columns[1:]], axis=1)
    return np.concatenate([[value.item()], columns[0].grad.numpy().ravel(), passages.ravel()])


def losses() -> dict[str, tuple[Callable[[Columns], Any], int]]:
    """The losses by the name of the case, each with the number of passages to a query."""
    return ranking() | cached() | gist() | distillation() | matryoshka()


def ranking() -> dict[str, tuple[Callable[[Columns], Any], int]]:
    def of(settings: dict[str, Any]) -> Callable[[Columns], Any]:
        loss = library().MultipleNegativesRankingLoss(None, scale=20.0, **settings)
        return lambda columns: loss.compute_loss_from_embeddings(columns, None)

    return {f"ranking/{name}/{group}": (of(DIRECTIONS[name]), group) for name in DIRECTIONS for group in (1, GROUP)}


def cached() -> dict[str, tuple[Callable[[Columns], Any], int]]:
    def of(settings: dict[str, Any]) -> Callable[[Columns], Any]:
        model = importlib.import_module("torch").nn.Sequential(given())
        loss = library().CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=2, **settings)
        return lambda columns: loss.calculate_loss([[column] for column in columns])

    return {f"cached/{name}": (of(settings), GROUP) for name, settings in DIRECTIONS.items()}


def gist() -> dict[str, tuple[Callable[[Columns], Any], int]]:
    return {
        f"gist/{source}/{strategy}/{margin}": (gist_of(margin, strategy, source == "guide"), 2)
        for strategy, margin in MARGINS
        for source in ("guide", "student")
    }


def gist_of(margin: float, strategy: str, guided: bool) -> Callable[[Columns], Any]:
    """GISTEmbedLoss on given vectors; without a guide the student's own, detached, replace the guide's."""
    torch = importlib.import_module("torch")
    module = importlib.import_module("sentence_transformers.sentence_transformer.losses.gist_embed")
    loss = module.GISTEmbedLoss.__new__(module.GISTEmbedLoss)
    torch.nn.Module.__init__(loss)
    loss.model, loss.guide, loss.must_retokenize = "student", "guide", False
    loss.temperature, loss.margin, loss.margin_strategy = 0.05, margin, strategy
    loss.contrast_anchors = loss.contrast_positives = loss.gather_across_devices = False
    loss.similarity_fct, loss.cross_entropy_loss = torch.nn.CosineSimilarity(dim=-1), torch.nn.CrossEntropyLoss()
    guides = [torch.tensor(x) for x in (GUIDE[0], *GUIDE[1].swapaxes(0, 1))]

    def call(columns: Columns) -> Any:
        others = guides[: len(columns)] if guided else [column.detach() for column in columns]
        features = [{"student": own, "guide": other} for own, other in zip(columns, others, strict=True)]
        with mock.patch.object(module, "embed_columns", lambda name, columns: [column[name] for column in columns]):
            return loss(features, None)

    return call


def distillation() -> dict[str, tuple[Callable[[Columns], Any], int]]:
    torch = importlib.import_module("torch")
    util = importlib.import_module("sentence_transformers.util")

    def kl(similarity: Any, temperature: float) -> Callable[[Columns], Any]:
        loss = library().DistillKLDivLoss(None, similarity_fct=similarity, temperature=temperature)
        return lambda columns: loss.compute_loss_from_embeddings(columns, torch.tensor(TEACHER))

    def margins(group: int) -> Callable[[Columns], Any]:
        loss = library().MarginMSELoss(None)
        return lambda columns: loss.compute_loss_from_embeddings(columns, torch.tensor(TEACHER[:, :group]))

    similarities = {"dot": util.pairwise_dot_score, "cosine": util.pairwise_cos_sim}
    of_kl = {f"kl/{name}/{t}": (kl(of, t), GROUP) for name, of in similarities.items() for t in (1.0, 0.5)}
    return of_kl | {f"margins/{group}": (margins(group), group) for group in (2, 3)}


def matryoshka() -> dict[str, tuple[Callable[[Columns], Any], int]]:
    """The sum over three widths."""

    def of(weights: list[float] | None) -> Callable[[Columns], Any]:
        model = given()
        inner = library().MultipleNegativesRankingLoss(model, scale=20.0)
        loss = library().MatryoshkaLoss(model, inner, [6, 4, 2], weights)
        return lambda columns: loss([{"vectors": column} for column in columns], None)

    return {"matryoshka/equal": (of(None), GROUP), "matryoshka/weighted": (of([1.0, 0.5, 2.0]), GROUP)}


def given() -> Any:
    """A model whose vectors are its features."""
    torch = importlib.import_module("torch")

    class Given(torch.nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": features["vectors"]}

        def get_embedding_dimension(self) -> int:
            return WIDTH

    return Given()


def library() -> Any:
    return importlib.import_module("sentence_transformers.sentence_transformer.losses")


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez(FILE, **results())
