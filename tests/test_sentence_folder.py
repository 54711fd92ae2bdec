"""sentence-transformers folders in the spellings of its versions."""

import json

import pytest

from dense_jax.contracts import Similarity
from dense_jax.errors import ConfigError
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.sentence_folder import read_sentence_folder
from tests.bert_folders import NEW, OLD, SMALL, sentence_folder, write_config


def read_encoder(folder, *pooling) -> Encoder:
    return read_sentence_folder(folder, *pooling).encoder


@pytest.mark.parametrize(
    ("pooling", "home", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, OLD, Pooling.CLS),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, OLD, Pooling.MEAN),
        ({"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True}, NEW, Pooling.CLS),
        ({"pooling_mode": "mean"}, NEW, Pooling.MEAN),
    ],
)
def test_old_and_new_spellings_of_pooling_are_read(pooling, home, mode, tmp_path):
    found = read_encoder(sentence_folder(tmp_path, pooling, home=home))
    assert found == Encoder(SMALL, mode, normalize=True)


def test_prompts_length_and_similarity_are_read(tmp_path):
    prompts = {"query": "query: ", "passage": "passage: "}
    folder = sentence_folder(
        tmp_path, {"pooling_mode": "cls"}, ("Transformer", "Pooling"), prompts=prompts, similarity_fn_name="dot"
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    found = read_sentence_folder(folder)
    assert (found.query_prompt, found.passage_prompt, found.length) == ("query: ", "passage: ", 9)
    assert found.similarity is Similarity.DOT
    assert not found.encoder.normalize
    assert found.weights == folder


def test_cosine_similarity_means_normalised_vectors(tmp_path):
    folder = sentence_folder(tmp_path, {"pooling_mode": "cls"}, ("Transformer", "Pooling"), similarity_fn_name="cosine")
    assert read_sentence_folder(folder).similarity is Similarity.COSINE
    assert read_encoder(folder).normalize


@pytest.mark.parametrize(("limit", "length"), [(10, 10), (10**30, 12)])
def test_without_its_own_length_a_folder_has_the_tokenizers_or_the_models(limit, length, tmp_path):
    (write_config(tmp_path) / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert read_sentence_folder(tmp_path).length == length


def test_a_plain_folder_is_pooled_as_asked_and_by_default_cls(tmp_path):
    write_config(tmp_path)
    assert read_encoder(tmp_path) == Encoder(SMALL, Pooling.CLS)
    assert read_encoder(tmp_path, Pooling.MEAN) == Encoder(SMALL, Pooling.MEAN)


def test_unknown_modules_pooling_and_similarity_are_refused(tmp_path):
    chain = ("Transformer", "Pooling", "Dense")
    with pytest.raises(ConfigError, match="the modules are Transformer, Pooling, Dense; only Transformer, Pooling or"):
        read_encoder(sentence_folder(tmp_path / "a", {"pooling_mode": "cls"}, chain))
    with pytest.raises(ConfigError, match=r"pooling is \['pooling_mode_max_tokens'\]; only cls or mean"):
        read_encoder(sentence_folder(tmp_path / "b", {"pooling_mode_max_tokens": True}))
    with pytest.raises(ConfigError, match="similarity is 'manhattan'; only cosine, dot"):
        chain = ("Transformer", "Pooling")
        read_encoder(sentence_folder(tmp_path / "c", {"pooling_mode": "cls"}, chain, similarity_fn_name="manhattan"))
