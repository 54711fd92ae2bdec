"""The sharded weight update: each chip holds and updates its share, and the result is that of the whole update."""

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import Config, GradientDtype, MeshConfig, OptimizerConfig
from dense_jax.config.tree import with_vocabulary
from dense_jax.errors import ConfigError, Stopped
from dense_jax.mesh import batch_sharding
from dense_jax.models import layers
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype, multiply
from dense_jax.objectives.mlm import MLM
from dense_jax.planning.compiled_step import abstract_batch
from dense_jax.planning.hlo import collectives
from dense_jax.terminal import show
from dense_jax.train.loop import initial_state, make_program
from dense_jax.train.optimizer import path_name
from dense_jax.train.restore import load_trained
from tests.programs import train_workdir
from tests.test_objectives import FILES, batch_of, load, shrunk
from tests.toys import VOCABULARY, BagOfTokens, MeanEmbedding, MemoryStore

BERT = BertConfig(layers=1, width=64, heads=2, feed_forward=128, vocab_size=300, positions=64)
TOY = BagOfTokens(encoder=MeanEmbedding(width=64))
WHOLE = MeshConfig(shard_update=False)


def config(objective=None, mesh=None, **settings) -> Config:
    method = objective or MLM(Encoder(BERT), passage_length=16)
    return Config(method, **({"steps": 10, "batch": 32, "mesh": mesh or MeshConfig()} | settings))


def shards(tree) -> dict[str, tuple[int, ...]]:
    """What one device holds of each leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): leaf.sharding.shard_shape(leaf.shape) for path, leaf in leaves}


def test_each_device_holds_some_rows_of_a_kernel_some_columns_of_a_table_and_all_of_a_bias():
    program = make_program(config())
    assert dict(program.mesh.shape) == {"dcn": 1, "data": 1, "update": 8, "fsdp": 1, "tensor": 1}
    params, optimizer = shards(program.like.params), shards(program.like.optimizer)
    bert = "encoder/bert"
    assert params[f"{bert}/word/embedding"] == (300, 8)
    assert params[f"{bert}/layer_0/up/kernel"] == (8, 128)
    assert params[f"{bert}/layer_0/down/kernel"] == (16, 64)
    assert params[f"{bert}/layer_0/up/bias"] == (128,)
    assert optimizer[f"1/mu/{bert}/layer_0/up/kernel"] == (8, 128)


def test_the_moments_of_a_device_shrink_by_the_number_of_devices():
    sizes = [show.local_bytes(make_program(config(mesh=mesh)).like.optimizer) for mesh in (WHOLE, MeshConfig())]
    vectors = 4 * 2 * (300 + 128 + 14 * 64) + 8  # biases, LayerNorm and two counts are whole everywhere
    assert sizes[1] - vectors == (sizes[0] - vectors) / 8


@pytest.mark.parametrize(
    ("width", "mesh", "ways"),
    [
        (64, {}, 8),
        (32, {}, 4),
        (16, {}, 2),
        (8, {}, 1),
        (64, {"fsdp": 2}, 4),
        (32, {"fsdp": 4}, 2),
        (64, {"dcn": 2}, 4),
    ],
)
def test_there_are_as_many_shards_as_leave_eight_rows_in_each(width, mesh, ways):
    method = MLM(Encoder(replace(BERT, width=width, feed_forward=width)), passage_length=16)
    assert make_program(config(method, MeshConfig(**mesh))).mesh.shape["update"] == ways


def stepped(asked: Config, devices: int = 8):
    """State and metrics after two steps in float64."""
    program = make_program(asked, jax.devices()[:devices])
    batch = jax.device_put(batch_of(asked.objective, asked.batch), batch_sharding(program.mesh))
    with jax.set_mesh(program.mesh):
        state = initial_state(program)
        state = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, state)
        for _ in range(2):
            state, metrics = program.step(state, batch)
    return jax.device_get((state, metrics))


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)


OPTIMIZER = OptimizerConfig(0.01, clip=0.1, skip_nonfinite=2)  # a gradient that is clipped by the norm of all of it


def test_the_sharded_update_equals_the_whole_one(x64):
    asked = config(TOY, optimizer=OPTIMIZER)
    one = stepped(asked, devices=1)
    assert one[1]["gradient_norm"] > OPTIMIZER.clip
    assert_equal(stepped(asked), one)
    assert_equal(stepped(replace(asked, mesh=WHOLE)), one)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 16])
@pytest.mark.parametrize("mesh", [{}, {"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 2, "tensor": 2}, {"dcn": 2}])
def test_that_of_a_masked_language_model_does_with_and_without_a_gradient_cache(x64, monkeypatch, mesh, chunk):
    monkeypatch.setattr(layers, "_SCATTERED", 48)  # so that gradients are scattered in parts
    exact = replace(BERT, dtype=Dtype.FLOAT64, vocab_size=VOCABULARY.size)
    asked = config(MLM(Encoder(exact), passage_length=16), optimizer=OPTIMIZER, chunk=chunk)
    assert_equal(stepped(replace(asked, mesh=MeshConfig(**mesh))), stepped(asked, devices=1))


def test_a_non_finite_step_changes_no_share():
    program = make_program(config(TOY, optimizer=OPTIMIZER))
    state = initial_state(program)
    before = jax.device_get(state.params)
    broken = replace(state, params=jax.tree.map(lambda x: x.at[5:].set(np.nan), state.params))
    after, metrics = program.step(broken, jax.device_put(batch_of(TOY, 32), batch_sharding(program.mesh)))
    assert not np.isfinite(metrics["gradient_norm"])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:5], b[:5]), jax.device_get(after.params), before)


@pytest.mark.slow
def test_a_run_goes_on_with_its_state_split_and_whole_again(tmp_path, shared_programs):
    def run(folder, meshes, steps):
        folder.mkdir()
        for mesh in meshes:
            asked, step = config(TOY, mesh, steps=6, batch=8, optimizer=OptimizerConfig(0.1)), itertools.count(1)
            with pytest.raises(Stopped):
                train_workdir(
                    asked, MemoryStore(), VOCABULARY, folder, stop_requested=lambda step=step: next(step) == steps
                )
        return load_trained(asked, folder, -1).towers.query.params["embedding"]

    split = run(tmp_path / "split", (WHOLE, MeshConfig(), WHOLE), steps=2)
    np.testing.assert_allclose(split, run(tmp_path / "whole", (WHOLE,), steps=6), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_step_gathers_each_kernel_once_and_sums_no_table_whole():
    """XLA for CPUs keeps a sum and a slice where TPUs scatter, so sums of kernels are not counted here."""
    asked = config(with_vocabulary(MLM(Encoder(BERT), passage_length=16), 300))
    program = make_program(asked)
    with jax.set_mesh(program.mesh):
        text = program.step.lower(program.like, abstract_batch(asked)[1]).compile().as_text()
    found = collectives(text, 8)
    gathered = [one.size for one in found if one.kind == "all-gather"]
    up = 4 * 64 * 128
    assert gathered.count(up) == 2  # up and down
    assert gathered.count(4 * 300 * 64) == 1  # of the head


def test_the_gradient_of_a_float32_kernel_is_summed_in_float32_and_that_of_a_bfloat16_kernel_as_it_is():
    def gradient(kernel):
        rows = jnp.ones((257, 1), jnp.bfloat16)  # bfloat16 has no 257
        return jax.grad(lambda kernel: multiply(rows, kernel, "float32").sum())(kernel)

    assert gradient(jnp.ones((1, 1))).item() == 257
    assert gradient(jnp.ones((1, 1), jnp.bfloat16)).item() == 256


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.AUTO])  # on a CPU both are float32
def test_bfloat16_gradients_need_bfloat16_layers(dtype):
    mesh = MeshConfig(gradient_dtype=GradientDtype.BFLOAT16)
    with pytest.raises(ConfigError, match=r"mesh.gradient_dtype=bfloat16 rounds .* compute in dtype=float32; use"):
        make_program(config(MLM(Encoder(replace(BERT, dtype=dtype)), passage_length=16), mesh))


def test_gradients_of_chunks_are_not_summed_in_bfloat16():
    method = MLM(Encoder(replace(BERT, dtype=Dtype.BFLOAT16)), passage_length=16)
    chunked = replace(config(method, MeshConfig(gradient_dtype=GradientDtype.BFLOAT16)), chunk=8)
    with pytest.raises(ConfigError, match=r"gradients of the chunks of chunk=8 in bfloat16"):
        make_program(chunked)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_with_bfloat16_products_state_loss_and_metrics_are_float32(path):
    asked = load(path, "tiny")
    method: Any = with_vocabulary(shrunk(asked.objective, Dtype.BFLOAT16), VOCABULARY.size)
    mesh = MeshConfig(gradient_dtype=GradientDtype.BFLOAT16)
    program = make_program(replace(asked, objective=method, batch=16, chunk=0, steps=1_000, mesh=mesh))
    state, metrics = jax.eval_shape(program.step, program.like, batch_of(method))
    assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}
    assert {x.dtype.name for x in jax.tree.leaves(metrics)} == {"float32"}
