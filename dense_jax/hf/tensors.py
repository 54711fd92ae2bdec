"""Hugging Face's weights of a model family, read and written by the family's table of names for all objectives.

The table (families.py) covers the subtrees "bert", "pooler", "mlm", "condenser" and "decoder", wherever a parameter
tree has them.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from dense_jax.arrays import Array, Params, np
from dense_jax.errors import ConfigError, StorageError
from dense_jax.hf.config import check_architecture, config_json, module_folder, transformer_folder
from dense_jax.hf.families import HEAD, ModelFamily, family_of
from dense_jax.hf.schemas import WeightIndex
from dense_jax.io import check_no_pointer, digest, read_json, whole_file, write_json
from dense_jax.models.transformer import TransformerConfig

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_HEAD_FILE = "head.safetensors"  # heads of pre-training that their authors publish as a file of their own
_PICKLED_HEAD = "model.pt"
_DENSE_KERNEL, _DENSE_BIAS = "linear.weight", "linear.bias"  # of the module Dense
_FLOATS = ("F32", "F16", "BF16", "F64")  # types of weights, as safetensors names them


@dataclass(frozen=True)
class LoadReport:
    """Report on each array: loaded, padded, initialised or ignored; `str` formats it."""

    folder: Path
    loaded: list[str]  # our paths
    padded: dict[str, int]  # our path -> number of vocabulary rows that the folder lacks
    initialised: list[str]  # our paths, left unchanged
    ignored: list[str]  # their names, or files

    def __str__(self) -> str:
        lines = [f"{self.folder}: {len(self.loaded)} arrays loaded", *_folded(self.loaded)]
        lines += [f"  in {path} the last {rows} rows are newly initialised" for path, rows in self.padded.items()]
        for label, names in (("newly initialised", self.initialised), ("ignored, of the folder", self.ignored)):
            lines += [f"{len(names)} {label}", *_folded(names)] if names else []
        return "\n".join(lines)


def load_params(params: Params, folder: Path, objective: Any) -> tuple[Params, LoadReport]:
    """Fill `params`, those of `objective`, from the weights in `folder`; return them with a report.

    Every transformer in `objective` must describe the folder's model. A subtree is filled completely or, if the folder
    has none of it and it is not "bert", left unchanged. So are the last rows of a vocabulary larger than the folder's.

    Raises:
        ConfigError: the folder's model family is unknown, or differs from the config; lists the flags to change.
        StorageError: weights are missing, pickled, damaged, of another shape, or have an untied vocabulary matrix.
    """
    place, folder = folder, transformer_folder(folder)
    family = family_of(check_architecture(objective, folder))[1]
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    ours = {_name(path): leaf for path, leaf in leaves}
    dense = _read_affine(place)
    wanted = {path: name for path in ours if (name := family.tensor_name(path) or _dense_name(path, dense))}
    head = _read_head(folder, family) if any(name.startswith(HEAD) for name in wanted.values()) else {}
    tensors = dense | head | read_family_tensors(folder, family)
    _check_complete(wanted, tensors, folder, family)
    if any(name.startswith(family.mlm) for name in wanted.values()):
        _check_tied(tensors, folder, family)
    loaded = {path: name for path, name in wanted.items() if name in tensors}
    by_vocabulary = {path: name in family.by_vocabulary for path, name in loaded.items()}
    filled = {
        path: _filled(ours[path], path, tensors[name], name, folder, by_vocabulary[path])
        for path, name in loaded.items()
    }
    new_rows = {path: ours[path].shape[0] - tensors[name].shape[0] for path, name in loaded.items()}
    report = LoadReport(
        folder=folder,
        loaded=list(loaded),
        padded={path: new_rows[path] for path in loaded if by_vocabulary[path] and new_rows[path]},
        initialised=[path for path in ours if path not in loaded],
        ignored=sorted(tensors.keys() - set(loaded.values())) + _unread_tensors(folder, bool(head)),
    )
    return jax.tree.unflatten(tree, [filled.get(path, leaf) for path, leaf in ours.items()]), report


def save_params(
    params: Params, config: TransformerConfig, folder: Path, pad: int, ends: tuple[int, int] | None = None
) -> None:
    """Write config.json and model.safetensors for the top-level subtrees "bert", "pooler" and "mlm" of `params`.

    `pad` and `ends` are the ids of [PAD], and of [CLS] and [SEP]. The file is read back and compared.

    Raises:
        StorageError: the disk is full or refuses, or the file differs when read back.
    """
    family, has_head = family_of(config)[1], "mlm" in params
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = family.tensor_name(_name(path))
        if name is None:
            raise StorageError(f"{_name(path)} has no counterpart in a Hugging Face {family.title}")
        tensors[family.name_with_head(name) if has_head else name] = _turned(_name(path), np.asarray(leaf))
    kind = "ForMaskedLM" if has_head else "Model"
    write_json(folder / "config.json", config_json(config, family.title + kind, pad, ends))
    write_tensors(family.join(tensors), folder / WEIGHTS)


def read_family_tensors(folder: Path, family: ModelFamily) -> dict[str, np.ndarray]:
    """Read all tensors of model.safetensors, or of its shards, under the names of `family` in a model without a head.

    Raises:
        StorageError: the file is missing, damaged, a pointer of Git LFS, quantized, or holds several encoders.
    """
    named = read_tensors(folder)
    wrapper = _wrapper(named, folder, family)
    return family.split({family.modern_name(name.removeprefix(wrapper)): tensor for name, tensor in named.items()})


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Read all tensors of model.safetensors, or of its shards, under the names in the files.

    Raises:
        StorageError: a file is missing, damaged, a pointer of Git LFS, or quantized.
    """
    return {name: tensor for path in _weight_files(folder) for name, tensor in _read(path).items()}


def _read_head(folder: Path, family: ModelFamily) -> dict[str, np.ndarray]:
    """Read the tensors of head.safetensors, if it holds a pre-training head."""
    found = _read(folder / _HEAD_FILE) if (folder / _HEAD_FILE).is_file() else {}
    tensors = {family.modern_name(name): tensor for name, tensor in found.items()}
    return tensors if any(name.startswith(HEAD) for name in tensors) else {}


def _read_affine(folder: Path) -> dict[str, np.ndarray]:
    """Read the affine layer of a sentence-transformers folder, with a bias of 0 where it has none; {} without one."""
    place = module_folder(folder, "Dense")
    if place is None:
        return {}
    tensors = read_tensors(place)
    return {_DENSE_BIAS: np.zeros(len(tensors[_DENSE_KERNEL]), np.float32)} | tensors


def _dense_name(path: str, tensors: Mapping[str, np.ndarray]) -> str | None:
    found = re.search(r"(?:^|/)(?:encoder|query|passage)/dense/(kernel|bias)$", path)
    name = {"kernel": _DENSE_KERNEL, "bias": _DENSE_BIAS}[found[1]] if found else None
    return name if name in tensors else None


def weights_fingerprint(folder: Path) -> str:
    """Digest of the weights in `folder`, independent of its path.

    Raises:
        StorageError: the folder holds no weights.
    """
    places = [transformer_folder(folder), module_folder(folder, "Dense")]
    return "".join(digest(path) for place in places if place for path in _weight_files(place))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "np") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  it is no mapping
        _check_types(types, path)
        return load_file(path)
    except FileNotFoundError:
        raise StorageError(
            f"{path}: no such file, but {_INDEX} names it; fetch it, or the whole folder again"
        ) from None
    except SafetensorError as error:
        check_no_pointer(path)
        raise StorageError(f"{path}: damaged ({error})") from None
    except AttributeError as error:  # of numpy, which lacks the type of a tensor
        raise ConfigError(
            f"{path}: holds numbers of a type that cannot be read ({error}); save the model in F32, F16, BF16 or F64"
        ) from None


def _check_types(types: Mapping[str, str], path: Path) -> None:
    quantized = [name for name, kind in types.items() if name.endswith(".weight") and kind not in _FLOATS]
    if quantized:
        raise StorageError(
            f"{path}: {quantized[0]} has the type {types[quantized[0]]}; quantized weights cannot be read, so take the "
            f"model in one of {', '.join(_FLOATS)}"
        )


def _wrapper(names: Iterable[str], folder: Path, family: ModelFamily) -> str:
    """Common prefix of the names of a model that was saved as part of another one, such as "0.auto_model."."""
    prefixes = sorted(name.removesuffix(family.words) for name in names if name.endswith(family.words))
    if len(prefixes) > 1:
        raise StorageError(
            f"{folder}: holds {len(prefixes)} encoders, {' and '.join(map(repr, prefixes))}; save the one to start "
            "from in a folder of its own"
        )
    for base in (family.base, *family.bases):
        prefixes = [prefix.removesuffix(base) for prefix in prefixes]
    return prefixes[0] if prefixes else ""


def write_tensors(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a safetensors file for PyTorch atomically, read it back and compare.

    Raises:
        StorageError: the disk is full or refuses, or the file differs when read back.
    """
    # safetensors 0.8 ignores strides: it writes the memory of a transposed array, which is another array.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        try:
            save_file(tensors, partial, metadata={"format": "pt"})
        except SafetensorError as error:
            raise StorageError(f"{path}: could not be written ({error})") from error
    written = load_file(path)
    changed = [name for name, tensor in tensors.items() if not np.array_equal(written[name], tensor)]
    if changed:
        raise StorageError(f"{path}: reading it back gives other values for {', '.join(changed)}")


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / _INDEX).is_file():
        names = sorted(set(read_json(folder / _INDEX, WeightIndex, ConfigError)["weight_map"].values()))
        return [folder / Path(name).name for name in names]  # never outside the folder
    if pickles := [folder / name for name in _PICKLES if (folder / name).is_file()]:
        check_no_pointer(pickles[0])
        raise StorageError(
            f"{folder} holds pickled weights only, and unpickling runs whatever code is in them; if you trust them, "
            f"convert them where PyTorch is installed:\n{_conversion(folder)}"
        )
    raise StorageError(f"{folder} holds no {WEIGHTS}")


def _unread_tensors(folder: Path, has_head: bool) -> list[str]:
    """Weight files that were not read, with a command that converts a pickled head."""
    read = {*_weight_files(folder), *([folder / _HEAD_FILE] if has_head else [])}
    unread = [path.name for path in sorted(folder.glob("*.safetensors")) if path not in read]
    if (folder / _PICKLED_HEAD).is_file():
        unread.append(f"{_PICKLED_HEAD}, a pickle; to use it: {_conversion(folder, _PICKLED_HEAD, _HEAD_FILE)}")
    return unread


def _conversion(folder: Path, pickles: str = "pytorch_model*.bin", target: str = WEIGHTS) -> str:
    place, pattern, to = (json.dumps(str(x), ensure_ascii=False) for x in (folder, pickles, folder / target))
    program = (
        "import pathlib, torch, safetensors.torch as s; w = {}; "
        f'[w.update(torch.load(f, "cpu", weights_only=True)) for f in pathlib.Path({place}).glob({pattern})]; '
        f's.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, {to}, {{"format": "pt"}})'
    )
    return f"python -c {shlex.quote(program)}"


def _check_complete(
    wanted: Mapping[str, str], tensors: Mapping[str, np.ndarray], folder: Path, family: ModelFamily
) -> None:
    """Check that the encoder is complete, and that every other part is complete or absent."""
    if not wanted:
        raise StorageError(f"{folder}: nothing in it belongs to the objective's parameters, which hold no encoder")
    parts = {name: _part(name, family) for name in wanted.values()}
    for part in sorted(set(parts.values()), key=lambda part: part != "encoder"):
        names = {name for name in parts if parts[name] == part}
        missing = sorted(names - tensors.keys())
        if missing and (part == "encoder" or len(missing) < len(names)):
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise StorageError(f"{folder}: its {part} lacks {shown}")


def _part(name: str, family: ModelFamily) -> str:
    if name.startswith(family.mlm):
        return "masked-LM head"
    others = {"linear.": "Dense module", "pooler.": "pooler", HEAD: "Condenser head or decoder"}
    return next((part for start, part in others.items() if name.startswith(start)), "encoder")


def _check_tied(tensors: Mapping[str, np.ndarray], folder: Path, family: ModelFamily) -> None:
    untied, words = family.untied, family.words
    if untied in tensors and not np.array_equal(tensors[untied], tensors[words]):
        raise StorageError(
            f"{folder}: {untied} is not {words}, but the masked-LM head here uses the word embeddings; "
            "start from a model whose vocabulary matrix is tied, or train an objective without a masked-LM head"
        )


def _filled(leaf: Array, path: str, tensor: np.ndarray, name: str, folder: Path, by_vocabulary: bool) -> Array:
    """Return `tensor` with the type of `leaf`, and with its last rows if our vocabulary has more."""
    tensor = _turned(path, tensor)
    if by_vocabulary and leaf.shape[0] > tensor.shape[0] and leaf.shape[1:] == tensor.shape[1:]:
        return jnp.asarray(leaf).at[: len(tensor)].set(tensor)
    if leaf.shape != tensor.shape:
        raise StorageError(f"{folder}: {name} has shape {tensor.shape}, but {path} has {leaf.shape}")
    return jnp.asarray(tensor, leaf.dtype)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _turned(path: str, array: np.ndarray) -> np.ndarray:
    """Transpose a kernel: [in, out] here, [out, in] in PyTorch."""
    return array.T if path.endswith("/kernel") else array


def _folded(names: Iterable[str]) -> list[str]:
    """Lines for names, with one line for the same name in all layers."""
    counts = Counter(re.sub(r"layer([_.])\d+", r"layer\1*", name) for name in names)
    return [f"  {name}{f'  x {n}' if n > 1 else ''}" for name, n in counts.items()]
