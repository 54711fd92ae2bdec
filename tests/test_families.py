"""ModernBERT, nomic_bert and DistilBERT: files, packing, meshes and heads (their numbers: test_hf_parity.py)."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dense_jax.config import Config, MeshConfig
from dense_jax.config.tree import to_dict
from dense_jax.data.packing import pack
from dense_jax.errors import ConfigError
from dense_jax.hf import tensors
from dense_jax.hf.config import config_json, models_of_run, read_config
from dense_jax.hf.families import FAMILIES, family_of
from dense_jax.mesh import make_mesh
from dense_jax.models.attention import Attention, attend
from dense_jax.models.bert import BertConfig
from dense_jax.models.distilbert import DistilBertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import apply_condenser, apply_decoder, init_condenser, init_decoder, init_mlm, mlm_logits
from dense_jax.models.modernbert import ModernBertConfig
from dense_jax.models.nomic_bert import NomicBertConfig
from dense_jax.models.pooling import Pooling
from dense_jax.objectives.mlm import MLM
from dense_jax.train.optimizer import decay_mask
from dense_jax.train.sharding import state_sharding
from dense_jax.train.start import fitted
from dense_jax.types import Layout, Tokens
from tests.golden.make_transformers_models import FOLDER

SIZES = {"width": 16, "heads": 4, "feed_forward": 24, "vocab_size": 40, "dropout": 0.0, "attention_dropout": 0.0}
FAMILY = {
    "modernbert": ModernBertConfig(layers=4, window=6, positions=64, **SIZES),
    "nomic_bert": NomicBertConfig(layers=2, positions=64, **SIZES),
    "distilbert": DistilBertConfig(layers=2, positions=64, **SIZES),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def params_of(model, parts=("encoder",)):
    encoder, rng = Encoder(model), np.random.default_rng(5)
    shapes = jax.eval_shape(lambda key: {"encoder": encoder.init(key), "mlm": init_mlm(model, key)}, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), {p: shapes[p] for p in parts})


def texts(lengths, length) -> Tokens:
    ids = np.random.default_rng(1).integers(2, 40, size=(len(lengths), length), dtype=np.int32)
    return Tokens(ids, np.zeros_like(ids), np.arange(length)[None] < np.array(lengths)[:, None])


@pytest.fixture(params=FAMILY)
def model(request):
    return FAMILY[request.param]


# Files


def test_every_array_survives_the_way_out_and_back(model, tmp_path):
    params = params_of(model, ("encoder", "mlm"))
    tensors.save_params({"bert": params["encoder"]["bert"], "mlm": params["mlm"]}, model, tmp_path, pad=0)
    assert replace(read_config(tmp_path), dropout=0.0, attention_dropout=0.0) == model
    blank = jax.tree.map(jnp.zeros_like, params)
    found, report = tensors.load_params(blank, tmp_path, Encoder(model))
    assert not report.initialised and not report.ignored
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("kind", ["ModernBert", "NomicBert", "DistilBert"])
def test_names_and_keys_are_those_of_transformers(kind, tmp_path):
    model = read_config(FOLDER / kind)
    params, _ = tensors.load_params(params_of(model, ("encoder", "mlm")), FOLDER / kind, Encoder(model))
    tensors.save_params({"bert": params["encoder"]["bert"], "mlm": params["mlm"]}, model, tmp_path, pad=0)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, FOLDER / kind))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    keys, known = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, FOLDER / kind))
    assert keys["architectures"] == known["architectures"]
    assert all(known.get(key, keys[key]) == keys[key] for key in keys.keys() - {"pad_token_id"})


TRANSFORMERS_5 = {
    "emb_ln": "embeddings.LayerNorm", "encoder.layers.": "layers.", "attn.out_proj": "self_attn.o_proj",
    "norm1": "post_attention_layernorm", "norm2": "post_mlp_layernorm",
    "fc11": "up_proj", "fc12": "gate_proj", "fc2": "down_proj",
}  # fmt: skip


def test_nomic_bert_is_read_by_the_names_of_either_of_its_codes(tmp_path):
    model, named = read_config(FOLDER / "NomicBert"), {}
    for name, tensor in load_file(FOLDER / "NomicBert/model.safetensors").items():
        if "Wqkv" in name:
            for part, piece in zip("qkv", np.split(tensor, 3), strict=True):
                named[name.replace("attn.Wqkv", f"self_attn.{part}_proj").replace("encoder.", "")] = piece.copy()
            continue
        for hub, modern in TRANSFORMERS_5.items():
            name = name.replace(hub, modern)
        named[name] = tensor
    save_file(named, tmp_path / "model.safetensors")
    shutil.copy(FOLDER / "NomicBert/config.json", tmp_path)
    blank = params_of(model, ("encoder", "mlm"))
    found, report = tensors.load_params(blank, tmp_path, Encoder(model))
    assert not report.initialised and not report.ignored
    expected, _ = tensors.load_params(blank, FOLDER / "NomicBert", Encoder(model))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


HUB = {
    "model_type": "nomic_bert", "activation_function": "swiglu", "n_embd": 16, "n_head": 4, "n_inner": 24, "n_layer": 2,
    "n_positions": 8192, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None, "max_trained_positions": 2048, "layer_norm_epsilon": 1e-12, "vocab_size": 40,
    "type_vocab_size": 2, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "prenorm": False,
    "resid_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.02,
}  # fmt: skip


def write(folder, **raw):
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def test_the_hubs_keys_of_nomic_bert_are_read(tmp_path):
    assert read_config(write(tmp_path, **HUB)) == replace(FAMILY["nomic_bert"], positions=8192)
    scaled = HUB | {"rotary_scaling_factor": 2}  # positions are rescaled for texts longer than those of training
    assert read_config(write(tmp_path, **scaled)).longest == 2048


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (HUB | {"prenorm": True}, "prenorm is True; only False can be read"),
        (HUB | {"num_experts": 8}, "num_experts is 8; only 0 can be read"),
        (HUB | {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; only 'default' or 'dynamic'"),
        ({"model_type": "modernbert", "norm_bias": True}, "norm_bias is True; only False can be read"),
        (
            {"model_type": "modernbert", "layer_types": ["full_attention"] * 2 + ["sliding_attention"]},
            "layer_types is .*; only a global layer every n layers can be read",
        ),
        ({"model_type": "distilbert", "activation": "relu"}, "activation is 'relu'; only gelu_python, gelu"),
        ({"model_type": "mpnet"}, "'mpnet'; only bert, roberta, xlm-roberta, modernbert, nomic_bert, distilbert can"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(raw, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, **raw))


def test_older_files_of_modernbert_name_the_alternation_and_the_bases_by_numbers(tmp_path):
    raw = {"global_attn_every_n_layers": 4, "global_rope_theta": 80_000.0, "local_rope_theta": 5_000.0}
    found = read_config(write(tmp_path, model_type="modernbert", **raw))
    assert isinstance(found, ModernBertConfig)
    assert (found.global_every, found.global_base, found.local_base) == (4, 80_000.0, 5_000.0)
    assert (found.layers, found.feed_forward, found.longest, found.epsilon) == (22, 1152, 8192, 1e-5)


def test_each_family_is_found_by_its_config():
    assert {name: family_of(model)[0] for name, model in FAMILY.items()} == {name: name for name in FAMILY}
    assert FAMILIES.keys() >= FAMILY.keys()


# A run records its model and starts from one of another family


def test_the_model_of_a_run_is_known_by_its_record(model):
    recorded = to_dict(MLM(Encoder(model), passage_length=16, query_length=16))
    assert list(models_of_run(json.loads(json.dumps(recorded)))) == [model]


def test_a_start_from_another_family_takes_its_model_and_keeps_the_computation(model, tmp_path):
    write(tmp_path, **config_json(replace(model, dropout=0.25), "Model", pad=0))
    ours = BertConfig(layers=1, width=8, heads=1, feed_forward=8, remat=True)
    asked = Config(MLM(Encoder(ours), passage_length=16, query_length=16), steps=1, batch=8, init_from=str(tmp_path))
    found = fitted(asked, [], tmp_path / "work").config.objective.encoder.bert
    assert found == replace(model, vocab_size=0, dropout=0.25, remat=True)
    with pytest.raises(ConfigError, match=r"encoder\.bert\.family does not fit .* leave the flag out"):
        fitted(asked, {"objective.encoder.bert.family"}, tmp_path / "work")


def test_two_segments_need_a_model_that_knows_them():
    MLM(Encoder(FAMILY["nomic_bert"]), passage_length=16, query_length=16, layout=Layout.PAIR)
    with pytest.raises(ConfigError, match=r"has two segments, but objective\.encoder\.bert knows 1"):
        MLM(Encoder(FAMILY["modernbert"]), passage_length=16, query_length=16, layout=Layout.PAIR)


# Attention within a window


def test_a_query_sees_the_keys_within_the_window_only():
    rng, mask = np.random.default_rng(0), np.arange(9)[None, None] < 7
    query, key, value = (jnp.asarray(rng.normal(size=(1, 9, 2, 4)), jnp.float32) for _ in range(3))
    found = attend(query, key, value, jnp.asarray(mask), kernel=Attention.XLA, window=2)
    for i in range(7):
        near = slice(max(i - 2, 0), min(i + 3, 7))
        alone = attend(
            query[:, i : i + 1],
            key[:, near],
            value[:, near],
            jnp.ones((1, 1, key[:, near].shape[1]), bool),
            kernel=Attention.XLA,
        )
        np.testing.assert_allclose(found[:, i : i + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_token_beyond_all_windows_reaches_a_local_model_through_global_layers_only():
    local = replace(FAMILY["modernbert"], layers=2, global_every=2)
    changed = texts([30], 30)
    changed.ids[0, 29] = 3
    params = params_of(local)["encoder"]
    states, others = (Encoder(local).all_hidden_states(params, tokens) for tokens in (texts([30], 30), changed))
    assert not np.allclose(states[1][0, 0], others[1][0, 0])  # layer 0 is global
    alone = params["bert"] | {"layer_0": jax.tree.map(jnp.zeros_like, params["bert"]["layer_0"])}
    states, others = (
        Encoder(local).all_hidden_states({"bert": alone}, tokens) for tokens in (texts([30], 30), changed)
    )
    np.testing.assert_array_equal(states[2][0, :26], others[2][0, :26])  # layer 1 sees three tokens on each side
    assert not np.allclose(states[2][0, 26], others[2][0, 26])


# Packing, meshes, heads


def test_packed_texts_have_the_vectors_that_each_has_alone(model):
    encoder, alone = Encoder(model, Pooling.MEAN), texts([12, 5, 9, 14], 16)
    params = params_of(model)["encoder"]
    packed = pack(alone, np.arange(4), packing=0.75)
    assert not packed.cut.any()
    found = jax.jit(encoder.apply)(params, packed).unpack()
    np.testing.assert_allclose(found, jax.jit(encoder.apply)(params, alone), **CLOSE)


@pytest.mark.slow
def test_vectors_and_gradients_over_all_axes_of_a_mesh_equal_one_device(model):
    encoder, tokens, params = Encoder(model), texts([12, 5, 9, 14], 16), params_of(model)["encoder"]

    def loss(params, tokens):
        return jnp.sum(encoder.apply(params, tokens) ** 2)

    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sharding = state_sharding(params, mesh)
    assert any("tensor" in str(leaf.spec) for leaf in jax.tree.leaves(sharding))
    with jax.set_mesh(mesh):
        spread = jax.jit(jax.value_and_grad(loss))(jax.device_put(params, sharding), tokens)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        spread,
        jax.value_and_grad(loss)(params, tokens),
    )


def test_every_parameter_has_a_rule_of_weight_decay_and_of_sharding(model):
    params = params_of(model, ("encoder", "mlm"))
    decayed = decay_mask(params)
    assert decayed["encoder"]["bert"]["layer_1"]["up"]["kernel"]
    assert not decayed["encoder"]["bert"]["norm"]["scale"]
    state_sharding(params, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))


@pytest.mark.slow
def test_computing_layers_again_changes_no_number(model):
    tokens, params = texts([12, 5], 16), params_of(model)["encoder"]

    def gradient(model):
        return jax.grad(lambda params: jnp.sum(Encoder(model).apply(params, tokens)))(params)

    again = gradient(replace(model, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), gradient(model), again)


@pytest.mark.slow
def test_heads_are_layers_of_the_family(model):
    tokens, keys = texts([12, 5], 16), jax.random.split(jax.random.key(0), 4)
    params = {
        **params_of(model, ("encoder", "mlm")),
        "condenser": init_condenser(model, 2, keys[0]),
        "decoder": init_decoder(model, keys[1]),
    }
    layer = params["encoder"]["bert"]["layer_1"]
    assert {*params["condenser"]["layer_0"]} == {*layer} - {"final_norm"}
    assert {*params["decoder"]} >= {*layer}
    states = Encoder(model).all_hidden_states(params["encoder"], tokens)
    head = apply_condenser(model, params, states[-1], states[1], tokens)
    visible = jnp.broadcast_to(jnp.asarray(tokens.mask)[:, None], (2, 16, 16))
    decoded = apply_decoder(model, params, states[-1][:, 0], tokens, visible)
    logits = mlm_logits(model, params, head, jnp.zeros((2, 1), jnp.int32))
    assert logits.shape == (2, 1, 40)
    assert all(np.isfinite(x).all() for x in (head, decoded, logits))
    assert not np.allclose(decoded[0, 1], decoded[0, 2])  # the same vector at two positions


def test_layers_in_one_loop_are_refused_where_they_differ():
    with pytest.raises(ConfigError, match=r"bert\.scan=true .* use bert\.scan=false"):
        replace(FAMILY["modernbert"], scan=True)
