"""Hugging Face weights both ways: every array, under every spelling, and nothing loaded or lost in silence."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dense_jax.errors import ConfigError, StorageError
from dense_jax.hf import tensors
from dense_jax.models.layers import Gelu
from tests.bert_folders import SMALL, flat, fresh_params, settings, subtrees


@pytest.fixture(scope="module")
def params():
    return fresh_params()


@pytest.fixture
def folder(tmp_path, params):
    """All three parts of a small model, as `save` writes them."""
    tensors.save_params(subtrees(params), SMALL, tmp_path / "model", pad=0)
    return tmp_path / "model"


def test_every_array_survives_the_way_out_and_back(folder, params):
    other = jax.tree.map(jnp.zeros_like, params)
    found, report = tensors.load_params(other, folder, settings(SMALL))
    for path, array in flat(subtrees(params)).items():
        np.testing.assert_array_equal(flat(subtrees(found))[path], array)
    assert report.initialised == [
        f"encoder/projection/{x}" for x in ("dense/bias", "dense/kernel", "norm/bias", "norm/scale")
    ]


def test_all_towers_of_an_objective_are_filled(folder, params):
    tree = {"query": {"bert": params["encoder"]["bert"]}, "passage": {"bert": params["encoder"]["bert"]}}
    found, report = tensors.load_params(jax.tree.map(jnp.zeros_like, tree), folder, settings(SMALL))
    assert len(report.loaded) == 2 * (4 + 1 + 2 * 16)
    jax.tree.map(np.testing.assert_array_equal, found, tree)


def test_the_report_names_what_was_loaded_kept_and_ignored(folder, params):
    tree = {"encoder": {"bert": params["encoder"]["bert"]}, "queue": {"bias": jnp.ones(3)}}
    found, report = tensors.load_params(tree, folder, settings(SMALL))
    np.testing.assert_array_equal(found["queue"]["bias"], 1)
    text = str(report)
    assert f"{folder}: 37 arrays loaded" in text
    assert "encoder/bert/layer_*/attention/query/kernel  x 2" in text
    assert "1 newly initialised\n  queue/bias" in text
    assert "7 ignored, of the folder\n  cls.predictions.bias" in text


@pytest.mark.parametrize("spelling", ["gamma and beta", "no prefix"])
def test_older_spellings_of_names_are_read(spelling, folder, params):
    def rename(name):
        if spelling == "no prefix":
            return name.removeprefix("bert.")
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(folder, lambda tensors: {rename(name): x for name, x in tensors.items()})
    found, _ = tensors.load_params(jax.tree.map(jnp.zeros_like, params), folder, settings(SMALL))
    jax.tree.map(np.testing.assert_array_equal, subtrees(found), subtrees(params))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_files_of_other_floating_point_types_become_float32(kind, folder, params):
    rewrite(folder, lambda tensors: {name: x.astype(jnp.dtype(kind)) for name, x in tensors.items()})
    found, _ = tensors.load_params(params, folder, settings(SMALL))
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype("float32")}


def test_shards_are_read_through_their_index(folder, params):
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(arrays)}
    for place in set(places.values()):
        save_file({name: x for name, x in arrays.items() if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found, _ = tensors.load_params(jax.tree.map(jnp.zeros_like, params), folder, settings(SMALL))
    jax.tree.map(np.testing.assert_array_equal, subtrees(found), subtrees(params))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(StorageError, match=r"00002-of-00002\.safetensors: no such file, but model\.safetensors\.index"):
        tensors.load_params(params, folder, settings(SMALL))


def test_a_padded_vocabulary_keeps_its_own_last_rows(folder, params):
    bert = replace(SMALL, vocab_size=48)
    before = fresh_params(bert)
    found, report = tensors.load_params(before, folder, settings(bert))
    rows = found["encoder"]["bert"]["word"]["embedding"]
    np.testing.assert_array_equal(rows[:40], params["encoder"]["bert"]["word"]["embedding"])
    np.testing.assert_array_equal(rows[40:], before["encoder"]["bert"]["word"]["embedding"][40:])
    assert "in encoder/bert/word/embedding the last 8 rows are newly initialised" in str(report)
    assert "in mlm/bias the last 8 rows are newly initialised" in str(report)


def rewrite(folder, change):
    arrays = change(load_file(folder / "model.safetensors"))
    save_file(arrays, folder / "model.safetensors")


def test_only_the_weights_of_the_model_are_read(folder, params):
    """Mistral's authors, for one, publish the same weights a second time as consolidated.safetensors."""
    (folder / "consolidated.safetensors").write_bytes(b"not a header at all")
    found, report = tensors.load_params(jax.tree.map(jnp.zeros_like, params), folder, settings(SMALL))
    jax.tree.map(np.testing.assert_array_equal, subtrees(found), subtrees(params))
    assert report.ignored == ["consolidated.safetensors"]


@pytest.mark.parametrize("prefix", ["0.auto_model.", "model.", "module.", "0.model.", "student."])
@pytest.mark.parametrize("base", ["bert.", ""])
def test_a_model_that_was_saved_as_a_part_of_another_is_read(prefix, base, folder, params):
    rewrite(folder, lambda tensors: {prefix + name.replace("bert.", base, 1): x for name, x in tensors.items()})
    found, report = tensors.load_params(jax.tree.map(jnp.zeros_like, params), folder, settings(SMALL))
    jax.tree.map(np.testing.assert_array_equal, subtrees(found), subtrees(params))
    assert not report.ignored


# What cannot be loaded


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_git_lfs_pointer_is_named_with_its_cure(name, folder, params):
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n")
    message = load_error(folder, params)
    assert (
        message
        == f"{folder}/{name}: a Git LFS pointer, not the file itself; fetch it by `git lfs pull` in its repository"
    )


def test_a_folder_of_two_encoders_is_refused(folder, params):
    both = lambda tensors: {f"{side}.{name}": x for side in ("query", "passage") for name, x in tensors.items()}  # noqa: E731
    rewrite(folder, both)
    assert "holds 2 encoders, 'passage.bert.' and 'query.bert.'; save the one to start" in load_error(folder, params)


def test_quantized_weights_are_refused_by_name(folder, params):
    word = "bert.embeddings.word_embeddings.weight"
    rewrite(folder, lambda tensors: tensors | {word: tensors[word].astype(np.int8)})
    assert f"model.safetensors: {word} has the type I8; quantized weights cannot be read" in load_error(folder, params)


def load_error(folder, params, bert=SMALL, kind=StorageError):
    with pytest.raises(kind) as error:
        tensors.load_params(params, folder, settings(bert))
    return str(error.value)


def test_another_architecture_is_refused_with_the_flags_that_cure_it(folder, params):
    ours = replace(SMALL, heads=4, epsilon=1e-5, gelu=Gelu.TANH, vocab_size=30)
    lines = load_error(folder, params, ours, ConfigError).splitlines()
    path = "objective.encoder.bert"
    assert lines[0] == f"{path}.heads=4, but {folder} has 2; use --{path}.heads=2"
    assert lines[1] == f"{path}.epsilon=1e-05, but {folder} has 1e-12; use --{path}.epsilon=1e-12"
    assert lines[2] == f"{path}.gelu=tanh, but {folder} has erf; use --{path}.gelu=erf"
    assert lines[3].startswith(f"{path}.vocab_size=30 is smaller than the 40 of {folder}")
    assert lines[3].endswith(
        "run `dense-jax prepare` with the same flags and another --workdir, which takes its tokenizer"
    )


def test_a_tensor_of_another_shape_is_refused_by_name(folder, params):
    rewrite(folder, lambda tensors: tensors | {"bert.encoder.layer.1.output.dense.bias": np.zeros(7, np.float32)})
    message = load_error(folder, params)
    assert "encoder.layer.1.output.dense.bias has shape (7,), but encoder/bert/layer_1/down/bias has (16,)" in message


def test_a_missing_tensor_is_refused_by_name(folder, params):
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if "layer.1.output.dense" not in k})
    message = load_error(folder, params)
    assert "its encoder lacks encoder.layer.1.output.dense.bias, encoder.layer.1.output.dense.weight" in message


def test_half_a_head_is_refused_and_no_head_is_reported(folder, params):
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("cls.predictions.transform")})
    assert "its masked-LM head lacks cls.predictions.transform.LayerNorm.bias" in load_error(folder, params)
    rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("cls.")})
    _, report = tensors.load_params(params, folder, settings(SMALL))
    assert [path for path in report.initialised if path.startswith("mlm")] == [
        "mlm/bias", "mlm/dense/bias", "mlm/dense/kernel", "mlm/norm/bias", "mlm/norm/scale"
    ]  # fmt: skip


def test_parameters_without_a_bert_are_refused(folder):
    message = load_error(folder, {"table": {"embedding": jnp.ones((2, 2))}})
    assert "nothing in it belongs to the objective's parameters, which hold no encoder" in message


def test_an_untied_vocabulary_matrix_is_refused_where_it_would_be_lost(folder, params):
    untied = {"cls.predictions.decoder.weight": np.ones((40, 16), np.float32)}
    rewrite(folder, lambda tensors: tensors | untied)
    assert "cls.predictions.decoder.weight is not embeddings.word_embeddings.weight" in load_error(folder, params)
    _, report = tensors.load_params({"bert": params["encoder"]["bert"]}, folder, settings(SMALL))
    assert "cls.predictions.decoder.weight" in report.ignored


@pytest.mark.slow
def test_pickled_weights_are_refused_with_a_command_that_converts_them(folder, params):
    torch = pytest.importorskip("torch", reason="the command is for a machine with PyTorch")
    import safetensors.torch

    weights = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = load_error(folder, params)
    assert "holds pickled weights only, and unpickling runs whatever code is in them" in message
    command = message.splitlines()[-1].removeprefix("python")
    subprocess.run(sys.executable + command, shell=True, check=True)
    found, _ = tensors.load_params(jax.tree.map(jnp.zeros_like, params), folder, settings(SMALL))
    jax.tree.map(np.testing.assert_array_equal, subtrees(found), subtrees(params))


def test_a_folder_without_weights_is_refused(folder, params):
    (folder / "model.safetensors").unlink()
    assert load_error(folder, params) == f"{folder} holds no model.safetensors"


def test_a_damaged_file_is_refused_by_name(folder, params):
    (folder / "model.safetensors").write_bytes(b"not a header at all")
    assert f"{folder}/model.safetensors: damaged" in load_error(folder, params)


def test_save_refuses_parameters_that_have_no_place_there(tmp_path, params):
    with pytest.raises(StorageError, match="projection/dense/bias has no counterpart in a Hugging Face Bert"):
        tensors.save_params(params["encoder"], SMALL, tmp_path, pad=0)


def test_t30_transposed_arrays_are_written_as_they_are(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    tensors.write_tensors({"x": array}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["x"], [[0, 3], [1, 4], [2, 5]])


def test_a_file_that_reads_back_differently_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "load_file", lambda path: {"x": np.zeros(2)})
    with pytest.raises(StorageError, match=r"x\.safetensors: reading it back gives other values for x"):
        tensors.write_tensors({"x": np.ones(2)}, tmp_path / "x.safetensors")
