"""RoBERTa and XLM-R: names, positions and limits (their numbers: test_hf_parity.py)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from dense_jax.config import Config
from dense_jax.config.tree import to_dict
from dense_jax.errors import ConfigError
from dense_jax.hf import tensors
from dense_jax.hf.config import check_architecture, check_padding, check_same_architecture, read_config
from dense_jax.io import read_json
from dense_jax.models.bert import BertConfig, Family
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import apply_decoder, init_decoder, mlm_logits
from dense_jax.objectives.condenser import Condenser
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.objectives.retromae import RetroMAE
from dense_jax.types import Layout
from tests.bert_folders import fresh_params, settings, subtrees, write_config
from tests.golden.make_transformers_models import FOLDER, PAD, torch_inputs
from tests.golden.make_transformers_models import roberta_tokens as tokens

SMALL = BertConfig(
    layers=2, width=16, heads=2, feed_forward=24, vocab_size=40, positions=12, types=1, family=Family.XLM_ROBERTA,
    epsilon=1e-5,
)  # fmt: skip
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order, as for BERT


# Against PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the judge of parity is PyTorch")


@pytest.mark.parametrize("kind", ["XLMRoberta", "Roberta"])
def test_the_family_epsilon_and_segments_are_read(kind):
    found = read_config(FOLDER / kind)
    assert found.family in (Family.ROBERTA, Family.XLM_ROBERTA)
    assert replace(found, family=SMALL.family, initializer=SMALL.initializer) == SMALL
    assert found.longest == 10


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [(Family.ROBERTA, "Roberta"), (Family.XLM_ROBERTA, "XLMRoberta")])
def test_pytorch_reads_what_save_writes(family, kind, torch, tmp_path):
    import transformers

    bert, batch = replace(SMALL, family=family), tokens()
    parts = {name: part for name, part in subtrees(fresh_params(bert)).items() if name != "pooler"}
    tensors.save_params(parts, bert, tmp_path, pad=PAD, ends=(0, 2))
    assert read_json(tmp_path / "config.json")["architectures"] == [f"{kind}ForMaskedLM"]
    model, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == f"{kind}ForMaskedLM"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (1, 0, 2)
    params = {"encoder": {"bert": parts["bert"]}, "mlm": parts["mlm"]}
    everywhere = jnp.tile(jnp.arange(10)[None], (3, 1))
    with torch.no_grad():
        expected = model.eval()(**torch_inputs(batch, kind)).logits.numpy()
    found = mlm_logits(bert, params, Encoder(bert).hidden_states(params["encoder"], batch), everywhere)
    np.testing.assert_allclose(found * batch.mask[..., None], expected * batch.mask[..., None], **CLOSE)


# Names


def test_every_array_survives_the_way_out_and_back(tmp_path):
    params = fresh_params(SMALL)
    tensors.save_params(subtrees(params), SMALL, tmp_path, pad=PAD)
    names = load_file(tmp_path / "model.safetensors")
    assert {name.partition(".")[0] for name in names} == {"roberta", "lm_head"}
    assert {"lm_head.bias", "lm_head.dense.weight", "lm_head.layer_norm.bias", "roberta.pooler.dense.bias"} <= {*names}
    found, _ = tensors.load_params(jax.tree.map(jnp.zeros_like, params), tmp_path, settings(SMALL))
    jax.tree.map(np.testing.assert_array_equal, subtrees(found), subtrees(params))


def test_a_model_without_a_head_has_no_prefix(tmp_path):
    tensors.save_params({"bert": fresh_params(SMALL)["encoder"]["bert"]}, SMALL, tmp_path, pad=PAD)
    assert "embeddings.word_embeddings.weight" in load_file(tmp_path / "model.safetensors")
    config = read_json(tmp_path / "config.json")
    assert (config["model_type"], config["architectures"]) == ("xlm-roberta", ["XLMRobertaModel"])


# Positions


@pytest.fixture(scope="module")
def params():
    return fresh_params(SMALL)["encoder"]


def test_the_first_token_has_position_two_since_padding_has_one(params):
    assert (SMALL.first_position, replace(SMALL, family=Family.BERT).first_position) == (2, 0)
    table = params["bert"]["position"]["embedding"]
    shifted = {**params, "bert": {**params["bert"], "position": {"embedding": table[2:]}}}
    as_bert = Encoder(replace(SMALL, family=Family.BERT, positions=10))
    found, expected = Encoder(SMALL).hidden_states(params, tokens()), as_bert.hidden_states(shifted, tokens())
    np.testing.assert_array_equal(found, expected)


def test_positions_that_are_given_count_from_zero(params):
    counted = jnp.tile(jnp.arange(10)[None], (3, 1))
    found = Encoder(SMALL).hidden_states(params, tokens(), positions=counted)
    np.testing.assert_allclose(found, Encoder(SMALL).hidden_states(params, tokens()), rtol=1e-6)  # a gather, a slice


@pytest.mark.slow
def test_retromaes_decoder_takes_the_same_positions():
    batch = tokens()
    table = fresh_params(SMALL)["encoder"]["bert"]
    visible = jnp.asarray(batch.mask[:, None, :] & ~np.eye(10, dtype=bool))
    as_bert = replace(SMALL, family=Family.BERT, positions=10)
    shifted = {**table, "position": {"embedding": table["position"]["embedding"][2:]}}
    decoder = init_decoder(SMALL, jax.random.key(0))
    vectors = jnp.ones((3, 16))
    for embed_queries in (False, True):
        found, expected = (
            apply_decoder(
                bert, {"encoder": {"bert": tree}, "decoder": decoder}, vectors, batch, visible,
                embed_queries=embed_queries,
            )
            for bert, tree in ((SMALL, table), (as_bert, shifted))
        )  # fmt: skip
        np.testing.assert_array_equal(found, expected)


def test_a_sequence_longer_than_the_positions_that_are_left_is_refused(params):
    with pytest.raises(ConfigError, match=r"11 tokens are more than the 10 of bert\.positions=12"):
        Encoder(SMALL).hidden_states(params, tokens(length=11))
    with pytest.raises(ConfigError, match=r"bert\.positions=2 leaves no token a position in family=xlm_roberta"):
        replace(SMALL, positions=2)


# What objectives, tokenizers and other models must agree on

METHODS = {
    "MLM": lambda **s: MLM(Encoder(SMALL), query_length=4, **s),
    "RetroMAE": lambda **s: RetroMAE(Encoder(SMALL), query_length=4, **s),
    "Condenser": lambda **s: Condenser(Encoder(SMALL), query_length=4, skip_from=0, **s),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_objectives_refuse_lengths_beyond_the_positions_that_are_left(method):
    method(passage_length=10, layout=Layout.JOINED)
    message = r"objective\.passage_length=11 exceeds objective\.encoder\.bert\.positions=12, 2 of which RoBERTa"
    with pytest.raises(ConfigError, match=message):
        method(passage_length=11, layout=Layout.JOINED)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_objectives_refuse_pairs_for_a_model_of_one_segment(method):
    message = (
        r"objective\.layout=pair has two segments, but objective\.encoder\.bert knows 1; "
        r"use --objective\.layout=joined"
    )
    with pytest.raises(ConfigError, match=message):
        method(passage_length=10, layout=Layout.PAIR)


def test_the_inverse_cloze_task_refuses_both(tmp_path):
    short = {"query_length": 4, "layout": Layout.JOINED}
    ICT(Encoder(SMALL), passage_length=10, **short)
    with pytest.raises(ConfigError, match=r"objective\.passage_length=11 exceeds"):
        ICT(Encoder(SMALL), passage_length=11, **short)
    with pytest.raises(ConfigError, match=r"objective\.query_length=11 exceeds"):
        ICT(Encoder(SMALL), query_length=11, passage_length=10, layout=Layout.JOINED)
    with pytest.raises(ConfigError, match=r"objective\.layout=pair has two segments"):
        ICT(Encoder(SMALL), query_length=4, passage_length=10)


def test_a_tokenizer_whose_padding_is_not_one_is_refused():
    check_padding(settings(SMALL), pad=1)
    check_padding(settings(replace(SMALL, family=Family.BERT)), pad=0)
    with pytest.raises(ConfigError) as error:
        check_padding(settings(SMALL), pad=0)
    path = "objective.encoder.bert"
    assert str(error.value) == (
        f"{path} is of the family xlm-roberta, which counts positions on from padding, whose id is 1, but the "
        "tokenizer's is 0; use the model's own tokenizer, --tokenizer.path=FOLDER, or for a new model "
        f"--{path}.family=bert"
    )


def test_a_folder_whose_padding_is_not_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json: pad_token_id is 0; of roberta, only 1 can be read"):
        read_config(write_config(tmp_path, model_type="roberta", pad_token_id=0))


def test_another_family_is_refused_with_the_flag_that_cures_it(tmp_path):
    tensors.save_params({"bert": fresh_params(SMALL)["encoder"]["bert"]}, SMALL, tmp_path, pad=PAD)
    path = "objective.encoder.bert"
    with pytest.raises(ConfigError) as error:
        check_architecture(settings(replace(SMALL, family=Family.BERT)), tmp_path)
    assert str(error.value) == f"{path}.family=bert, but {tmp_path} has xlm_roberta; use --{path}.family=xlm_roberta"


@pytest.mark.slow
def test_a_run_that_names_no_family_is_of_bert():
    theirs = to_dict(Config(MLM(Encoder(SMALL), passage_length=10, query_length=10), steps=1, batch=1))["objective"]
    check_same_architecture(settings(SMALL), theirs, "run")
    del theirs["encoder"]["bert"]["family"]
    with pytest.raises(ConfigError, match=r"family=xlm_roberta, but run has bert; use --objective\.encoder"):
        check_same_architecture(settings(SMALL), theirs, "run")
