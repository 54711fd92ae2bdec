"""Whose workdir it is: which settings and data make another run, and which may change."""

from dataclasses import replace

import pytest

from dense_jax.config import (
    Config,
    CorpusConfig,
    EmbedConfig,
    EvaluateConfig,
    GradientDtype,
    LoaderConfig,
    MeshConfig,
    PassagesConfig,
    Unit,
)
from dense_jax.config.tree import to_dict
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.io import read_json, write_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype
from dense_jax.objectives.contriever import Contriever
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.supervised import Supervised
from dense_jax.train.same_run import NO_DATA, Data, Named, check_continues, check_same_parameters, record, recorded
from dense_jax.types import Layout

BERT = BertConfig(layers=1, width=8, heads=1, feed_forward=8)
ENCODER = Encoder(replace(BERT, dtype=Dtype.FLOAT32))


def method(**settings) -> Contriever:
    return Contriever(ENCODER, **settings)


def config(**settings) -> Config:
    return Config(**({"objective": method(), "steps": 10, "batch": 8} | settings))


def begun(workdir, change=lambda record: None, **settings) -> None:
    """A workdir with a checkpoint, and a record to which `change` was done."""
    known = to_dict(config(**settings))
    change(known)
    write_json(workdir / "config.json", known)
    sealed(workdir)


def sealed(workdir) -> None:
    """A checkpoint, as far as it is looked at here."""
    (workdir / "checkpoints" / "0").mkdir(parents=True)
    write_json(workdir / "checkpoints" / "digests-0.json", {})


def check_same_run(config, workdir, data=NO_DATA) -> None:
    check_continues(config, workdir, data)


@pytest.mark.parametrize(
    ("group", "name"),
    [((), "chunk"), ((), "optimizer"), ((), "spans"), (("optimizer",), "clip"), (("objective",), "temperature"),
     (("objective", "encoder", "bert"), "dropout")],
)  # fmt: skip
def test_a_setting_that_the_record_lacks_counts_as_its_default(tmp_path, group, name):
    def forget(record):
        for key in group:
            record = record[key]
        del record[name]

    begun(tmp_path, forget)
    before = read_json(tmp_path / "config.json")
    check_same_run(config(), tmp_path)
    assert read_json(tmp_path / "config.json") == before


def test_another_value_than_the_default_of_a_setting_that_the_record_lacks_is_refused(tmp_path):
    begun(tmp_path, lambda record: record["objective"].pop("temperature"))
    default = method().temperature
    with pytest.raises(ConfigError, match=f"objective.temperature: {default} -> 0.5"):
        check_same_run(config(objective=method(temperature=0.5)), tmp_path)


def test_a_recorded_setting_that_exists_no_more_is_refused(tmp_path):
    begun(tmp_path, lambda record: record["optimizer"].update(nesterov=True))
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov: True -> None"):
        check_same_run(config(), tmp_path)


def test_the_settings_of_another_method_are_not_filled_in(tmp_path):
    begun(tmp_path, lambda record: record.update(objective={"class": "MLM"}))
    with pytest.raises(ConfigError, match=r"objective.class: MLM -> Contriever(.|\n)*objective.temperature: None ->"):
        check_same_run(config(), tmp_path)


def test_a_setting_without_a_default_must_be_recorded(tmp_path):
    begun(tmp_path, lambda record: record.pop("batch"))
    with pytest.raises(ConfigError, match="batch: None -> 8"):
        check_same_run(config(), tmp_path)


def test_a_record_without_a_checkpoint_binds_nobody(tmp_path):
    write_json(tmp_path / "config.json", to_dict(config(seed=5)))
    check_same_run(config(), tmp_path)
    assert recorded(tmp_path) is None


def test_checkpoints_without_the_record_of_their_settings_are_refused(tmp_path):
    sealed(tmp_path)
    for check in (check_continues, check_same_parameters):
        with pytest.raises(StorageError, match=r"config\.json is missing: .*--restart"):
            check(config(), tmp_path, NO_DATA)


def test_other_settings_and_other_data_are_listed_together_as_a_matter_of_settings(tmp_path):
    record(config(), tmp_path, Data({"tokenizer": "a"}))
    sealed(tmp_path)
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1\n  the tokenizer of the workdir: its content is not"):
        check_same_run(config(seed=1), tmp_path, Data({"tokenizer": "b"}))


def test_a_check_records_nothing(tmp_path):
    check_same_run(config(), tmp_path)
    check_same_parameters(config(), tmp_path, NO_DATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [{"log_every": 3}, {"embed": EmbedConfig(split=True, shard_size=7)}, {"evaluate": EvaluateConfig(depth=300)},
     {"corpus": CorpusConfig(max_rejects=0.5)}, {"passages": PassagesConfig(shard_size=9)},
     {"loader": LoaderConfig(workers=3)}, {"mesh": MeshConfig(fsdp=2)},
     {"objective": method(query_length=16, passage_length=32)}],
)  # fmt: skip
def test_what_changes_neither_parameters_nor_examples_may_change_in_training(tmp_path, settings):
    begun(tmp_path)
    check_same_run(config(**settings), tmp_path)


def test_the_type_of_the_summed_gradients_belongs_to_the_run_though_its_mesh_may_change(tmp_path):
    begun(tmp_path)
    with pytest.raises(ConfigError, match=r"mesh\.gradient_dtype: float32 -> bfloat16"):
        check_same_run(config(mesh=MeshConfig(gradient_dtype=GradientDtype.BFLOAT16)), tmp_path)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [(ICT, {"passage_length": 100}), (ICT, {"layout": Layout.BODY}), (Supervised, {"query_prompt": "query: "}),
     (Contriever, {"layout": Layout.BODY})],
)  # fmt: skip
def test_what_changes_examples_and_is_read_by_search_may_change_after_training_only(tmp_path, objective, settings):
    unit = {"passages": PassagesConfig(unit=Unit.QUERIES)} if objective is Supervised else {}
    begun(tmp_path, objective=objective(ENCODER), **unit)
    changed = config(objective=objective(ENCODER, **settings), **unit)
    check_same_parameters(changed, tmp_path, NO_DATA)
    with pytest.raises(ConfigError, match=rf"objective\.{next(iter(settings))}: "):
        check_same_run(changed, tmp_path)


def test_a_corpus_under_another_path_goes_on_and_another_corpus_is_refused(tmp_path):
    def named(digest):
        return Data({"passages": "p"}, {"corpus.source": Named("corpus", lambda: digest)})

    at = lambda place: config(corpus=CorpusConfig(source=f"{place}/docs.jsonl"))  # noqa: E731
    record(at("/old"), tmp_path, Data({"passages": "p", "corpus": "a"}))
    sealed(tmp_path)
    for check in (check_continues, check_same_parameters):
        check(at("/new"), tmp_path, named("a"))
        with pytest.raises(DataError, match=r"/old/docs\.jsonl -> /new/docs\.jsonl \(its content is not"):
            check(at("/new"), tmp_path, named("b"))


def test_passages_that_were_prepared_again_from_other_text_are_named(tmp_path):
    ours = config(corpus=CorpusConfig(source="docs.jsonl"))
    record(ours, tmp_path, Data({"passages": "a"}))
    sealed(tmp_path)
    with pytest.raises(DataError, match=r"what is prepared of corpus\.source=docs\.jsonl: its content is not what"):
        check_same_run(ours, tmp_path, Data({"passages": "b"}))


def test_a_path_that_was_recorded_without_digests_is_compared_as_it_is(tmp_path):
    begun(tmp_path)
    with pytest.raises(ConfigError, match=r"corpus\.source:  -> docs\.jsonl"):
        check_same_run(config(corpus=CorpusConfig(source="docs.jsonl")), tmp_path)


def test_the_automatic_compute_type_is_recorded_as_the_one_of_the_devices_and_stays(tmp_path, monkeypatch):
    automatic = config(objective=ICT(Encoder(BERT)))
    record(automatic, tmp_path, NO_DATA)
    sealed(tmp_path)
    known = recorded(tmp_path) or {}
    assert known["objective"]["encoder"]["bert"]["dtype"] == "float32"
    check_same_run(automatic, tmp_path)
    monkeypatch.setattr("dense_jax.train.same_run.platform", lambda: "gpu")
    with pytest.raises(ConfigError, match=r"objective\.encoder\.bert\.dtype: float32 -> bfloat16"):
        check_same_run(automatic, tmp_path)
    check_same_parameters(automatic, tmp_path, NO_DATA)
