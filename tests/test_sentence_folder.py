"""sentence-transformers folders in the spellings of its versions."""

import json

import pytest

from dense_jax.errors import ConfigError
from dense_jax.hf.sentence_transformers import print_note, read_sentence_folder
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.types import Similarity
from tests.bert_folders import NEW, OLD, SMALL, sentence_folder, write_config

CLS = {"pooling_mode": "cls"}


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
    found = read_sentence_folder(sentence_folder(tmp_path, pooling, home=home)).encoder
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
    assert read_sentence_folder(folder).encoder.normalize


@pytest.mark.parametrize(("limit", "length"), [(10, 10), (10**30, 12)])
def test_without_its_own_length_a_folder_has_the_tokenizers_or_the_models(limit, length, tmp_path):
    (write_config(tmp_path) / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert read_sentence_folder(tmp_path).length == length


def test_a_plain_folder_is_pooled_by_the_mean_and_compared_by_cosine_with_a_note(tmp_path):
    found = read_sentence_folder(write_config(tmp_path))
    assert found.encoder == Encoder(SMALL, Pooling.MEAN, normalize=True)
    assert found.similarity is Similarity.COSINE
    pooled, compared = found.notes
    assert "has no modules.json, so its vectors are the mean over tokens" in pooled
    assert "names no similarity, so vectors have length 1 and are compared by cosine" in compared


@pytest.mark.parametrize(
    ("modules", "notes"), [(("Transformer", "Pooling"), 1), (("Transformer", "Pooling", "Normalize"), 0)]
)
def test_without_a_named_similarity_vectors_are_compared_by_cosine(modules, notes, tmp_path):
    found = read_sentence_folder(sentence_folder(tmp_path, CLS, modules, similarity_fn_name=None))
    assert (found.similarity, found.encoder.normalize, len(found.notes)) == (Similarity.COSINE, True, notes)


def test_a_note_is_printed_once(capsys):
    for note in ("a", "a", "b"):
        print_note(note)
    assert capsys.readouterr().err == "note: a\nnote: b\n"


@pytest.mark.parametrize(
    ("prompts", "default", "query", "passage"),
    [
        ({"query": "q: ", "document": ""}, "query", "q: ", ""),
        ({"query": "", "passage": "p: "}, "passage", "", "p: "),
        ({"query": None, "document": None}, "query", "", ""),
        ({"document": "", "passage": "p: "}, None, "", ""),
        ({"search": "s: "}, "search", "s: ", "s: "),
        ({"search": "s: "}, None, "", ""),
        (None, None, "", ""),
    ],
)
def test_an_empty_prompt_is_a_prompt_and_an_absent_one_is_the_default(prompts, default, query, passage, tmp_path):
    found = read_sentence_folder(sentence_folder(tmp_path, CLS, prompts=prompts, default_prompt_name=default))
    assert (found.query_prompt, found.passage_prompt) == (query, passage)
    assert len(found.notes) == 2 * (default == "search")


def test_a_default_prompt_that_there_is_not_is_refused(tmp_path):
    folder = sentence_folder(tmp_path, CLS, prompts={"query": "q: "}, default_prompt_name="search")
    with pytest.raises(
        ConfigError, match="default_prompt_name is 'search', but the prompts are query; name one of them"
    ):
        read_sentence_folder(folder)


def test_a_mean_without_the_prompt_is_read_and_of_other_pooling_refused(tmp_path):
    prompts = {"query": "q: ", "document": ""}
    folder = sentence_folder(tmp_path / "a", {"pooling_mode": "mean", "include_prompt": False}, prompts=prompts)
    assert not read_sentence_folder(folder).pools_prompt
    folder = sentence_folder(tmp_path / "b", {"pooling_mode": "cls", "include_prompt": False})
    assert read_sentence_folder(folder).pools_prompt  # there is none
    folder = sentence_folder(tmp_path / "c", {"pooling_mode": "cls", "include_prompt": False}, prompts=prompts)
    with pytest.raises(ConfigError, match="include_prompt of its Pooling is false, which only a mean obeys"):
        read_sentence_folder(folder)


def test_queries_and_passages_may_have_lengths_of_their_own(tmp_path):
    folder = sentence_folder(tmp_path, CLS)
    (folder / "sentence_bert_config.json").write_text(
        '{"query_length": 5, "document_length": null, "max_seq_length": 9}'
    )
    found = read_sentence_folder(folder)
    assert (found.query_length, found.length) == (5, 9)


def test_a_length_beyond_the_positions_is_cut_with_a_note(tmp_path):
    folder = sentence_folder(tmp_path, CLS)
    (folder / "sentence_roberta_config.json").write_text('{"max_seq_length": 512}')
    found = read_sentence_folder(folder)
    assert found.length == 12
    assert "max_seq_length is 512, but the model has positions for 12 tokens; longer texts are cut" in found.notes[0]


def test_a_model_in_a_folder_of_its_own_is_found(tmp_path):
    folder = sentence_folder(tmp_path, CLS)
    chain = json.loads((folder / "modules.json").read_text())
    chain[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(chain))
    (folder / "0_Transformer").mkdir()
    (folder / "config.json").rename(folder / "0_Transformer/config.json")
    (folder / "0_Transformer/sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    found = read_sentence_folder(folder)
    assert (found.weights, found.length) == (folder / "0_Transformer", 7)


def test_dropout_has_no_effect(tmp_path):
    folder = sentence_folder(tmp_path, CLS, ("Transformer", "Pooling", "Dropout", "Normalize"))
    (folder / "2_Dropout").mkdir()
    (folder / "2_Dropout/config.json").write_text('{"dropout": 0.3}')
    assert read_sentence_folder(folder).encoder == Encoder(SMALL, Pooling.CLS, normalize=True)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config_sentence_transformers.json",
            {"truncate_dim": 8},
            "truncate_dim is 8, and a folder.s vectors are not",
        ),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type is 'SparseEncoder'; only"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "manhattan"}, "similarity_fn_name is 'manhattan'"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}, "similarity_fn_name is 'euclidean'"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling is max; only cls or mean can be read"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling is lasttoken; only"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pooling is weightedmean; only"),
        ("1_Pooling/config.json", {"pooling_mode": "mean_sqrt_len_tokens"}, "pooling is mean_sqrt_len_tokens; only"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling is cls and mean; only"),
        ("1_Pooling/config.json", {"temperature": 2}, r"1_Pooling/config\.json: temperature is unknown"),
        ("1_Pooling/config.json", {"embedding_dimension": 3}, "embedding_dimension is 3; only 16 can be obeyed"),
        (
            "2_Normalize/config.json",
            {"module_input_name": "token_embeddings"},
            "module_input_name is 'token_embeddings'",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is true, but the tokenizer keeps case"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'; only"),
        (
            "sentence_bert_config.json",
            {"module_output_name": "x"},
            "module_output_name is 'x'; only 'token_embeddings'",
        ),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "modality_config is {'image': {}}; only"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"max_length": 3}}},
            "processing_kwargs is {'text'",
        ),
        ("sentence_bert_config.json", {"query_expansion": {"length": 3}}, "query_expansion is {'length': 3}; only {}"),
        (
            "sentence_bert_config.json",
            {"tokenizer_args": {"do_lower_case": True}},
            "tokenizer_args is {'do_lower_case'",
        ),
        (
            "sentence_bert_config.json",
            {"tokenizer_name_or_path": "x"},
            "tokenizer_name_or_path is unknown, so it cannot be",
        ),
        ("adapter_config.json", {}, "adapters cannot be read; merge it into the weights"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_refused_by_its_name(file, change, message, tmp_path):
    path = sentence_folder(tmp_path, CLS) / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | change))
    with pytest.raises(ConfigError, match=message):
        read_sentence_folder(tmp_path)


def test_lower_case_is_obeyed_by_a_tokenizer_that_lowers_it(tmp_path):
    folder = sentence_folder(tmp_path, CLS)
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    for lowers in ({"type": "BertNormalizer", "lowercase": True}, {"type": "Lowercase"}, normalizer):
        (folder / "tokenizer.json").write_text(json.dumps({"normalizer": lowers, "model": {}}))
        assert read_sentence_folder(folder).length == 12


def test_what_has_no_effect_on_vectors_is_read_and_what_the_library_does_not_know_is_noted(tmp_path):
    folder = sentence_folder(tmp_path, CLS, requirements={"torch": ">=2"}, __version__={}, colour="red")
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    raw = {
        "unpad_inputs": True,
        "modality_config": text,
        "model_args": {"trust_remote_code": True},
        "query_expansion": None,
    }
    (folder / "sentence_bert_config.json").write_text(json.dumps(raw))
    assert read_sentence_folder(folder).notes == (
        f"{folder}/config_sentence_transformers.json: colour is unknown, and without effect",
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            ("Transformer", "Pooling", "Dense", "Dense"),
            "the modules are Transformer, Pooling, Dense, Dense; only Transformer, Pooling, then one Dense",
        ),
        (("Transformer", "Pooling", "LayerNorm"), "the modules are Transformer, Pooling, LayerNorm; only"),
        (("Transformer", "Pooling", "Pooling"), "the modules are Transformer, Pooling, Pooling; only"),
        (
            ("Transformer", "WeightedLayerPooling", "Pooling"),
            "the modules are Transformer, WeightedLayerPooling, Pooling",
        ),
        (("Transformer",), "the modules are Transformer; only"),
        (("Router", "Normalize"), "the modules are Router, Normalize; only"),
        (("Asym", "Normalize"), "the modules are Asym, Normalize; only"),
    ],
)
def test_other_modules_are_refused_by_their_names(modules, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_sentence_folder(sentence_folder(tmp_path, CLS, modules))


def test_t29_a_module_of_somebodys_own_code_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"the modules are custom_st\.Transformer, custom_st\.Pooling, custom_st\.Normalize"
    ):
        read_sentence_folder(sentence_folder(tmp_path, CLS, home="custom_st"))


@pytest.mark.parametrize(("chain", "place"), [({"type": "x"}, "the value"), ([3], "0"), ([{"type": "x"}], "0.path")])
def test_a_damaged_list_of_modules_is_named(chain, place, tmp_path):
    (sentence_folder(tmp_path, CLS) / "modules.json").write_text(json.dumps(chain))
    with pytest.raises(ConfigError, match=rf"modules\.json: damaged \({place}: "):
        read_sentence_folder(tmp_path)
