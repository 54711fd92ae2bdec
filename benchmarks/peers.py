"""The same models and training steps in PyTorch, from the same weights, to compare with.

default   what transformers' Trainer does: the model's own loss over all positions, fused AdamW, clipping
tuned     the same result as fast as PyTorch's own means allow: scores at the masked positions only, no attention mask
          (all rows are full); on NVIDIA GPUs torch.compile, and from Hopper on cuDNN's attention first
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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
    loss: Callable[[Any, Any], torch.Tensor]


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


def masked_lm(folder: Path, batches: Sequence[Batch], kind: str) -> Training:
    """Masked language modelling by the model in `folder`."""
    network = transformers.BertForMaskedLM.from_pretrained(folder)
    if kind == "tuned":
        return Training(network, [_at_masked(batch) for batch in batches], _loss_at_masked)
    return Training(network, [_everywhere(batch) for batch in batches], lambda model, batch: model(**batch).loss)


def dual_encoder(folder: Path, batches: Sequence[Batch], kind: str) -> Training:
    """In-batch softmax over the cosines of mean-pooled queries and passages, one encoder for both."""

    def loss(network: Any, batch: dict[str, Tensors]) -> torch.Tensor:
        queries, passages = (_vectors(network, batch[side]) for side in ("query", "passage"))
        with torch.autocast(queries.device.type, enabled=False):
            scores = queries @ passages.T / tasks.TEMPERATURE
            return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    sides = [{side: _inputs(batch[side], kind) for side in ("query", "passage")} for batch in batches]
    return Training(_bert(folder), sides, loss)


TRAININGS = {"mlm": masked_lm, "ict": dual_encoder}


def trainer(training: Training, kind: str, settings: OptimizerConfig, dtype: str) -> Program:
    """Steps of `training`, computing in `dtype` over float32 weights."""
    network, batches = training.network.to(_device()).train(), [_moved(batch) for batch in training.batches]
    adamw, loss = _adamw(network, settings), _fastest(training.loss, kind)

    def step(i: int) -> torch.Tensor:
        adamw.zero_grad(set_to_none=True)
        with _attention(kind), torch.autocast(_device().type, torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss(network, batches[i % len(batches)])
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


def _bert(folder: Path) -> Any:
    return transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)


def _vectors(network: Any, inputs: Tensors) -> torch.Tensor:
    hidden = network(**inputs).last_hidden_state.float()
    if "attention_mask" not in inputs:
        return F.normalize(hidden.mean(1), dim=-1)
    real = inputs["attention_mask"][..., None].float()
    return F.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)


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
    return torch.compile(function) if kind == "tuned" and torch.cuda.is_available() else function


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
