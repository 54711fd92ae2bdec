"""Hugging Face's files of each model family that can be read: the keys of config.json and the names of arrays.

FAMILIES is the one table. The name of an array in it is that in a model without a head; `*` is the number of a layer.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dense_jax.arrays import np
from dense_jax.errors import require
from dense_jax.models import bert, distilbert, modernbert, nomic_bert
from dense_jax.models.layers import Gelu
from dense_jax.models.transformer import TransformerConfig

Raw = Mapping[str, Any]  # the contents of config.json, without null values
Tensors = dict[str, np.ndarray]  # arrays by their names

HEAD = "c_head."  # start of the names of Condenser's head and of RetroMAE's decoder
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}  # a kernel is transposed


@dataclass(frozen=True)
class ModelFamily:
    """The files of a model family, as transformers writes them."""

    config: type[TransformerConfig]
    title: str  # of its classes in transformers, such as Bert in BertForMaskedLM
    keys: Mapping[str, tuple[str, ...]]  # our setting -> its keys in config.json, the first of which is written
    defaults: Mapping[str, Any]  # settings of files that leave them out
    required: Mapping[str, tuple[Any, ...]]  # key -> the values that can be read
    modules: Mapping[str, str]  # our module -> theirs
    base: str  # before the names of the encoder's arrays in a model with a head
    mlm: tuple[str, ...]  # starts of the names of the masked-LM head
    untied: str  # matrix of the masked-LM head, which must be the word embeddings
    activation: str = ""  # key of the form of GELU
    settings: Mapping[str, Any] = field(default_factory=dict)  # those of `config` that the family implies
    read: Callable[[Raw], dict[str, Any]] = lambda raw: {}  # settings that are not a key each
    write: Callable[[Any], dict[str, Any]] = lambda config: {}  # the keys of these settings
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # module -> the modules stacked in it
    with_head: Mapping[str, str] = field(default_factory=dict)  # start of a name of the head -> the one that is written
    spellings: tuple[tuple[str, str], ...] = ()  # pattern of other spellings, and its replacement
    bases: tuple[str, ...] = ()  # other spellings of `base`

    @property
    def words(self) -> str:
        """Name of the word embeddings."""
        return f"{self.modules['bert/word']}.weight"

    @property
    def by_vocabulary(self) -> tuple[str, str]:
        """Names of the arrays whose first axis is the vocabulary, which may be padded here."""
        return self.words, f"{self.modules['mlm']}.bias"

    def tensor_name(self, path: str) -> str | None:
        """Name of the array at our `path`; None without a counterpart.

        >>> FAMILIES["bert"].tensor_name("encoder/bert/layer_3/up/kernel")
        'encoder.layer.3.intermediate.dense.weight'
        """
        found = re.search(r"(?:^|/)((?:bert|pooler|mlm|condenser|decoder)(?:/.*)?)/(\w+)$", path)
        if not found:
            return None
        module, leaf = found.groups()
        number = "".join(re.findall(r"/layer_(\d+)/", module))
        theirs = self.modules.get(re.sub(r"/layer_\d+/", "/layer_*/", module))
        return f"{theirs.replace('*', number)}.{_LEAVES[leaf]}" if theirs else None

    def modern_name(self, name: str) -> str:
        """`name` in its current spelling, without what stands before it in a model with a head."""
        bases = "|".join(map(re.escape, (self.base, *self.bases)))
        name = re.sub(rf"^(lm\.)?({bases})?", "", name)
        for start, written in self.with_head.items():
            name = start + name.removeprefix(written) if name.startswith(written) else name
        for pattern, replacement in self.spellings:
            name = re.sub(pattern, replacement, name)
        return name

    def name_with_head(self, name: str) -> str:
        """`name` as a model with a head writes it."""
        if not name.startswith(self.mlm):
            return self.base + name
        start = next((start for start in self.with_head if name.startswith(start)), "")
        return self.with_head.get(start, "") + name.removeprefix(start)

    def split(self, tensors: Tensors) -> Tensors:
        """`tensors` with the parts of those that are fused."""
        found = dict(tensors)
        for name in tensors:
            for whole, parts in self.fused.items():
                if f"{whole}." in name:
                    pieces = np.split(found.pop(name), len(parts))
                    found |= {name.replace(whole, part): piece for part, piece in zip(parts, pieces, strict=True)}
        return found

    def join(self, tensors: Tensors) -> Tensors:
        """`tensors` with the fused ones in place of their parts."""
        found = dict(tensors)
        for whole, parts in self.fused.items():
            for name in [name for name in tensors if f"{parts[0]}." in name]:
                pieces = [found.pop(name.replace(parts[0], part)) for part in parts]
                found[name.replace(parts[0], whole)] = np.concatenate(pieces)
        return found


def family_of(config: TransformerConfig) -> tuple[str, ModelFamily]:
    """The model_type and the family of `config`."""
    return next(
        (kind, family)
        for kind, family in FAMILIES.items()
        if type(config) is family.config
        and all(getattr(config, name) == value for name, value in family.settings.items())
    )


_MODERNBERT_BIASES = {
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
}


def _modernbert_settings(raw: Raw) -> dict[str, Any]:
    """Settings of the alternation of layers, and of the rotary positions of either kind."""
    kinds = raw.get("layer_types", [])
    every = raw.get("global_attn_every_n_layers", 3)
    if kinds:
        every = next((i for i, kind in enumerate(kinds) if i and kind == "full_attention"), len(kinds))
    expected = _layer_types(len(kinds), every)
    require(kinds == expected, f"layer_types is {kinds}; only a global layer every n layers can be read")
    rope = raw.get("rope_parameters") or {}
    full, local = (rope.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    for parameters in (full, local):
        _check_rope(parameters, ("default",))
    return {
        "global_every": every,
        "global_base": float(full.get("rope_theta", raw.get("global_rope_theta", 160_000.0))),
        "local_base": float(local.get("rope_theta", raw.get("local_rope_theta", 10_000.0))),
    }


def _modernbert_keys(config: modernbert.ModernBertConfig) -> dict[str, Any]:
    """Both spellings: that of transformers 5, and the numbers that version 4 reads."""
    rope = {"full_attention": config.global_base, "sliding_attention": config.local_base}
    return {
        "layer_types": _layer_types(config.layers, config.global_every),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in rope.items()},
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.global_base,
        "local_rope_theta": config.local_base,
        "embedding_dropout": config.dropout,
        **_MODERNBERT_BIASES,
    }


def _layer_types(layers: int, every: int) -> list[str]:
    return ["sliding_attention" if i % every else "full_attention" for i in range(layers)]


def _nomic_settings(raw: Raw) -> dict[str, Any]:
    """Settings of the rotary positions. Where they are rescaled for long texts, the model takes the lengths before."""
    rope = raw.get("rope_parameters") or {}
    _check_rope(rope, ("default", "dynamic"))
    positions = raw.get("max_position_embeddings", raw.get("n_positions", 2048))
    if "rotary_scaling_factor" in raw or rope.get("rope_type") == "dynamic":
        trained = rope.get("original_max_position_embeddings", raw.get("max_trained_positions", 2048))
        positions = min(positions, trained)
    return {"positions": positions, "rotary_base": float(rope.get("rope_theta", raw.get("rotary_emb_base", 1_000.0)))}


def _nomic_keys(config: nomic_bert.NomicBertConfig) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "max_position_embeddings": config.positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
    }


def _check_rope(parameters: Raw, allowed: tuple[str, ...]) -> None:
    kind = parameters.get("rope_type", "default")
    require(kind in allowed, f"rope_type is {kind!r}; only {' or '.join(map(repr, allowed))} can be read")


_BERT_KEYS = {
    "layers": ("num_hidden_layers",),
    "width": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "feed_forward": ("intermediate_size",),
    "vocab_size": ("vocab_size",),
    "positions": ("max_position_embeddings",),
    "types": ("type_vocab_size",),
    "dropout": ("hidden_dropout_prob",),
    "attention_dropout": ("attention_probs_dropout_prob",),
    "epsilon": ("layer_norm_eps",),
    "initializer": ("initializer_range",),
}
_BASE_SIZE = {"layers": 12, "width": 768, "heads": 12, "feed_forward": 3072, "vocab_size": 30_522}
_BERT_LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
_BERT_HEAD = {
    "mlm/dense": "cls.predictions.transform.dense",
    "mlm/norm": "cls.predictions.transform.LayerNorm",
    "mlm": "cls.predictions",
}
_BERT_SPELLINGS = (
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
    (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias"),
)


def _bert_family(family: bert.Family, title: str, base: str, with_head: Mapping[str, str]) -> ModelFamily:
    return ModelFamily(
        config=bert.BertConfig,
        title=title,
        keys=_BERT_KEYS,
        defaults=_BASE_SIZE,
        required={
            "position_embedding_type": ("absolute",),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "pruned_heads": ({},),
        },
        modules={
            "bert/word": "embeddings.word_embeddings",
            "bert/position": "embeddings.position_embeddings",
            "bert/type": "embeddings.token_type_embeddings",
            "bert/norm": "embeddings.LayerNorm",
            **{f"bert/layer_*/{ours}": f"encoder.layer.*.{theirs}" for ours, theirs in _BERT_LAYER.items()},
            "pooler/dense": "pooler.dense",
            **_BERT_HEAD,
            # as the authors of Condenser and of RetroMAE publish them
            **{f"condenser/layer_*/{ours}": f"{HEAD}*.{theirs}" for ours, theirs in _BERT_LAYER.items()},
            **{f"decoder/{ours}": f"{HEAD}{theirs}" for ours, theirs in _BERT_LAYER.items()},
        },
        base=base,
        bases=("bert.", "roberta."),
        mlm=("cls.",),
        untied="cls.predictions.decoder.weight",
        activation="hidden_act",
        settings={"family": family},
        write=lambda config: {"position_embedding_type": "absolute"},
        with_head=with_head,
        spellings=_BERT_SPELLINGS,
    )


_ROBERTA_HEAD = {  # BERT's start of a name -> RoBERTa's
    "cls.predictions.transform.dense.": "lm_head.dense.",
    "cls.predictions.transform.LayerNorm.": "lm_head.layer_norm.",
    "cls.predictions.": "lm_head.",
}

FAMILIES: dict[str, ModelFamily] = {  # by the model_type of config.json
    "bert": _bert_family(bert.Family.BERT, "Bert", "bert.", {}),
    "roberta": _bert_family(bert.Family.ROBERTA, "Roberta", "roberta.", _ROBERTA_HEAD),
    "xlm-roberta": _bert_family(bert.Family.XLM_ROBERTA, "XLMRoberta", "roberta.", _ROBERTA_HEAD),
    "modernbert": ModelFamily(
        config=modernbert.ModernBertConfig,
        title="ModernBert",
        keys=_BERT_KEYS
        | {
            "dropout": ("mlp_dropout",),
            "attention_dropout": ("attention_dropout",),
            "epsilon": ("norm_eps",),
            "window": ("local_attention",),
        },
        defaults={"layers": 22, "width": 768, "heads": 12, "feed_forward": 1152, "vocab_size": 50_368},
        required={key: (value,) for key, value in _MODERNBERT_BIASES.items()},
        modules={
            "bert/word": "embeddings.tok_embeddings",
            "bert/norm": "embeddings.norm",
            "bert/layer_*/attention_norm": "layers.*.attn_norm",
            "bert/layer_*/attention/query": "layers.*.attn.query",
            "bert/layer_*/attention/key": "layers.*.attn.key",
            "bert/layer_*/attention/value": "layers.*.attn.value",
            "bert/layer_*/attention/output": "layers.*.attn.Wo",
            "bert/layer_*/feed_forward_norm": "layers.*.mlp_norm",
            "bert/layer_*/gate": "layers.*.mlp.gate",
            "bert/layer_*/up": "layers.*.mlp.up",
            "bert/layer_*/down": "layers.*.mlp.Wo",
            "bert/layer_*/final_norm": "final_norm",
            "mlm/dense": "head.dense",
            "mlm/norm": "head.norm",
            "mlm": "decoder",
        },
        base="model.",
        mlm=("head.", "decoder."),
        untied="decoder.weight",
        activation="hidden_activation",
        read=_modernbert_settings,
        write=_modernbert_keys,
        fused={"attn.Wqkv": ("attn.query", "attn.key", "attn.value"), "mlp.Wi": ("mlp.gate", "mlp.up")},
    ),
    "nomic_bert": ModelFamily(
        config=nomic_bert.NomicBertConfig,
        title="NomicBert",
        keys={
            "layers": ("num_hidden_layers", "n_layer"),
            "width": ("hidden_size", "n_embd"),
            "heads": ("num_attention_heads", "n_head"),
            "feed_forward": ("intermediate_size", "n_inner"),
            "vocab_size": ("vocab_size",),
            "types": ("type_vocab_size",),
            "dropout": ("hidden_dropout_prob", "resid_pdrop"),
            "attention_dropout": ("attention_probs_dropout_prob", "attn_pdrop"),
            "epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
            "initializer": ("initializer_range",),
        },
        defaults=_BASE_SIZE | {"vocab_size": 30_528},
        required={
            "hidden_act": ("silu",),
            "activation_function": ("swiglu",),
            "prenorm": (False,),
            "parallel_block": (False,),
            "use_rms_norm": (False,),
            "causal": (False,),
            "qkv_proj_bias": (False,),
            "mlp_fc1_bias": (False,),
            "mlp_fc2_bias": (False,),
            "rotary_emb_fraction": (1.0,),
            "rotary_emb_interleaved": (False,),
            "num_experts": (0,),
        },
        modules={
            "bert/word": "embeddings.word_embeddings",
            "bert/type": "embeddings.token_type_embeddings",
            "bert/norm": "emb_ln",
            "bert/layer_*/attention/query": "encoder.layers.*.attn.query",
            "bert/layer_*/attention/key": "encoder.layers.*.attn.key",
            "bert/layer_*/attention/value": "encoder.layers.*.attn.value",
            "bert/layer_*/attention/output": "encoder.layers.*.attn.out_proj",
            "bert/layer_*/attention_norm": "encoder.layers.*.norm1",
            "bert/layer_*/up": "encoder.layers.*.mlp.fc11",
            "bert/layer_*/gate": "encoder.layers.*.mlp.fc12",
            "bert/layer_*/down": "encoder.layers.*.mlp.fc2",
            "bert/layer_*/output_norm": "encoder.layers.*.norm2",
            **_BERT_HEAD,
            "mlm/norm": "cls.predictions.transform.layer_norm",
        },
        base="nomic_bert.",
        bases=("bert.",),
        mlm=("cls.",),
        untied="cls.predictions.decoder.weight",
        read=_nomic_settings,
        write=_nomic_keys,
        fused={"attn.Wqkv": ("attn.query", "attn.key", "attn.value")},
        spellings=(  # the modules of transformers 5, and the bias of the Hub's head
            (r"^layers\.", "encoder.layers."),
            (r"^embeddings\.LayerNorm\.", "emb_ln."),
            (r"\.self_attn\.q_proj\.", ".attn.query."),
            (r"\.self_attn\.k_proj\.", ".attn.key."),
            (r"\.self_attn\.v_proj\.", ".attn.value."),
            (r"\.self_attn\.o_proj\.", ".attn.out_proj."),
            (r"\.post_attention_layernorm\.", ".norm1."),
            (r"\.post_mlp_layernorm\.", ".norm2."),
            (r"\.mlp\.up_proj\.", ".mlp.fc11."),
            (r"\.mlp\.gate_proj\.", ".mlp.fc12."),
            (r"\.mlp\.down_proj\.", ".mlp.fc2."),
            (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias"),
        ),
    ),
    "distilbert": ModelFamily(
        config=distilbert.DistilBertConfig,
        title="DistilBert",
        keys={
            "layers": ("n_layers",),
            "width": ("dim",),
            "heads": ("n_heads",),
            "feed_forward": ("hidden_dim",),
            "vocab_size": ("vocab_size",),
            "positions": ("max_position_embeddings",),
            "dropout": ("dropout",),
            "attention_dropout": ("attention_dropout",),
            "initializer": ("initializer_range",),
        },
        defaults=_BASE_SIZE | {"layers": 6},
        required={},
        modules={
            "bert/word": "embeddings.word_embeddings",
            "bert/position": "embeddings.position_embeddings",
            "bert/norm": "embeddings.LayerNorm",
            "bert/layer_*/attention/query": "transformer.layer.*.attention.q_lin",
            "bert/layer_*/attention/key": "transformer.layer.*.attention.k_lin",
            "bert/layer_*/attention/value": "transformer.layer.*.attention.v_lin",
            "bert/layer_*/attention/output": "transformer.layer.*.attention.out_lin",
            "bert/layer_*/attention_norm": "transformer.layer.*.sa_layer_norm",
            "bert/layer_*/up": "transformer.layer.*.ffn.lin1",
            "bert/layer_*/down": "transformer.layer.*.ffn.lin2",
            "bert/layer_*/output_norm": "transformer.layer.*.output_layer_norm",
            "mlm/dense": "vocab_transform",
            "mlm/norm": "vocab_layer_norm",
            "mlm": "vocab_projector",
        },
        base="distilbert.",
        mlm=("vocab_",),
        untied="vocab_projector.weight",
        activation="activation",
    ),
}
GELU = {  # if a function has several names, the last one is written
    "gelu_python": Gelu.ERF,
    "gelu": Gelu.ERF,
    "gelu_new": Gelu.TANH,
    "gelu_fast": Gelu.TANH,
    "gelu_accurate": Gelu.TANH,
    "gelu_pytorch_tanh": Gelu.TANH,
}
