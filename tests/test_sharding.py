"""Where parameters lie, and what a compiled step sends because of it."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from dense_jax.config import Config, MeshConfig
from dense_jax.errors import ConfigError
from dense_jax.mesh import make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.contriever import Contriever
from dense_jax.objectives.mlm import MLM
from dense_jax.planning.compiled_step import CompiledStep, compile_step
from dense_jax.planning.hlo import collectives
from dense_jax.train.loop import make_program
from dense_jax.train.optimizer import path_name
from dense_jax.train.sharding import state_sharding
from tests.tpu_compiler import needs_tpu_compiler, printed

BERT = BertConfig(layers=2, width=16, heads=4, feed_forward=64, vocab_size=300, positions=64)
SPLIT = MeshConfig(data=1, fsdp=2, tensor=4)


def mlm(bert: BertConfig = BERT) -> MLM:
    return MLM(encoder=Encoder(bert), passage_length=16)


def config(objective=None, mesh: MeshConfig = SPLIT) -> Config:
    return Config(objective or mlm(), steps=10, batch=16, mesh=mesh)


def shards(tree) -> dict[str, tuple[int, ...]]:
    """What one device has of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): leaf.sharding.shard_shape(leaf.shape) for path, leaf in leaves}


def test_each_chip_of_a_tensor_group_has_some_heads_and_units_and_the_rest_is_split_over_fsdp():
    found = shards(make_program(config()).like.params["encoder"]["bert"])
    layer = {name.removeprefix("layer_1/"): shard for name, shard in found.items() if name.startswith("layer_1/")}
    assert layer == {
        "attention/query/kernel": (8, 4), "attention/query/bias": (4,),  # 16 x 16: one head of four, half of the inputs
        "attention/key/kernel": (8, 4), "attention/key/bias": (4,),
        "attention/value/kernel": (8, 4), "attention/value/bias": (4,),
        "attention/output/kernel": (4, 8), "attention/output/bias": (16,),  # the inputs that this head gives
        "attention_norm/scale": (16,), "attention_norm/bias": (16,),
        "up/kernel": (8, 16), "up/bias": (16,),  # a quarter of 64 units
        "down/kernel": (16, 8), "down/bias": (16,),
        "output_norm/scale": (16,), "output_norm/bias": (16,),
    }  # fmt: skip
    assert found["word/embedding"] == (75, 8)  # a quarter of 300 words
    assert found["position/embedding"] == (32, 16)


def test_a_vocabulary_that_tensor_does_not_divide_stays_whole():
    found = shards(make_program(config(mlm(replace(BERT, vocab_size=301)))).like.params)
    assert found["encoder/bert/word/embedding"] == (301, 8)


def test_the_optimizer_state_and_the_momentum_encoder_lie_as_their_parameters():
    method = Contriever(Encoder(BERT), view_length=16, query_length=16, passage_length=16, queue=32)
    like = make_program(config(method)).like
    params, carry, optimizer = (shards(tree) for tree in (like.params, like.carry, like.optimizer))
    assert {name: carry[name] for name in params} == params
    assert carry["queue"] == (2, 8, 16)  # [k b d]: half of each batch of 16
    for moment in ("1/mu/", "1/nu/"):
        assert {f"{moment}{name}": shard for name, shard in params.items()}.items() <= optimizer.items()


def test_leaves_without_a_rule_are_all_listed():
    leaf = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    with pytest.raises(ConfigError, match=r"no rule for sharding .* matches head/gate, head/offset; add one"):
        state_sharding({"head": {"gate": leaf, "offset": leaf, "kernel": leaf}}, make_mesh(SPLIT))


@pytest.mark.parametrize(
    ("changes", "mesh", "message"),
    [
        (
            {"heads": 2},
            SPLIT,
            r"mesh.tensor=4 does not divide objective.encoder.bert.heads=2; .* --mesh.tensor .* such as 2",
        ),
        (
            {"feed_forward": 62},
            SPLIT,
            r"mesh.tensor=4 does not divide objective.encoder.bert.feed_forward=62; .* such as 2",
        ),
        (
            {"width": 12},
            MeshConfig(1, 8),
            "mesh.fsdp=8 does not divide objective.encoder.bert.width=12; .* --mesh.fsdp .* as 6",
        ),
    ],
)
def test_a_model_that_does_not_split_is_refused_with_a_mesh_on_which_it_does(changes, mesh, message):
    with pytest.raises(ConfigError, match=message):
        make_program(config(mlm(replace(BERT, **changes)), mesh))


def step_on(mesh: MeshConfig) -> CompiledStep:
    return compile_step(config(mesh=mesh), jax.devices())


@pytest.mark.slow
def test_fsdp_gathers_no_more_than_one_kernel_or_table_at_a_time_and_keeps_its_share():
    whole, split = step_on(MeshConfig(shard_update=False)), step_on(MeshConfig(1, 8))
    gathers = [one.size for one in collectives(split.text, 8) if one.kind == "all-gather"]
    table, kernel = 4 * 300 * 16, 4 * 16 * 64
    assert max(gathers) == table
    assert sorted(gathers)[-2] <= kernel
    assert gathers.count(kernel) >= 2 * 2  # up and down of two layers
    arguments = [step.sizes.argument_size_in_bytes for step in (whole, split)]
    assert arguments[1] < arguments[0] / 5  # biases, LayerNorm and the batch are as large as before


ON_TPUS = """
import json
from dataclasses import replace
from dense_jax.config import MeshConfig
from dense_jax.planning.compiled_step import compile_step, topology_devices
from tests.test_sharding import BERT, config, mlm
method = replace(mlm(replace(BERT, width=128, feed_forward=512, vocab_size=1_000)), length=64)
for ways in (1, 4):
    asked = replace(config(method, MeshConfig(-1, ways)), batch=32)
    step = compile_step(asked, topology_devices("v5e:2x2"))
    sent = [(one.kind, one.size, one.times) for one in step.sent]
    print(json.dumps([step.sizes.argument_size_in_bytes, sent]))
"""


@pytest.mark.slow
@needs_tpu_compiler
def test_on_tpus_each_kernel_is_gathered_for_its_layer_and_its_gradient_scattered():
    (whole, _), (split, sent) = map(json.loads, printed(ON_TPUS).splitlines())
    assert split < whole / 3.5  # of 4
    sizes = {kind: sorted(size for k, size, _ in sent if k == kind) for kind in ("all-gather", "reduce-scatter")}
    table, kernel, square = 1_000 * 128, 128 * 512, 128 * 128  # numbers in each
    assert sizes["all-gather"][-1] == 2 * table  # bytes: gathered in bfloat16, which TPUs multiply in
    assert sizes["all-gather"][-2] == 2 * kernel
    assert sizes["all-gather"].count(2 * kernel) == 2 * 2 * 2  # up and down of two layers, forward and backward
    kernels = table + square + 2 * (4 * square + 2 * kernel)  # words, the head's kernel, the layers
    assert sum(sizes["reduce-scatter"]) >= 4 * kernels
    reduced = [size for kind, size, _ in sent if kind == "all-reduce"]
    assert sum(reduced) < kernels  # a quarter of their bytes: biases, LayerNorm, the small tables
