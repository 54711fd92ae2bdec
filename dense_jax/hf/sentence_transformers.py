"""Reader of sentence-transformers folders: pooling, an affine layer, normalisation, length, prompts and similarity.

Every key that versions 2 to 6 write is either obeyed or refused by name. Nothing in the folder is executed. A plain
Hugging Face folder is read as sentence-transformers reads it.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.errors import ConfigError, require
from dense_jax.hf.config import module_chain, read_config
from dense_jax.hf.known_prompts import known_prompts
from dense_jax.hf.schemas import (
    DenseSettings,
    LengthSettings,
    PoolingSettings,
    SentenceSettings,
    TokenizerFile,
)
from dense_jax.io import Settings, read_json
from dense_jax.models.encoder import Encoder
from dense_jax.models.pooling import Pooling
from dense_jax.types import Similarity

_HOME = "sentence_transformers."  # package of the known modules; the same name elsewhere is custom code
_MODULE_KEYS = {"idx", "name", "path", "type", "kwargs"}  # kwargs: arguments of `encode` that a module takes
_CONFIG = "config_sentence_transformers.json"
_CONFIG_KEYS = {
    "__version__", "requirements", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"
}  # fmt: skip
_SIMILARITY = {"cosine": Similarity.COSINE, "dot": Similarity.DOT, "dot_product": Similarity.DOT}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")

_TRANSFORMER_FILES = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
_ARGUMENTS = [f"{kind}_{end}" for kind in ("model", "tokenizer", "processor", "config") for end in ("args", "kwargs")]
_TRANSFORMER_VALUES: dict[str, tuple[Any, ...]] = {  # the values of each key that can be obeyed; empty: all
    "max_seq_length": (),
    "query_length": (),
    "document_length": (),
    "do_lower_case": (),
    "unpad_inputs": (),  # another way to the same numbers
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    **dict.fromkeys([*_ARGUMENTS, "processing_kwargs", "query_expansion"], ({},)),
}
_OLD_MODES = {  # of versions 2 to 5 -> of version 6
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")
_OUTPUT = ("sentence_embedding",)
_VALUES: dict[str, dict[str, tuple[Any, ...]]] = {  # the same for modules that follow pooling
    "Normalize": {"module_input_name": _OUTPUT, "module_output_name": _OUTPUT},
    "Dropout": {"dropout": ()},  # of training only
}
_TANH = "torch.nn.modules.activation.Tanh"
_DENSE: dict[str, tuple[Any, ...]] = {
    "in_features": (),
    "out_features": (),
    "bias": (),
    "activation_function": (_TANH, "torch.nn.modules.linear.Identity"),
    **_VALUES["Normalize"],
}


@dataclass(frozen=True)
class SentenceFolder:
    """Encoder and settings of a sentence-transformers folder."""

    weights: Path  # the folder of the model and its tokenizer: `folder`, or one in it
    encoder: Encoder
    length: int  # tokens of a passage, special ones included
    query_length: int  # the same of a query
    similarity: Similarity
    query_prompt: str
    passage_prompt: str
    pools_prompt: bool  # a mean includes the tokens of a prompt
    notes: tuple[str, ...]  # defaults that were applied, for the user


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read a sentence-transformers or plain Hugging Face folder.

    A plain folder has mean pooling. With cosine similarity, which is the default, the encoder normalises even if the
    folder has no module for it.

    Raises:
        ConfigError: the model's family is unknown, or a module, a key or a value cannot be obeyed; names it.
        StorageError: a file is missing or damaged.
    """
    modules = _modules(folder)
    weights = folder / modules[0][1]
    settings = _optional(folder / _CONFIG, SentenceSettings)
    _check_model(settings, weights, folder)
    unknown = [f"{folder / _CONFIG}: {key} is unknown, and without effect" for key in settings.keys() - _CONFIG_KEYS]
    bert = read_config(weights)
    pooling, pools_prompt, pooled = _pooling(folder, modules, bert.width)
    similarity, said = _similarity(folder, settings, normalized="Normalize" in (name for name, _ in modules))
    query_length, length, cut = _lengths(weights, bert.longest)
    query_prompt, passage_prompt, defaults = _prompts(settings, folder)
    dense, tanh = _dense(folder, modules, bert.width)
    require(
        pools_prompt or pooling is Pooling.MEAN or not (query_prompt or passage_prompt),
        f"{folder}: include_prompt of its Pooling is false, which only a mean obeys, and pooling is {pooling.value}; "
        "set it to true, or delete the prompts",
    )
    return SentenceFolder(
        weights=weights,
        encoder=Encoder(bert, pooling, normalize=similarity is Similarity.COSINE, dense=dense, dense_tanh=tanh),
        length=length,
        query_length=query_length,
        similarity=similarity,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        pools_prompt=pools_prompt or pooling is not Pooling.MEAN,
        notes=(*unknown, *pooled, *said, *cut, *defaults),
    )


@functools.cache
def print_note(note: str) -> None:
    """Print `note` to standard error, once a process: a config is read again for each of its flags."""
    print(f"note: {note}", file=sys.stderr)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Name and sub-folder of each module: a transformer, pooling, and what leaves the direction of a vector."""
    path, chain = folder / "modules.json", module_chain(folder)
    if not chain:
        return [("Transformer", "")]
    for entry in chain:
        _check_values(path, dict(entry), dict.fromkeys(_MODULE_KEYS, ()))
    names = [entry["type"].rpartition(".")[2] if entry["type"].startswith(_HOME) else entry["type"] for entry in chain]
    first = 3 if names[2:3] == ["Dense"] else 2
    require(
        names[:2] == ["Transformer", "Pooling"] and set(names[first:]) <= _VALUES.keys(),
        f"{path}: the modules are {', '.join(names)}; only Transformer, Pooling, then one Dense, then "
        f"{', '.join(_VALUES)} can be read",
    )
    for name, entry in zip(names[first:], chain[first:], strict=True):
        settings = folder / entry["path"] / "config.json"
        _check_values(settings, _optional(settings, Settings), _VALUES[name])
    return [(name, entry["path"]) for name, entry in zip(names, chain, strict=True)]


def _check_model(settings: dict[str, Any], weights: Path, folder: Path) -> None:
    """Refuse another kind of model, and what changes its vectors after the modules."""
    kind, width = settings.get("model_type", "SentenceTransformer"), settings.get("truncate_dim")
    path = folder / _CONFIG
    require(kind == "SentenceTransformer", f"{path}: model_type is {kind!r}; only 'SentenceTransformer' can be read")
    require(
        width is None,
        f"{path}: truncate_dim is {width!r}, and a folder's vectors are not cut here; delete it, and give "
        f"--embed.width={width} to search by the first numbers of each",
    )
    adapter = weights / "adapter_config.json"
    require(
        not adapter.is_file(), f"{adapter}: adapters cannot be read; merge it into the weights (`merge_and_unload`)"
    )


def _check_values(path: Path, found: dict[str, Any], known: dict[str, tuple[Any, ...]]) -> None:
    """Refuse an unknown key, and a value other than null that cannot be obeyed."""
    unknown = sorted(found.keys() - known.keys())
    require(
        not unknown, f"{path}: {', '.join(unknown)} is unknown, so it cannot be obeyed; delete it if it has no effect"
    )
    for key, value in found.items():
        allowed = known[key]
        require(
            value is None or not allowed or value in allowed,
            f"{path}: {key} is {value!r}; only {' or '.join(map(repr, allowed))} can be obeyed",
        )


def _pooling(folder: Path, modules: list[tuple[str, str]], width: int) -> tuple[Pooling, bool, list[str]]:
    """The mode, whether a prompt is included, and notes."""
    if len(modules) == 1:
        note = (
            f"{folder} has no modules.json, so its vectors are the mean over tokens, as in sentence-transformers; "
            "--objective.encoder.pooling=cls takes the first token's"
        )
        return Pooling.MEAN, True, [note]
    path = folder / modules[1][1] / "config.json"
    raw = read_json(path, PoolingSettings, ConfigError)
    _check_values(
        path, raw, dict.fromkeys([*_OLD_MODES, "pooling_mode", "include_prompt"], ()) | dict.fromkeys(_WIDTHS, (width,))
    )
    modes = raw.get("pooling_mode") or [mode for key, mode in _OLD_MODES.items() if raw.get(key)] or ["mean"]
    modes = [modes.lower()] if isinstance(modes, str) else modes
    require(modes in (["cls"], ["mean"]), f"{path}: pooling is {' and '.join(modes)}; only cls or mean can be read")
    return Pooling(modes[0]), raw.get("include_prompt") is not False, []


def _dense(folder: Path, modules: list[tuple[str, str]], width: int) -> tuple[int, bool]:
    """The width of an affine layer after pooling, and True if tanh follows; 0 without such a layer."""
    place = next((place for name, place in modules if name == "Dense"), None)
    if place is None:
        return 0, False
    path = folder / place / "config.json"
    raw = read_json(path, DenseSettings, ConfigError)
    _check_values(path, dict(raw), _DENSE | {"in_features": (width,)})
    return raw["out_features"], raw["activation_function"] == _TANH


def _similarity(folder: Path, settings: dict[str, Any], normalized: bool) -> tuple[Similarity, list[str]]:
    name = settings.get("similarity_fn_name")
    if name is None:
        note = f"{folder} names no similarity, so vectors have length 1 and are compared by cosine, as in its library"
        return Similarity.COSINE, [] if normalized else [note]
    require(
        name in _SIMILARITY,
        f"{folder / _CONFIG}: similarity_fn_name is {name!r}; only {', '.join(_SIMILARITY)} can be used",
    )
    return (Similarity.COSINE if normalized else _SIMILARITY[name]), []


def _lengths(weights: Path, longest: int) -> tuple[int, int, list[str]]:
    """The maximum lengths of queries and passages; tokenizers without a limit name a huge number."""
    path, raw = _transformer_settings(weights)
    tokenizer = weights / "tokenizer_config.json"
    named = raw.get("max_seq_length") or _optional(tokenizer, LengthSettings).get("model_max_length") or longest
    lengths = [raw.get(key) or named for key in ("query_length", "document_length")]
    too_long = raw.get("max_seq_length") or 0
    note = (
        f"{path}: max_seq_length is {too_long}, but the model has positions for {longest} tokens; longer texts are cut"
    )
    query, passage = (int(min(length, longest)) for length in lengths)
    return query, passage, [note] if too_long > longest else []


def _transformer_settings(weights: Path) -> tuple[Path, dict[str, Any]]:
    """The file that configures the transformer, and its values."""
    paths = [weights / name for name in _TRANSFORMER_FILES]
    path = next((path for path in paths if path.is_file()), paths[0])
    raw = {key: _without_trust(key, value) for key, value in _optional(path, LengthSettings).items()}
    _check_values(path, raw, _TRANSFORMER_VALUES)
    require(
        not raw.get("do_lower_case") or _lowercases(weights),
        f"{path}: do_lower_case is true, but the tokenizer keeps case; give its tokenizer.json the normalizer "
        '{"type": "Lowercase"}, before those that it has, and set do_lower_case to false',
    )
    return path, raw


def _without_trust(key: str, value: Any) -> Any:
    """Arguments without the one that the library never takes from a file."""
    if key not in _ARGUMENTS or not isinstance(value, dict):
        return value
    return {name: argument for name, argument in value.items() if name != "trust_remote_code"}


def _lowercases(weights: Path) -> bool:
    normalizer = _optional(weights / "tokenizer.json", TokenizerFile).get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    if any(part.get("type") == "Lowercase" or part.get("lowercase") for part in parts):
        return True
    return bool(_optional(weights / "tokenizer_config.json", Settings).get("do_lower_case"))


def _prompts(settings: dict[str, Any], folder: Path) -> tuple[str, str, list[str]]:
    """The prompts of queries and of passages, and notes.

    Empty prompts alone name none: the library writes them into every folder.
    """
    if not any((settings.get("prompts") or {}).values()) and (found := known_prompts(folder)):
        name, (query, passage) = found
        note = (
            f"{folder} names no prompts, so those of {name} are taken: {query!r} before queries, {passage!r} before "
            "passages; --objective.query_prompt and --objective.passage_prompt set others"
        )
        return query, passage, [note]
    default, known = settings.get("default_prompt_name"), settings.get("prompts") or {}
    require(
        default is None or default in known,
        f"{folder / _CONFIG}: default_prompt_name is {default!r}, but the prompts are {', '.join(known) or 'empty'}; "
        "name one of them, or null",
    )
    (query, said), (passage, also) = (_prompt(names, settings, folder) for names in (("query",), _PASSAGE_PROMPTS))
    return query, passage, [*said, *also]


def _prompt(names: Sequence[str], settings: dict[str, Any], folder: Path) -> tuple[str, list[str]]:
    """The prompt of the first of `names` that has one, though it be empty; or else the default one, with a note."""
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if named := next((name for name in names if name in prompts), None):
        return prompts[named] or "", []
    if default is None:
        return "", []
    note = (
        f"{folder} has no prompt called {' or '.join(names)}, so {default}, its default, is taken: {prompts[default]!r}"
    )
    return prompts[default] or "", [note]


def _optional(path: Path, kind: Any) -> dict[str, Any]:
    return read_json(path, kind, ConfigError) if path.is_file() else {}
