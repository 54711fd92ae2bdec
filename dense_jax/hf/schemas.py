"""Shapes of the JSON files of model folders of Hugging Face and sentence-transformers.

Keys that a type does not name are allowed. A null stands for a missing key.
"""

from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic takes that of typing from Python 3.12 on
)

from pydantic import Field
from typing_extensions import TypedDict

from dense_jax.io import Count, Settings, Size


class ModelKind(TypedDict):
    """The keys of a model's config.json that tokenizers depend on."""

    model_type: NotRequired[str | None]
    tokenizer_class: NotRequired[str | None]


_Layers = Annotated[int, Field(ge=1, le=1_000)]
_Rate = Annotated[float, Field(ge=0, lt=1)]
_Epsilon = Annotated[float, Field(gt=0, lt=1)]
_RotaryBase = Annotated[float, Field(gt=0)]


class ModelConfig(TypedDict):
    """config.json of a model; the later keys are those of DistilBERT, ModernBERT and nomic_bert."""

    model_type: NotRequired[str | None]
    hidden_act: NotRequired[str | None]
    position_embedding_type: NotRequired[str | None]
    num_hidden_layers: NotRequired[_Layers | None]
    hidden_size: NotRequired[Size | None]
    num_attention_heads: NotRequired[Size | None]
    intermediate_size: NotRequired[Size | None]
    vocab_size: NotRequired[Size | None]
    max_position_embeddings: NotRequired[Size | None]
    type_vocab_size: NotRequired[Size | None]
    pad_token_id: NotRequired[Count | None]
    hidden_dropout_prob: NotRequired[_Rate | None]
    attention_probs_dropout_prob: NotRequired[_Rate | None]
    layer_norm_eps: NotRequired[_Epsilon | None]
    initializer_range: NotRequired[Annotated[float, Field(ge=0, le=100)] | None]
    n_layers: NotRequired[_Layers | None]
    dim: NotRequired[Size | None]
    n_heads: NotRequired[Size | None]
    hidden_dim: NotRequired[Size | None]
    dropout: NotRequired[_Rate | None]
    attention_dropout: NotRequired[_Rate | None]
    activation: NotRequired[str | None]
    hidden_activation: NotRequired[str | None]
    mlp_dropout: NotRequired[_Rate | None]
    norm_eps: NotRequired[_Epsilon | None]
    local_attention: NotRequired[Size | None]
    layer_types: NotRequired[list[str] | None]
    global_attn_every_n_layers: NotRequired[Size | None]
    global_rope_theta: NotRequired[_RotaryBase | None]
    local_rope_theta: NotRequired[_RotaryBase | None]
    rope_parameters: NotRequired[dict[str, Any] | None]
    n_layer: NotRequired[_Layers | None]
    n_embd: NotRequired[Size | None]
    n_head: NotRequired[Size | None]
    n_inner: NotRequired[Size | None]
    n_positions: NotRequired[Size | None]
    max_trained_positions: NotRequired[Size | None]
    resid_pdrop: NotRequired[_Rate | None]
    attn_pdrop: NotRequired[_Rate | None]
    layer_norm_epsilon: NotRequired[_Epsilon | None]
    rotary_emb_base: NotRequired[_RotaryBase | None]


PieceId = Annotated[int, Field(ge=0, lt=1 << 24)]  # every id up to the largest has a row in memory
PieceIds = dict[str, PieceId]
"""vocab.json or added_tokens.json."""


class _TokenizerModel(TypedDict):
    vocab: NotRequired[PieceIds | list[Any]]


class _Normalizer(TypedDict):
    normalizers: NotRequired[list[Settings]]


class _AddedToken(TypedDict):
    id: PieceId


class TokenizerFile(TypedDict):
    """tokenizer.json."""

    model: _TokenizerModel
    normalizer: NotRequired[_Normalizer | None]
    added_tokens: NotRequired[list[_AddedToken] | None]


class Module(TypedDict):
    """One entry of modules.json."""

    type: str
    path: str


Modules = Annotated[list[Module], Field(min_length=1)]
"""modules.json."""


class SentenceSettings(TypedDict):
    """config_sentence_transformers.json."""

    prompts: NotRequired[dict[str, str | None] | None]
    default_prompt_name: NotRequired[str | None]
    similarity_fn_name: NotRequired[str | None]


class LengthSettings(TypedDict):
    """sentence_bert_config.json, or tokenizer_config.json."""

    max_seq_length: NotRequired[Annotated[int, Field(ge=1)] | None]
    query_length: NotRequired[Annotated[int, Field(ge=1)] | None]
    document_length: NotRequired[Annotated[int, Field(ge=1)] | None]
    model_max_length: NotRequired[Annotated[int | float, Field(ge=1)] | None]


class PoolingSettings(TypedDict):
    """config.json of a pooling module."""

    word_embedding_dimension: NotRequired[Size | None]
    pooling_mode: NotRequired[str | list[str] | None]
    include_prompt: NotRequired[bool | None]


class DenseSettings(TypedDict):
    """config.json of an affine layer."""

    in_features: Size
    out_features: Size
    bias: NotRequired[bool]
    activation_function: str


class WeightIndex(TypedDict):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]
