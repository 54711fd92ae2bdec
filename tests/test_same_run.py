"""Whose workdir it is: settings that came after a run was recorded are no other settings."""

import pytest

from dense_jax.config import Config
from dense_jax.config_tree import to_dict
from dense_jax.errors import ConfigError
from dense_jax.files import read_json, write_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.contriever import Contriever
from dense_jax.train.same_run import check_same_run


def method(**settings) -> Contriever:
    return Contriever(Encoder(BertConfig(layers=1, width=8, heads=1, feed_forward=8)), **settings)


def config(**settings) -> Config:
    return Config(**({"objective": method(), "steps": 10, "batch": 8} | settings))


def recorded(workdir, change) -> None:
    """A workdir whose record `change` was done to."""
    record = to_dict(config())
    change(record)
    write_json(workdir / "config.json", record)


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

    recorded(tmp_path, forget)
    before = read_json(tmp_path / "config.json")
    check_same_run(config(), tmp_path)
    assert read_json(tmp_path / "config.json") == before


def test_another_value_than_the_default_of_a_setting_that_the_record_lacks_is_refused(tmp_path):
    recorded(tmp_path, lambda record: record["objective"].pop("temperature"))
    default = method().temperature
    with pytest.raises(ConfigError, match=f"objective.temperature: {default} -> 0.5"):
        check_same_run(config(objective=method(temperature=0.5)), tmp_path)


def test_a_recorded_setting_that_exists_no_more_is_refused(tmp_path):
    recorded(tmp_path, lambda record: record["optimizer"].update(nesterov=True))
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov: True -> None"):
        check_same_run(config(), tmp_path)


def test_the_settings_of_another_method_are_not_filled_in(tmp_path):
    recorded(tmp_path, lambda record: record.update(objective={"class": "MLM"}))
    with pytest.raises(ConfigError, match=r"objective.class: MLM -> Contriever(.|\n)*objective.temperature: None ->"):
        check_same_run(config(), tmp_path)


def test_a_setting_without_a_default_must_be_recorded(tmp_path):
    recorded(tmp_path, lambda record: record.pop("batch"))
    with pytest.raises(ConfigError, match="batch: None -> 8"):
        check_same_run(config(), tmp_path)
