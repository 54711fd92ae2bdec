"""The same models and training steps in PyTorch, from the same weights, to compare with.

default   what transformers' Trainer does: the model's own loss over all positions, fused AdamW, clipping
tuned     the same result as fast as PyTorch's own means allow: scores at the masked positions only, no attention mask
          (all rows are full); on NVIDIA GPUs torch.compile, and from Hopper on cuDNN's attention first
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tasks
import torch
import torch.nn.functional as F  # noqa: N812  its name everywhere
import transformers
from machine import Machine
from timing import Program
from torch.nn.attention import SDPBackend, sdpa_kernel

from dense_jax.arrays import Batch
from dense_jax.config import OptimizerConfig
from dense_jax.errors import MachineError
from dense_jax.types import Tokens

_HOPPER = (9, 0)  # compute capability from which cuDNN's attention is the fastest
_ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_UNLABELLED = -100  # PyTorch's label of a position without a loss

Tensors = dict[str, torch.Tensor]


class Training(NamedTuple):
    """A model, its batches and the loss of a batch."""

    network: torch.nn.Module
    batches: list[Any]
    loss: Callable[[Any, Any], torch.Tensor]  # without a gradient where it has gone back through the model already


def set_up(machine: Machine) -> None:
    """As many threads as JAX has; on a GPU TensorFloat-32 in float32 products, which JAX takes too.

    Raises:
        MachineError: PyTorch would not run on what JAX runs on.
    """
    if _device().type != {"gpu": "cuda"}.get(machine.platform, machine.platform) or machine.count > 1:
        raise MachineError(
            f"PyTorch would run on 1 x {_device().type}, JAX runs on {machine.count} x {machine.platform}; "
            "use --peer=none, or let both see one device (CUDA_VISIBLE_DEVICES=0, JAX_PLATFORMS=cpu)"
        )
    torch.set_num_threads(machine.threads)
    torch.set_float32_matmul_precision("high")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def masked_lm(folder: Path, batches: Sequence[Batch], kind: str, chunk: int = 0) -> Training:
    """Masked language modelling by the model in `folder`, without a `chunk`."""
    assert chunk == 0
    network = transformers.BertForMaskedLM.from_pretrained(folder)
    if kind == "tuned":
        return Training(network, [_at_masked(batch) for batch in batches], _fastest(_loss_at_masked, kind))
    return Training(network, [_everywhere(batch) for batch in batches], lambda model, batch: model(**batch).loss)


def dual_encoder(folder: Path, batches: Sequence[Batch], kind: str, chunk: int = 0) -> Training:
    """In-batch softmax over the cosines of mean-pooled queries and passages, one encoder for both.

    With a `chunk`, so many pairs are encoded, and so many queries scored, at a time: see `_cached`.
    """

    def loss(network: Any, batch: dict[str, Tensors]) -> torch.Tensor:
        queries, passages = (_vectors(network, batch[side]) for side in ("query", "passage"))
        with torch.autocast(queries.device.type, enabled=False):
            scores = queries @ passages.T / tasks.TEMPERATURE
            return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    sides = [{side: _inputs(batch[side], kind) for side in ("query", "passage")} for batch in batches]
    if chunk:
        return Training(_bert(folder), sides, functools.partial(_cached, chunk, _fastest(_vectors, kind)))
    return Training(_bert(folder), sides, _fastest(loss, kind))


TRAININGS = {"mlm": masked_lm, "ict": dual_encoder}


def trainer(training: Training, kind: str, settings: OptimizerConfig, dtype: str) -> Program:
    """Steps of `training`, computing in `dtype` over float32 weights."""
    network, batches = training.network.to(_device()).train(), [_moved(batch) for batch in training.batches]
    adamw = _adamw(network, settings)

    def step(i: int) -> torch.Tensor:
        adamw.zero_grad(set_to_none=True)
        with _attention(kind), torch.autocast(_device().type, torch.bfloat16, enabled=dtype == "bfloat16"):
            value = training.loss(network, batches[i % len(batches)])
        if value.requires_grad:
            value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        adamw.step()
        return value.detach()

    return Program(f"torch {kind}", step, _wait)


def encoder(folder: Path, documents: Sequence[Tokens], batch: int, kind: str, dtype: str) -> Program:
    """Each step encodes all `documents`, which are of one length, to mean-pooled vectors of length 1."""
    network = _bert(folder).to(_device(), getattr(torch, dtype)).eval()
    groups = [documents[start : start + batch] for start in range(0, len(documents), batch)]
    vectors = _fastest(_vectors, kind)

    def step(i: int) -> np.ndarray:
        with torch.inference_mode(), _attention(kind):
            stacked = (Tokens(*map(np.stack, zip(*rows, strict=True))) for rows in groups)
            found = [vectors(network, _moved(_inputs(rows, kind))) for rows in stacked]
            return torch.cat(found).cpu().numpy()

    return Program(f"torch {kind}", step, _wait)


def sentence_transformer(folder: Path, texts: Sequence[str], batch: int, dtype: str, suffix: str) -> Program:
    """Each step encodes all `texts` by sentence-transformers, which tokenises them and takes the mean by default."""
    from sentence_transformers import SentenceTransformer  # imported here: the package may be missing

    network = SentenceTransformer(str(folder), device=str(_device())).to(getattr(torch, dtype))

    def step(i: int) -> Any:
        return network.encode(list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False)

    return Program("sentence-transformers" + suffix, step, _wait)


def exact_search(tiles: Iterable[np.ndarray], queries: np.ndarray, k: int, dtype: str) -> Program:
    """Each step finds the rows of the k best of all `tiles` for each of `queries`, by products in `dtype`.

    Scores are float32.
    """
    corpus = [torch.from_numpy(tile).to(_device(), getattr(torch, dtype)) for tile in tiles]
    asked = torch.from_numpy(queries).to(corpus[0])
    starts = np.cumsum([0, *map(len, corpus)])

    def scores(tile: torch.Tensor) -> torch.Tensor:
        if asked.dtype == torch.bfloat16 and asked.is_cuda:
            return torch.mm(asked, tile.T, out_dtype=torch.float32)  # sums that are not rounded, which CPUs lack
        return asked @ tile.T

    def step(i: int) -> np.ndarray:
        with torch.inference_mode():
            found = [scores(tile).topk(min(k, len(tile))) for tile in corpus]
            rows = torch.cat([one.indices + int(start) for one, start in zip(found, starts, strict=False)], 1)
            best = torch.cat([one.values for one in found], 1).topk(k).indices
            return rows.gather(1, best).cpu().numpy()

    return Program("torch tuned", step, _wait)


def _bert(folder: Path) -> Any:
    return transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)


def _vectors(network: Any, inputs: Tensors) -> torch.Tensor:
    hidden = network(**inputs).last_hidden_state.float()
    if "attention_mask" not in inputs:
        return F.normalize(hidden.mean(1), dim=-1)
    real = inputs["attention_mask"][..., None].float()
    return F.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)


def _cached(chunk: int, vectors: Callable[..., torch.Tensor], network: Any, batch: dict[str, Tensors]) -> torch.Tensor:
    """Loss of `dual_encoder` whose gradients are added chunk by chunk (Gao et al. 2021, GradCache).

    Vectors first, then their gradients, then each chunk once more, back through the model.
    """
    count = len(batch["query"]["input_ids"])
    parts = [
        [{name: x[start : start + chunk] for name, x in batch[side].items()} for start in range(0, count, chunk)]
        for side in ("query", "passage")
    ]
    # detached, not without gradients: a program compiled for both passes serves both
    found = [torch.cat([vectors(network, part).detach() for part in side]).requires_grad_() for side in parts]
    labels, total = torch.arange(count, device=found[0].device), torch.zeros((), device=found[0].device)
    with torch.autocast(found[0].device.type, enabled=False):
        for queries, own in zip(found[0].split(chunk), labels.split(chunk), strict=True):
            scores = queries @ found[1].T / tasks.TEMPERATURE
            loss = F.cross_entropy(scores, own, reduction="sum") / count
            loss.backward()
            total += loss.detach()
    for side, x in zip(parts, found, strict=True):
        assert x.grad is not None
        for part, gradient in zip(side, x.grad.split(chunk), strict=True):
            vectors(network, part).backward(gradient)
    return total


def _loss_at_masked(network: Any, batch: Tensors) -> torch.Tensor:
    hidden = network.bert(batch["input_ids"], token_type_ids=batch["token_type_ids"]).last_hidden_state
    scores = network.cls(hidden.flatten(0, 1).index_select(0, batch["places"]))
    return F.cross_entropy(scores, batch["labels"])


def _at_masked(batch: Batch) -> Tensors:
    """`places` are the masked positions in the batch laid out as one row."""
    rows, length = batch["tokens"].ids.shape
    places = batch["positions"] + np.arange(rows)[:, None] * length
    labels = {"places": places.ravel(), "labels": batch["labels"].ravel()}
    return _inputs(batch["tokens"], "tuned") | {name: torch.from_numpy(x).long() for name, x in labels.items()}


def _everywhere(batch: Batch) -> Tensors:
    labels = np.full(batch["tokens"].ids.shape, _UNLABELLED, np.int64)
    np.put_along_axis(labels, batch["positions"], batch["labels"], axis=1)
    return _inputs(batch["tokens"], "default") | {"labels": torch.from_numpy(labels)}


def _inputs(tokens: Tokens, kind: str) -> Tensors:
    """Inputs of a BERT of transformers."""
    named = {"input_ids": tokens.ids, "token_type_ids": tokens.types, "attention_mask": tokens.mask}
    if kind == "tuned":
        del named["attention_mask"]
    return {name: torch.from_numpy(np.asarray(array)).long() for name, array in named.items()}


def _adamw(network: torch.nn.Module, settings: OptimizerConfig) -> torch.optim.AdamW:
    """As the Trainer sets it up: no decay on biases and LayerNorm; fused, which is its default."""
    decayed = {name: not name.endswith("bias") and "LayerNorm" not in name for name, _ in network.named_parameters()}
    groups = [
        {"params": [p for name, p in network.named_parameters() if decayed[name] is decay], "weight_decay": rate}
        for decay, rate in ((True, settings.weight_decay), (False, 0.0))
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.epsilon, fused=True)


def _fastest(function: Callable[..., torch.Tensor], kind: str) -> Callable[..., torch.Tensor]:
    return torch.compile(function, dynamic=False) if kind == "tuned" and torch.cuda.is_available() else function


@contextlib.contextmanager
def _attention(kind: str) -> Iterator[None]:
    """cuDNN's attention where it is the fastest, for the tuned peer; else PyTorch's own choice."""
    if kind == "tuned" and torch.cuda.is_available() and torch.cuda.get_device_capability() >= _HOPPER:
        with sdpa_kernel(_ATTENTION, set_priority=True):
            yield
    else:
        yield


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _moved(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _moved(value) for name, value in tree.items()}
    return tree.to(_device(), non_blocking=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
