"""RoBERTa and XLM-R: the numbers of PyTorch's models, their positions, their names, and what they cannot do."""

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
from dense_jax.types import Layout, Tokens
from tests.bert_folders import flat, fresh_params, settings, subtrees, write_config

SMALL = BertConfig(
    layers=2, width=16, heads=2, feed_forward=24, vocab_size=40, positions=12, types=1, family=Family.XLM_ROBERTA,
    epsilon=1e-5,
)  # fmt: skip
PAD = 1
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order, as for BERT


def tokens(length=10, rows=3):
    """Rows of 10, 5 and 1 tokens and padding, in one segment."""
    lengths = np.array([[length], [length // 2], [1]])
    mask = np.arange(length)[None] < lengths
    ids = np.random.default_rng(0).integers(2, SMALL.vocab_size, size=(rows, length), dtype=np.int32)
    return Tokens(np.where(mask, ids, PAD).astype(np.int32), np.zeros_like(ids), mask)


# Against PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the judge of parity is PyTorch")


@pytest.fixture(scope="module", params=["XLMRoberta", "Roberta"])
def theirs(request, torch, tmp_path_factory):
    """A random model of transformers with a masked-LM head, and the folder that it wrote."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.3,
        attn_implementation="eager",
    )  # fmt: skip
    model = getattr(transformers, f"{request.param}ForMaskedLM")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "LayerNorm.weight", "layer_norm.weight")):
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder


def inputs(torch, batch):
    return {
        "input_ids": torch.tensor(batch.ids, dtype=torch.long),
        "attention_mask": torch.tensor(batch.mask, dtype=torch.long),
    }


@pytest.mark.slow
def test_the_family_epsilon_and_segments_are_read(theirs):
    found = read_config(theirs[1])
    assert found.family in (Family.ROBERTA, Family.XLM_ROBERTA)
    assert replace(found, family=SMALL.family, initializer=SMALL.initializer) == SMALL
    assert found.longest == 10


@pytest.mark.slow
def test_hidden_states_equal_those_of_pytorch(torch, theirs):
    model, folder = theirs
    bert, batch = read_config(folder), tokens()
    loaded, _ = tensors.load_params(fresh_params(bert, parts=["encoder"]), folder, Encoder(bert))
    with torch.no_grad():
        expected = model.roberta(**inputs(torch, batch), output_hidden_states=True).hidden_states
    found = jax.jit(Encoder(bert).all_hidden_states)(loaded["encoder"], batch)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a * batch.mask[..., None], b.numpy() * batch.mask[..., None], **CLOSE)


@pytest.mark.slow
def test_logits_and_all_gradients_equal_those_of_pytorch(torch, theirs):
    model, folder = theirs
    bert, batch, positions = read_config(folder), tokens(), jnp.array([[3, 7], [0, 4], [0, 0]])
    loaded, report = tensors.load_params(fresh_params(bert), folder, Encoder(bert))
    assert not [path for path in report.initialised if path.startswith("mlm")]
    weights = np.random.default_rng(1).normal(size=(3, 2, 40)).astype(np.float32)

    def loss(params):
        hidden = Encoder(bert).hidden_states(params["encoder"], batch)
        return jnp.sum(jax.nn.log_softmax(mlm_logits(bert, params, hidden, positions)) * weights)

    model.zero_grad()
    logits = model(**inputs(torch, batch)).logits[torch.arange(3)[:, None], torch.tensor(positions.tolist())]
    expected = torch.sum(torch.log_softmax(logits, -1) * torch.tensor(weights))
    expected.backward()
    value, gradients = jax.jit(jax.value_and_grad(loss))(loaded)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    named = model.named_parameters(remove_duplicate=False)  # tied ones under both of their names
    of = {tensors.modern_name(name): p.grad.numpy() for name, p in named}
    for path, gradient in flat(gradients).items():
        if "projection" not in path and "pooler" not in path:
            other = of[tensors.tensor_name(path)]
            np.testing.assert_allclose(gradient, other.T if path.endswith("kernel") else other, rtol=1e-4, atol=2e-5)


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
        expected = model.eval()(**inputs(torch, batch)).logits.numpy()
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
    message = r"objective\.passage_length=11 exceeds objective\.encoder\.bert\.positions=12, 2 of which family=xlm_rob"
    with pytest.raises(ConfigError, match=message):
        method(passage_length=11, layout=Layout.JOINED)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_objectives_refuse_pairs_for_a_model_of_one_segment(method):
    message = (
        r"objective\.layout=pair has two segments, but objective\.encoder\.bert\.types=1; "
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
        f"{path}.family=xlm_roberta counts positions on from padding, whose id is 1, but the tokenizer's is 0; use the "
        f"model's own tokenizer, --tokenizer.path=FOLDER, or for a new model --{path}.family=bert"
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
