"""Export of multi-vector encoders (MVR) as a MultiVectorEncoder of sentence-transformers 6, without custom code.

    FOLDER/modules.json router_config.json              routes queries and documents to one transformer each
           query_0_Transformer document_0_Transformer   each with a tokenizer that puts the view tokens before the text
           1_Normalize                                  if vectors have length 1
           2_MultiVectorMask                            keeps the hidden states of the view tokens only

These transformers number positions consecutively. So that all view tokens have position 0, the position table begins
with a copy of its first row for each of them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import AddedToken, processors

from dense_jax.arrays import Float, Params, l2_normalize, np
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import require
from dense_jax.hf import tensors
from dense_jax.hf.config import read_config
from dense_jax.hf.modules import in_float32, read_tokens
from dense_jax.io import read_json, write_json
from dense_jax.models.encoder import Encoder, MultiViewEncoder
from dense_jax.models.transformer import TransformerConfig
from dense_jax.types import Tower, Towers

_QUERY_VIEW = "[VIEQ]"
_MODULES = "sentence_transformers.base.modules."
_TRANSFORMER = f"{_MODULES}transformer.Transformer"
_MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"


@dataclass(frozen=True)
class _Side:
    """One of the two transformers."""

    name: str  # query or document
    tower: Tower
    view_tokens: list[str]

    @property
    def folder(self) -> str:
        return f"{self.name}_0_Transformer"

    @property
    def encoder(self) -> MultiViewEncoder:
        assert isinstance(self.tower.encoder, MultiViewEncoder)
        return self.tower.encoder

    @property
    def bert(self) -> TransformerConfig:
        bert = self.encoder.bert
        require(
            "position" in self.tower.params["bert"],
            f"{type(bert).__name__} with views cannot be exported: view tokens share a position by a copy of its row, "
            "and this family has no table of positions",
        )
        return bert

    @property
    def length(self) -> int:
        """Maximum number of tokens; the view tokens replace one."""
        return self.tower.length + len(self.view_tokens) - 1


def write_multi_vector(towers: Towers, tokenizer: Tokenizer, prompts: dict[str, str], folder: Path) -> None:
    """Write the model; `prompts` has the keys "query" and "document".

    Raises:
        StorageError: the disk is full or refuses.
    """
    views = towers.passage.encoder.views
    sides = [
        _Side("query", towers.query, [_QUERY_VIEW]),
        _Side("document", towers.passage, [f"[VIE{i + 1}]" for i in range(views)]),
    ]
    known = _with_view_tokens(tokenizer, [token for side in sides for token in side.view_tokens])  # one for the mask
    for side in sides:
        _write_side(side, known, tokenizer, folder / side.folder)
    normalized = sides[1].encoder.normalize
    modules = [("", f"{_MODULES}router.Router")]
    modules += [("1_Normalize", f"{_MODULES}normalize.Normalize")] if normalized else []
    modules += [("2_MultiVectorMask", _MASK)]
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    if normalized:
        write_json(folder / "1_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    write_json(folder / "2_MultiVectorMask" / "config.json", _mask(known, sides[1].view_tokens))
    write_json(folder / "router_config.json", _router(sides))
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "6.0.0"},
            "model_type": "MultiVectorEncoder",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "maxsim",
        },
    )


def read_view_vectors(folder: Path, side: str, inputs: Sequence[str | tuple[str, str]]) -> Float[np.ndarray, "b n d"]:
    """Vectors of queries or documents (`side`) computed from the files of `folder` alone."""
    place = folder / f"{side}_0_Transformer"
    encoder = in_float32(Encoder(read_config(place)))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(encoder.init, jax.random.key(0)))
    params, _ = tensors.load_params(blank, place, encoder)
    tokens = read_tokens(place, inputs, read_json(place / "tokenizer_config.json")["model_max_length"])
    hidden = np.asarray(jax.jit(encoder.hidden_states)(params, tokens))
    counted = np.isin(tokens.ids, _counted(folder, side)) & tokens.mask
    vectors = hidden[counted].reshape(len(inputs), -1, hidden.shape[-1])
    return np.asarray(l2_normalize(jnp.asarray(vectors))) if (folder / "1_Normalize").is_dir() else vectors


def _counted(folder: Path, side: str) -> list[int]:
    """Ids of the tokens whose hidden states are the vectors of a query or document."""
    mask = read_json(folder / "2_MultiVectorMask" / "config.json")
    if side == "document":
        return mask["keep_only_token_ids"]
    vocabulary = read_json(folder / f"{side}_0_Transformer" / "tokenizer.json")
    ids = {token["content"]: token["id"] for token in vocabulary["added_tokens"]} | vocabulary["model"]["vocab"]
    return [i for token, i in ids.items() if token not in set(mask["skiplist_words"])]


def _with_view_tokens(tokenizer: Tokenizer, view_tokens: list[str]) -> tokenizers.Tokenizer:
    """Append the view tokens to the vocabulary."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in view_tokens])
    return backend


def _write_side(side: _Side, known: tokenizers.Tokenizer, tokenizer: Tokenizer, folder: Path) -> None:
    vocabulary = tokenizer.vocabulary
    params, config = _opened(side, known)
    tensors.save_params(params, config, folder, pad=vocabulary.pad, ends=(vocabulary.cls, vocabulary.sep))
    backend, separator = tokenizers.Tokenizer.from_str(known.to_str()), tokenizer.special["sep"]
    start, second = " ".join(side.view_tokens), min(1, side.bert.segments - 1)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {separator}",
        pair=f"{start} $A {separator} $B:{second} {separator}:{second}",
        special_tokens=[(token, known.token_to_id(token)) for token in (*side.view_tokens, separator)],
    )
    dataclasses.replace(tokenizer, backend=backend).save(folder, max_length=side.length)
    path = folder / "tokenizer_config.json"
    changes = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # BERT's own puts its [CLS] back
        # else pairs lose their types, or a model without types gets some
        "model_input_names": ["input_ids", *(["token_type_ids"] if side.bert.segments > 1 else []), "attention_mask"],
        "split_special_tokens": True,  # else a text that spells a view token would have one more vector
    }
    write_json(path, read_json(path) | changes)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": side.length, "do_lower_case": False})


def _opened(side: _Side, known: tokenizers.Tokenizer) -> tuple[Params, TransformerConfig]:
    """Parameters and config of the model with the view tokens in its vocabulary, and a position 0 for each of them."""
    bert, params = side.bert, side.tower.params
    count, first = len(side.view_tokens), bert.first_position
    ids = known.get_vocab()
    size = max(bert.vocab_size, max(ids.values()) + 1)
    words, positions = (np.asarray(params["bert"][name]["embedding"]) for name in ("word", "position"))
    words = np.pad(words, ((0, size - len(words)), (0, 0)))
    words[[ids[token] for token in side.view_tokens]] = np.asarray(params["view_tokens"]["embedding"])[:count]
    opened = np.concatenate(
        [positions[:first], np.repeat(positions[first : first + 1], count, axis=0), positions[first + 1 :]]
    )
    changed = {"word": {"embedding": words}, "position": {"embedding": opened}}
    config = dataclasses.replace(bert, vocab_size=size, positions=len(opened))
    return {"bert": {**params["bert"], **changed}}, config


def _mask(known: tokenizers.Tokenizer, view_tokens: list[str]) -> dict[str, Any]:
    """Settings of the mask. For queries it has a skip list only, so all words but the view token are skipped."""
    return {
        "keep_only_token_ids": [known.token_to_id(token) for token in view_tokens],
        "skiplist_words": [word for word in known.get_vocab() if word != _QUERY_VIEW],
        "skiplist_tasks": ["query"],
    }


def _router(sides: list[_Side]) -> dict[str, Any]:
    return {
        "types": {side.folder: _TRANSFORMER for side in sides},
        "structure": {side.name: [side.folder] for side in sides},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
