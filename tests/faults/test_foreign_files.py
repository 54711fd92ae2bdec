"""Files of other programs that hold what they should not: weights and prepared data sets."""

import json
import struct

import pytest

from dense_jax.data.sources.document_files import open_tfds
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.hf.tensors import read_tensors


def weights(path, header, data=b"\0" * 16, size=None):
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(raw) if size is None else size) + raw + data)
    return path.parent


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1, 1 << 40, 0, 5])
def test_t29_a_header_of_weights_that_does_not_fit_its_file_is_refused(tmp_path, size):
    folder = weights(
        tmp_path / "model.safetensors", {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, size=size
    )
    with pytest.raises(StorageError, match=r"model\.safetensors: damaged"):
        read_tensors(folder)


@pytest.mark.parametrize("kind", ["F128", "F8_E4M3", "F4", "X", ""])
def test_weights_of_an_unknown_type_are_refused_by_name(tmp_path, kind):
    header = {"embeddings.a": {"dtype": kind, "shape": [16], "data_offsets": [0, 16]}}
    with pytest.raises((StorageError, ConfigError), match=r"model\.safetensors: (damaged|holds numbers)"):
        read_tensors(weights(tmp_path / "model.safetensors", header))


@pytest.mark.parametrize("raw", [b"", b"abc", b"null", b"[" * 100_000, b"\0" * 64])
def test_a_header_of_weights_that_is_none_is_refused(tmp_path, raw):
    with pytest.raises(StorageError, match=r"model\.safetensors: damaged"):
        read_tensors(weights(tmp_path / "model.safetensors", raw, b""))


@pytest.mark.parametrize("text", [None, "", "null", "[", "[" * 100_000, '{"name": 3}', "{}", '{"name": "x"}'])
def test_a_data_set_of_tfds_without_sound_metadata_is_named(tmp_path, text):
    folder = tmp_path / "x" / "1.0.0"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "dataset_info.json").write_text(text)
        (folder / "features.json").write_text(text)
    with pytest.raises(DataError, match=r"corpus source tfds:.*x/1.0.0, corpus.split=train: "):
        open_tfds(str(folder), "train")
