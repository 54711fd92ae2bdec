"""The benchmarks: both sides do the same, and the scripts run. Nothing here asserts a time."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dense_jax.config import OptimizerConfig, Schedule, command_line
from dense_jax.data.preparation.prepare import prepare
from dense_jax.hf import tensors
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.pooling import Pooling
from dense_jax.train.optimizer import make_optimizer
from tests.tpu_compiler import needs_tpu_compiler

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its files import each other by their plain names, being scripts

import tasks  # noqa: E402


@pytest.fixture(scope="module")
def peers():
    """The other side, which imports torch and transformers."""
    return importlib.import_module("peers")


# Both sides do the same

SETTINGS = OptimizerConfig(learning_rate=1e-2, schedule=Schedule.CONSTANT, clip=0.5, weight_decay=0.5)


def small_task(objective):
    shape = BertConfig(1, 16, 2, 32, vocab_size=tasks.VOCABULARY, positions=32, dropout=0.0, attention_dropout=0.0)
    return tasks.TASKS[objective](Encoder(shape, Pooling.MEAN, normalize=True), 8, 32)


def small_batches(objective):
    return [small_task(objective).batch(np.random.default_rng(seed)) for seed in range(2)]


@pytest.mark.slow
def test_the_dual_encoders_have_one_loss(peers, tmp_path):
    objective, (batch, _) = small_task("ict").objective, small_batches("ict")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32), shapes)
    expected, _ = jax.jit(objective.loss)(params, {}, batch, rng=jax.random.key(0), step=jnp.zeros((), int))
    tensors.save_params(params["encoder"], objective.encoder.bert, tmp_path, pad=0)
    for kind in ("default", "tuned"):
        network, batches, loss = peers.TRAININGS["ict"](tmp_path, [batch], kind)
        assert float(loss(network, batches[0]).detach()) == pytest.approx(float(expected), abs=1e-4)  # float32 rounding


@pytest.mark.slow
def test_the_optimisers_do_the_same_arithmetic(peers):
    import torch

    x, y = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    network = torch.nn.Linear(3, 3)
    start = {"kernel": network.weight.detach().numpy().T.copy(), "bias": network.bias.detach().numpy().copy()}
    batch = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
    training = peers.Training(network, [batch], lambda model, b: ((model(b["x"]) - b["y"]) ** 2).sum())
    program = peers.trainer(training, "default", SETTINGS, "float32")
    theirs = [float(program.step(i)) for i in range(4)]

    optimizer = make_optimizer(SETTINGS, steps=4)
    params, state, ours = start, optimizer.init(start), []
    for _ in range(4):
        loss, gradients = jax.value_and_grad(lambda p: jnp.sum((x @ p["kernel"] + p["bias"][None] - y) ** 2))(params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        ours.append(float(loss))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)  # float32 rounding
    assert ours[-1] < 0.95 * ours[0]


@pytest.mark.slow
def test_scores_at_masked_positions_only_train_the_same_model(peers, tmp_path):
    import transformers

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)

    def losses(kind):
        trained = peers.TRAININGS["mlm"](tmp_path, small_batches("mlm"), kind)
        program = peers.trainer(trained, kind, SETTINGS, "float32")
        return [float(program.step(i)) for i in range(4)]

    default, tuned = losses("default"), losses("tuned")
    np.testing.assert_allclose(tuned, default, rtol=0, atol=1e-4)  # float32 rounding
    assert tuned[2] < tuned[0] - 0.1  # the same batch: training did something


def test_a_batch_of_mlm_hides_fifteen_percent_and_remembers_them():
    task = small_task("mlm")
    batch = task.batch(np.random.default_rng(0))
    assert batch["positions"].shape == (8, 5)  # 0.15 * 32, rounded
    hidden = np.take_along_axis(batch["tokens"].ids, batch["positions"], axis=1)
    assert (hidden == tasks.MASK).all()
    assert (batch["labels"] >= tasks.FIRST_WORD).all()
    assert (batch["tokens"].ids[:, [0, -1]] == (tasks.CLS, tasks.SEP)).all()


def test_the_text_of_a_row_is_tokenised_back_to_its_ids(tmp_path):
    row = tasks.random_tokens(np.random.default_rng(0), rows=1, length=16)
    tokenizer = tasks.write_tokenizer(tmp_path, 16)
    (found,) = tokenizer.encode([tasks.text(type(row)(*(field[0] for field in row)))])
    assert found.tolist() == row.ids[0, 1:-1].tolist()


# The scripts, as they are run


def rows_of(*words, codes=(0,)):
    """The JSON lines that a script prints before it exits with one of `codes`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode in codes, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_training_compares_us_with_both_peers():
    words = ("benchmarks/train.py", "--size=tiny", "--batch=2", "--seq=16", "--steps=2", "--warmup=2")
    rows = rows_of(*words)
    assert [row["program"] for row in rows] == ["dense_jax", "torch default", "torch tuned"]
    assert rows[0]["command"] == "python " + " ".join(words)
    for row in rows:
        assert row["loss"] == pytest.approx(rows[0]["loss"], abs=1e-4)  # float32 rounding


@pytest.mark.slow
def test_a_gradient_cache_trains_the_same_model_on_both_sides():
    words = ("--size=tiny", "--objective=ict", "--batch=4", "--seq=16", "--steps=2", "--warmup=2", "--peer=tuned")
    ours, theirs = rows_of("benchmarks/train.py", *words, "--chunk=2")
    assert (ours["program"], theirs["program"]) == ("dense_jax", "torch tuned")
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)  # float32 rounding


@pytest.mark.slow
def test_exact_search_finds_the_same_as_pytorch():
    rows = rows_of("benchmarks/exact.py", "--vectors=70000", "--width=16", "--queries=8", "--steps=2", "--warmup=1")
    assert [row["program"] for row in rows] == ["dense_jax, exact", "torch tuned"]
    assert [row["recall@100"] for row in rows] == pytest.approx([1, 1], abs=0.01)  # equal scores up to rounding


@pytest.mark.slow
@pytest.mark.timeout(1800)  # seven programs
def test_all_of_a_gpu_is_measured_by_one_script_and_kept_part_by_part(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    command = ["benchmarks/gpu.sh", "--tiny", str(tmp_path), "1700"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["program"] for row in rows].count("torch tuned") == 7
    parts = [line for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("## ")]
    names = ("mlm-128", "ict", "encode", "search", "contrastive", "mlm-512", "mlm-256")
    assert parts == [f"## {name}" for name in names]


@pytest.mark.slow
def test_parts_for_which_no_time_is_left_are_named_and_what_is_missing_too(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    command = ["benchmarks/gpu.sh", "--tiny", str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left out") == 7
    assert "missing: jax for CUDA, torch for CUDA\n" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_prepare_is_compared_with_the_map_of_datasets_on_the_same_documents(tmp_path):
    lines = [json.dumps({"_id": str(i), "text": f"The quick fox {i}. It jumps over the lazy dog."}) for i in range(40)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    settings = ["--config=ict:tiny", f"--workdir={tmp_path / 'work'}", f"--corpus.source={tmp_path / 'corpus.jsonl'}"]
    settings += ["--corpus.held_out=0", "--tokenizer.vocab_size=100"]
    prepare(command_line.parse(settings).config, tmp_path / "work")
    rows = rows_of("benchmarks/prepare.py", *settings, "--steps=2")
    assert [row["program"] for row in rows] == ["dense-jax prepare", "datasets.map, batched", "datasets.map"]
    assert all(row["MB/CPU s"] > 0 for row in rows)


@pytest.mark.slow
def test_encoding_compares_ids_with_ids_and_text_with_text():
    rows = rows_of("benchmarks/encode.py", "--size=tiny", "--batch=2", "--seq=16", "--steps=2", "--warmup=1")
    names = ["dense_jax", "dense_jax, from text", "torch default", "torch tuned", "sentence-transformers, from text"]
    assert [row["program"] for row in rows] == names
    assert [row["time / ours"][0] == 1 for row in rows] == [True, True, False, False, False]
    assert all(row["max Δcos"] < 1e-5 for row in rows)  # float32 rounding


@pytest.mark.slow
def test_search_compares_us_with_faiss_at_the_same_recall():
    rows = rows_of("benchmarks/search.py", "--vectors=2000", "--width=16", "--steps=2")
    names = ["faiss IVF-PQ fast scan", "faiss HNSW"] if importlib.util.find_spec("faiss") else []
    for aim in (0.9, 0.95):
        of_aim = [row for row in rows if f"{aim:.2f}" in row["aim"]]
        assert [row["program"] for row in of_aim] == ["dense_jax, ScaNN", *names, "dense_jax, exact"]
        assert all(row["recall@10"] >= aim for row in of_aim)
    built, exact = (row for row in rows if "as built" in row["aim"])
    assert built["recall@10"] > 0.9 and exact["recall@10"] == 1


@pytest.mark.slow
def test_two_devices_have_half_of_the_work_and_of_the_state_each_with_and_without_fsdp():
    words = ("benchmarks/scaling.py", "configs/ict.py:tiny", "--devices")
    one, two = rows_of(*words, 1, 2)
    (split,) = rows_of(*words, 2, "--fsdp")
    assert (one["devices"], two["devices"], one["MB sent"]) == (1, 2, 0)
    assert two["GFLOP"] == pytest.approx(one["GFLOP"] / 2, rel=0.05)
    assert "all-reduce" in two["collectives"]
    assert two["MB of state and batch"] < 0.6 * one["MB of state and batch"]  # the update is sharded
    assert split["MB of state and batch"] < 0.6 * one["MB of state and batch"]


@pytest.mark.slow
@needs_tpu_compiler
def test_a_config_has_a_row_for_each_topology():
    words = ("benchmarks/topology.py", "configs/ict.py:tiny", "--topology", "v5e:2x2", "v5e:2x4")
    few, many = rows_of(*words, "--batch=64")
    assert (few["config"], few["batch"], few["topology"], many["topology"]) == ("ict.py:tiny", 64, "v5e:2x2", "v5e:2x4")
    assert few["compute ms"] == pytest.approx(2 * many["compute ms"])
    assert "all-reduce" in few["collectives"]


@pytest.mark.slow
def test_the_data_benchmark_compares_every_stage_with_training(tmp_path):
    sentences = 9 * "The quick brown fox jumps over the lazy dog. "
    lines = [json.dumps({"_id": str(i), "title": "fox", "text": f"Fox {i}. {sentences}"}) for i in range(40)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.py").write_text(
        "from dense_jax.config import Config\nfrom tests.toys import BagOfTokens, MeanEmbedding\n"
        "def get_config(variant=''):\n    return Config(BagOfTokens(MeanEmbedding(vocab_size=0)), steps=1, batch=8)\n"
    )
    words = [
        f"--config={tmp_path / 'config.py'}",
        f"--workdir={tmp_path}",
        f"--corpus.source={tmp_path / 'corpus.jsonl'}",
        "--tokenizer.vocab_size=100",
    ]
    prepare(command_line.parse(words).config, tmp_path)
    words = ["benchmarks/data.py", *words, "--steps=2", "--batches=2"]
    found = rows_of(*words, codes=(0, 6))  # 6: the toy trains faster than its examples are made, which may be
    rows = {row["stage"]: row for row in found}
    reading = ["tokenise", "read, many at once", "read, one by one"]
    making = ["examples of mlm", "examples of ict", "whole pipeline", "training"]
    assert list(rows) == reading + making
    assert all(row["tokens/CPU s"] > 0 for row in rows.values())
    assert rows["training"]["rate / training"] == [1, 1, 1]


@pytest.mark.slow
def test_texts_padded_and_packed_train_the_same_model(tmp_path):
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["fox", "dog", "jumps", "lazy", "quick"], size=4 + i % 30)) for i in range(200)]
    lines = [json.dumps({"_id": str(i), "text": f"A {text}. The {text}."}) for i, text in enumerate(words)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    settings = ["--config=ict:tiny", f"--workdir={tmp_path}", f"--corpus.source={tmp_path / 'corpus.jsonl'}"]
    settings += ["--corpus.held_out=0", "--tokenizer.vocab_size=100", "--batch=16"]
    prepare(command_line.parse(settings).config, tmp_path)
    rows = rows_of("benchmarks/packing.py", *settings, "--steps=2", "--warmup=2")
    assert [row["program"].partition(",")[0] for row in rows] == ["packed", "padded"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-4)  # float32 rounding
    assert rows[1]["fill"] < rows[0]["fill"] <= 1
