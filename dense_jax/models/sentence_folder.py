"""A sentence-transformers folder as our encoder: pooling, normalisation, length, prompts and similarity.

The spellings of its versions 2 to 6 are known. Nothing in the folder is executed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.config import require
from dense_jax.contracts import Similarity
from dense_jax.errors import ConfigError
from dense_jax.files import read_json
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import Pooling
from dense_jax.models.hf_config import read_config
from dense_jax.schemas import LengthSettings, Modules, PoolingSettings, SentenceSettings

_POOLING = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}  # versions 2 to 5 -> 6
_SIMILARITY = {"cosine": Similarity.COSINE, "dot": Similarity.DOT, "dot_product": Similarity.DOT}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class SentenceFolder:
    """What a folder says about the use of its model."""

    weights: Path  # the folder that `hf.load` reads
    encoder: Encoder
    length: int  # tokens, special ones included
    similarity: Similarity
    query_prompt: str
    passage_prompt: str


def read_encoder(folder: Path, pooling: Pooling = Pooling.CLS) -> Encoder:
    """The encoder in `folder`; see `read_sentence_folder`."""
    return read_sentence_folder(folder, pooling).encoder


def read_sentence_folder(folder: Path, pooling: Pooling = Pooling.CLS) -> SentenceFolder:
    """What a sentence-transformers or plain Hugging Face folder says.

    A plain folder does not say how to pool: `pooling` does (sentence-transformers would take the mean). Where cosine
    is the named similarity, the encoder normalises, whether the folder has a module for it or not.

    Raises:
        ConfigError: the model is of none of our families, or a module stands in it that is not known here.
        StorageError: a file is missing or damaged.
    """
    modules = _modules(folder)
    weights = folder / modules["Transformer"]
    if "Pooling" in modules:
        pooling = _pooling(folder / modules["Pooling"] / "config.json")
    settings = _optional(folder / "config_sentence_transformers.json", SentenceSettings)
    similarity = _similarity(folder, settings.get("similarity_fn_name"), normalized="Normalize" in modules)
    bert = read_config(weights)
    return SentenceFolder(
        weights=weights,
        encoder=Encoder(bert, pooling, normalize=similarity is Similarity.COSINE),
        length=_length(weights, bert.longest),
        similarity=similarity,
        query_prompt=_prompt(settings, ("query",)),
        passage_prompt=_prompt(settings, _PASSAGE_PROMPTS),
    )


def _modules(folder: Path) -> dict[str, str]:
    """Name of each module -> its sub-folder."""
    path = folder / "modules.json"
    if not path.is_file():
        return {"Transformer": ""}
    found = {module["type"].rpartition(".")[2]: module["path"] for module in read_json(path, Modules, ConfigError)}
    chains = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    require(
        list(found) in chains,
        f"{path}: the modules are {', '.join(found)}; only {' or '.join(', '.join(c) for c in chains)} can be read",
    )
    return found


def _pooling(path: Path) -> Pooling:
    raw = read_json(path, PoolingSettings, ConfigError)
    old = [_POOLING.get(key, key) for key, on in raw.items() if key.startswith("pooling_mode_") and on]
    modes = [raw["pooling_mode"]] if "pooling_mode" in raw else old
    require(modes in (["cls"], ["mean"]), f"{path}: pooling is {modes}; only cls or mean can be read")
    return Pooling(modes[0])


def _similarity(folder: Path, name: str | None, normalized: bool) -> Similarity:
    if normalized or name is None:
        return Similarity.COSINE if normalized else Similarity.DOT
    require(name in _SIMILARITY, f"{folder}: similarity is {name!r}; only {', '.join(_SIMILARITY)} can be used")
    return _SIMILARITY[name]


def _length(folder: Path, longest: int) -> int:
    """The maximum length, of whichever file names it; tokenizers without a limit name a huge number."""
    named = _optional(folder / "sentence_bert_config.json", LengthSettings).get("max_seq_length")
    named = named or _optional(folder / "tokenizer_config.json", LengthSettings).get("model_max_length")
    return min(named or longest, longest)


def _prompt(settings: dict[str, Any], names: tuple[str, ...]) -> str:
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    return next((prompts[name] for name in (*names, default) if prompts.get(name)), "")


def _optional(path: Path, kind: Any) -> dict[str, Any]:
    return read_json(path, kind, ConfigError) if path.is_file() else {}
