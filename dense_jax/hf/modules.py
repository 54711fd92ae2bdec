"""sentence-transformers modules of an encoder: written, read back and applied, in the format of versions 3, 5 and 6.

Only modules that all these versions have are used: pooling, affine layers and normalisation to length 1. Layer
normalisation is expressed by affine layers around a normalisation (`_layer_norm`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from dense_jax.arrays import Bool, Float, Params, np
from dense_jax.errors import StorageError
from dense_jax.hf.schemas import DenseSettings, Modules, PoolingSettings
from dense_jax.hf.tensors import WEIGHTS, read_tensors, write_tensors
from dense_jax.io import read_json, write_json
from dense_jax.models.attention import Attention
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype
from dense_jax.models.pooling import PROJECTION_EPSILON, Pooling
from dense_jax.types import Tokens

_HOME = "sentence_transformers.models."  # version 6 has another package for them, unknown to versions 3 and 5
_TANH, _IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
_OTHER_POOLING = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def in_float32(encoder: Any) -> Any:
    """Return `encoder` with float32 computation and the plain attention kernel, for vectors that are compared."""
    bert = replace(encoder.bert, dtype=Dtype.FLOAT32, attention=Attention.XLA)
    return replace(encoder, bert=bert)


@dataclass(frozen=True)
class PoolingModule:
    """Pooling of hidden states to one vector."""

    pooling: Pooling  # CLS or MEAN
    width: int
    include_prompt: bool = True  # the mean includes the prompt's tokens


@dataclass(frozen=True)
class DenseModule:
    """Affine layer x kernel + bias, optionally followed by tanh."""

    kernel: Float[np.ndarray, "i o"]
    bias: Float[np.ndarray, " o"]
    tanh: bool = False


@dataclass(frozen=True)
class NormalizeModule:
    """Normalisation x / |x|."""


Module = PoolingModule | DenseModule | NormalizeModule
_NAMES = {PoolingModule: "Pooling", DenseModule: "Dense", NormalizeModule: "Normalize"}


def encoder_modules(encoder: Encoder, params: Params, pools_prompt: bool = True) -> list[Module]:
    """Return the modules after the transformer of `encoder`."""
    first = encoder.pooling in (Pooling.CLS, Pooling.POOLER)
    modules: list[Module] = [PoolingModule(Pooling.CLS if first else Pooling.MEAN, encoder.bert.width, pools_prompt)]
    if encoder.pooling is Pooling.POOLER:
        modules.append(DenseModule(*_affine(params["pooler"]["dense"]), tanh=True))
    if encoder.dense:
        modules.append(DenseModule(*_affine(params["dense"]), tanh=encoder.dense_tanh))
    if encoder.projection:
        modules += _layer_norm(*_affine(params["projection"]["dense"]), params["projection"]["norm"])
    return [*modules, NormalizeModule()] if encoder.normalize else modules


def apply_modules(
    modules: Sequence[Module], hidden: Float[np.ndarray, "b l d"], mask: Bool[np.ndarray, "b l"], prompt: int = 0
) -> Float[np.ndarray, "b w"]:
    """Apply modules to hidden states, of which the first `prompt` belong to the prompt, and return vectors."""
    vectors = hidden[:, 0]  # CLS pooling
    for module in modules:
        if isinstance(module, PoolingModule) and module.pooling is Pooling.MEAN:
            kept = mask & (np.arange(mask.shape[1])[None] >= (0 if module.include_prompt else prompt))
            vectors = np.einsum("bld,bl->bd", hidden, kept) / np.maximum(kept.sum(1, keepdims=True), 1)
        elif isinstance(module, DenseModule):
            vectors = vectors @ module.kernel + module.bias[None]
            vectors = np.tanh(vectors) if module.tanh else vectors
        elif isinstance(module, NormalizeModule):
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors


def write_modules(modules: Sequence[Module], folder: Path) -> None:
    """Write modules.json and a sub-folder for each module that has settings.

    Raises:
        StorageError: the disk is full or refuses.
    """
    named = [(f"{i}_{_NAMES[type(module)]}", module) for i, module in enumerate(modules, start=1)]
    chain = [("", "Transformer"), *((path, _NAMES[type(module)]) for path, module in named)]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": _HOME + name} for i, (path, name) in enumerate(chain)],
    )
    for path, module in named:
        if isinstance(module, PoolingModule):
            write_json(folder / path / "config.json", _pooling_json(module))
        elif isinstance(module, DenseModule):
            write_json(folder / path / "config.json", _dense_json(module))
            write_tensors({"linear.weight": module.kernel.T, "linear.bias": module.bias}, folder / path / WEIGHTS)


def read_modules(folder: Path) -> list[Module]:
    """Read the modules that `write_modules` wrote.

    Raises:
        StorageError: a file is missing or damaged.
    """
    readers = {"Pooling": _read_pool, "Dense": _read_dense, "Normalize": lambda path: NormalizeModule()}
    chain = read_json(folder / "modules.json", Modules)[1:]
    return [readers[entry["type"].removeprefix(_HOME)](folder / entry["path"]) for entry in chain]


def read_tokens(folder: Path, inputs: Sequence[str | tuple[str, str]], length: int) -> Tokens:
    """Tokenize texts, or pairs of texts, to `length` tokens each with the exported tokenizer.json alone."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=read_json(folder / "config.json")["pad_token_id"])
    found = backend.encode_batch(list(inputs))
    ids, types = (np.array([getattr(x, name) for x in found], np.int32) for name in ("ids", "type_ids"))
    return Tokens(ids, types, np.array([x.attention_mask for x in found]) == 1)


def _layer_norm(kernel: np.ndarray, bias: np.ndarray, norm: Params) -> list[Module]:
    """Modules for gain * (y - mean(y)) / sqrt(var(y) + epsilon) + shift, where y = x kernel + bias has w dimensions.

    The first layer is linear and subtracts the mean. It appends the constant sqrt(w epsilon), so that its output has
    length sqrt(w (var + epsilon)). Normalisation divides by that, and the second layer multiplies by sqrt(w) gain.
    """
    width = len(bias)
    constant = np.sqrt(width * PROJECTION_EPSILON)
    centred = np.pad(kernel - kernel.mean(1, keepdims=True), ((0, 0), (0, 1)))
    gain = np.sqrt(width) * np.pad(np.diag(np.asarray(norm["scale"])), ((0, 1), (0, 0)))
    return [
        DenseModule(centred.astype(np.float32), np.append(bias - bias.mean(), constant).astype(np.float32)),
        NormalizeModule(),
        DenseModule(gain.astype(np.float32), np.asarray(norm["bias"], np.float32)),
    ]


def _affine(params: Params) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(params["kernel"], np.float32), np.asarray(params["bias"], np.float32)


def _pooling_json(module: PoolingModule) -> dict[str, Any]:
    return {
        "word_embedding_dimension": module.width,
        "pooling_mode_cls_token": module.pooling is Pooling.CLS,
        "pooling_mode_mean_tokens": module.pooling is Pooling.MEAN,
        **{f"pooling_mode_{name}": False for name in _OTHER_POOLING},
        "include_prompt": module.include_prompt,
    }


def _dense_json(module: DenseModule) -> dict[str, Any]:
    inputs, outputs = module.kernel.shape
    activation = _TANH if module.tanh else _IDENTITY
    return {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation}


def _read_pool(path: Path) -> PoolingModule:
    raw = read_json(path / "config.json", PoolingSettings)
    pooling = Pooling.CLS if raw["pooling_mode_cls_token"] else Pooling.MEAN
    return PoolingModule(pooling, raw["word_embedding_dimension"], raw["include_prompt"])


def _read_dense(path: Path) -> DenseModule:
    raw, tensors = read_json(path / "config.json", DenseSettings), read_tensors(path)
    kernel, bias = tensors["linear.weight"].T, tensors["linear.bias"]
    if kernel.shape != (raw["in_features"], raw["out_features"]):
        raise StorageError(f"{path}: config.json and {WEIGHTS} disagree on the shape")
    return DenseModule(kernel, bias, tanh=raw["activation_function"] == _TANH)
