"""Settings that follow from the model that training starts from."""

import json
from dataclasses import replace

import pytest

from dense_jax.config import Config, CorpusConfig, OptimizerConfig, TokenizerConfig
from dense_jax.config.tree import to_dict
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError
from dense_jax.hf.config import config_json
from dense_jax.io import write_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.pooling import Pooling
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.train.same_run import NO_DATA, record
from dense_jax.train.start import check_tokenizer, fitted, start_vocabulary
from dense_jax.workdir import Workdir

SMALL = BertConfig(layers=1, width=8, heads=1, feed_forward=8)
THEIRS = BertConfig(layers=3, width=12, heads=2, feed_forward=16, vocab_size=70, positions=40, dropout=0.3)


def config(**settings) -> Config:
    rates = OptimizerConfig(learning_rate=1e-3, warm_start_rate=2e-5)
    objective = MLM(Encoder(SMALL), passage_length=32, query_length=32)
    return Config(**({"objective": objective, "steps": 1, "batch": 8, "optimizer": rates} | settings))


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder without weights, with a tokenizer of fewer words than its model has."""
    write_json(tmp_path / "theirs" / "config.json", config_json(THEIRS, "BertModel", pad=0))
    Tokenizer.train(["The keeper kept the light."] * 3, vocab_size=60, lowercase=True).save(tmp_path / "theirs")
    return tmp_path / "theirs"


def sentence_transformers(folder) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    write_json(folder / "modules.json", modules)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})


def test_architecture_tokenizer_and_learning_rate_are_those_of_the_start(folder, tmp_path):
    found, notes = fitted(config(init_from=str(folder)), [], tmp_path / "work")
    ours = found.objective.encoder.bert
    assert (ours.layers, ours.width, ours.heads, ours.feed_forward, ours.positions) == (3, 12, 2, 16, 40)
    assert ours.dropout == SMALL.dropout
    assert found.tokenizer.path == str(folder)
    assert found.optimizer.learning_rate == 2e-5
    assert f"optimizer.learning_rate=2e-05, which fits the start from {folder}" in notes
    assert start_vocabulary(found) == 70


def test_what_the_command_line_gives_stays(folder, tmp_path):
    asked = config(init_from=str(folder), tokenizer=TokenizerConfig(path="elsewhere"))
    given = {"optimizer.learning_rate", "objective.encoder.bert.layers"}
    found, _ = fitted(asked, given, tmp_path / "work")
    assert found.optimizer.learning_rate == 1e-3
    assert found.objective.encoder.bert.layers == 1
    assert found.tokenizer.path == "elsewhere"


def test_a_folder_that_declares_its_pooling_is_pooled_so(folder, tmp_path):
    assert fitted(config(init_from=str(folder)), [], tmp_path).config.objective.encoder.pooling is Pooling.CLS
    sentence_transformers(folder)
    encoder = fitted(config(init_from=str(folder)), [], tmp_path).config.objective.encoder
    assert (encoder.pooling, encoder.normalize) == (Pooling.MEAN, True)


def test_a_folder_whose_modules_cannot_be_read_gives_its_model_with_the_reason_why_not_its_pooling(
    folder, tmp_path, capsys
):
    sentence_transformers(folder)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "max"})
    encoder = fitted(config(init_from=str(folder)), [], tmp_path).config.objective.encoder
    assert (encoder.bert.layers, encoder.pooling, encoder.normalize) == (3, Pooling.CLS, False)
    printed = capsys.readouterr().err
    assert "1_Pooling/config.json: pooling is max; only cls or mean can be read; pooling, dense, norm" in printed
    assert "normalisation and prompts stay those of the config" in printed


PROMPTS = {"query": "query: ", "document": "passage: "}


def prompts_after(start, workdir, *given, **settings) -> tuple[str, str]:
    method = replace(config().objective, **settings)
    found = fitted(config(objective=method, init_from=str(start)), given, workdir).config.objective
    return found.query_prompt, found.passage_prompt


def test_prompts_of_the_start_are_taken_with_a_note_unless_the_config_or_the_command_line_has_some(folder, tmp_path):
    sentence_transformers(folder)
    write_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS})
    assert prompts_after(folder, tmp_path) == ("query: ", "passage: ")
    notes = fitted(config(init_from=str(folder)), [], tmp_path).notes
    assert f"objective.query_prompt=query: , which fits the start from {folder}" in notes
    assert prompts_after(folder, tmp_path, "objective.query_prompt") == ("", "passage: ")
    assert prompts_after(folder, tmp_path, query_prompt="ask: ") == ("ask: ", "passage: ")


def test_prompts_of_a_model_card_are_taken_too_and_printed(folder, tmp_path, capsys):
    sentence_transformers(folder)
    folder.rename(tmp_path / "e5-small-v2")
    assert prompts_after(tmp_path / "e5-small-v2", tmp_path) == ("query: ", "passage: ")
    assert "names no prompts, so those of e5-small-v2 are taken" in capsys.readouterr().err


def test_a_method_without_prompts_starts_from_a_folder_with_some(folder, tmp_path):
    sentence_transformers(folder)
    write_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS})
    method = ICT(Encoder(SMALL), passage_length=32, query_length=32)
    assert fitted(config(objective=method, init_from=str(folder)), [], tmp_path).config.objective.encoder.normalize


def test_a_module_outside_of_the_folder_is_refused(folder, tmp_path):
    sentence_transformers(folder)
    write_json(folder / "modules.json", [{"path": "../other", "type": "sentence_transformers.models.Transformer"}])
    with pytest.raises(ConfigError, match=r"modules\.json: \.\./other is outside of the folder"):
        fitted(config(init_from=str(folder)), [], tmp_path)
    with pytest.raises(ConfigError, match=r"\.\./other is outside of the folder"):
        start_vocabulary(config(init_from=str(folder)))


def test_a_run_as_start_gives_its_architecture_tokenizer_dense_layer_and_prompts_and_not_the_pooling_of_its_method(
    folder, tmp_path
):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    theirs = config(
        objective=MLM(
            Encoder(replace(THEIRS, scan=True), Pooling.MEAN, dense=7, dense_tanh=True, projection=4),
            passage_length=32,
            query_length=32,
            query_prompt="query: ",
        )
    )
    write_json(tmp_path / "run" / "config.json", to_dict(theirs))
    (folder / "config.json").unlink()
    folder.rename(tmp_path / "run" / "tokenizer")
    found, _ = fitted(config(init_from=str(tmp_path / "run")), [], tmp_path / "work")
    encoder = found.objective.encoder
    assert (encoder.bert.layers, encoder.bert.scan, encoder.bert.vocab_size) == (3, False, 0)
    assert (encoder.pooling, encoder.dense, encoder.dense_tanh, encoder.projection) == (Pooling.CLS, 7, True, 0)
    assert found.objective.query_prompt == "query: "
    assert found.tokenizer.path == str(tmp_path / "run" / "tokenizer")


def test_a_run_that_has_begun_does_not_need_what_it_started_from(folder, tmp_path):
    asked, work = config(init_from=str(folder)), tmp_path / "work"
    began, _ = fitted(asked, [], work)
    record(began, work, NO_DATA)
    (work / "checkpoints" / "0").mkdir(parents=True)
    write_json(work / "checkpoints" / "digests-0.json", {})
    folder.rename(tmp_path / "away")
    assert fitted(asked, [], work).config == began


def test_a_start_from_random_numbers_changes_nothing(tmp_path):
    assert fitted(config(), [], tmp_path) == (config(), [])


def test_a_preparation_for_a_model_without_a_tokenizer_is_refused_at_once(folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    found, _ = fitted(config(init_from=str(folder)), [], tmp_path)
    with pytest.raises(ConfigError, match=r"holds no tokenizer.*--tokenizer\.path=FOLDER"):
        check_tokenizer(found)


def test_the_advice_after_a_start_from_other_token_ids_works_when_followed(folder, tmp_path):
    """Passages were prepared before the start was chosen; so `prepare` is run again, elsewhere, with the same flags."""
    rows = "".join(json.dumps({"_id": str(i), "text": "The keeper kept the light. It burned all night."}) for i in "ab")
    (tmp_path / "docs.jsonl").write_text(rows.replace("}{", "}\n{") + "\n")
    asked = config(corpus=CorpusConfig(source=str(tmp_path / "docs.jsonl")), tokenizer=TokenizerConfig(vocab_size=50))
    prepare(asked, tmp_path / "work")
    started = replace(asked, init_from=str(folder))
    with pytest.raises(ConfigError, match="run `dense-jax prepare` with the same flags and another --workdir"):
        Workdir(tmp_path / "work", fitted(started, [], tmp_path / "work").config).check_init_from()
    again = fitted(started, [], tmp_path / "again").config
    prepare(again, tmp_path / "again")
    Workdir(tmp_path / "again", again).check_init_from()


def test_a_named_tokenizer_that_equals_the_prepared_one_is_no_other_setting(tmp_path):
    (tmp_path / "docs.jsonl").write_text(json.dumps({"_id": "a", "text": "The keeper kept the light."}) + "\n")
    asked = config(corpus=CorpusConfig(source=str(tmp_path / "docs.jsonl")), tokenizer=TokenizerConfig(vocab_size=50))
    first = prepare(asked, tmp_path / "work")
    named = replace(asked, tokenizer=TokenizerConfig(path=str(tmp_path / "work" / "tokenizer")))
    assert prepare(named, tmp_path / "work") == first
