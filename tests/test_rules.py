"""Every number of every published config has a rule, and what breaks it is refused by the full name of the setting."""

import dataclasses
import math
import typing

import pytest

from dense_jax.config import CorpusConfig, OptimizerConfig, PassagesConfig
from dense_jax.config.command_line import parse
from dense_jax.config.files import find_config, published
from dense_jax.config.rules import Rule
from dense_jax.config.settings import Setting, settings_of
from dense_jax.config.tree import checked
from dense_jax.errors import ConfigError
from tests.test_config import config

VARIANTS = [f"{name}:tiny" for name in published() if name not in ("finetune", "pretrained")]
VARIANTS += ["contriever:multilingual", "retromae:dupmae", "finetune_cocondenser:round2"]
FORBIDDEN = (math.nan, math.inf, -math.inf, -2)  # -1 may be a name for all, or for the newest


def numbers(name: str) -> list[Setting]:
    return [setting for setting in settings_of(find_config(name).load()) if _kinds(setting) & {int, float}]


def _kinds(setting: Setting) -> set[type]:
    return {setting.type, *typing.get_args(setting.type)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_number_has_a_rule_that_its_published_value_keeps(name):
    found = numbers(name)
    assert len(found) > 40
    for setting in found:
        assert [note for note in setting.notes if isinstance(note, Rule)], f"{setting.name} has no rule"
        assert setting.problem() == ""


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_no_sensible_number_is_refused_by_the_full_name_of_the_setting(name):
    for setting in numbers(name):
        for value in FORBIDDEN:
            given = (value,) if isinstance(setting.value, tuple) else value
            assert dataclasses.replace(setting, value=given).problem().startswith(f"{setting.name}={value} ")


@pytest.mark.parametrize(
    "flag",
    ["checkpoint.keep=0", "checkpoint.every=0", "log_every=0", "loader.readers=0", "search.k=0", "embed.batch=-2",
     "objective.temperature=nan", "objective.encoder.bert.heads=0", "objective.encoder.bert.dropout=1",
     "objective.passage_length=2", "optimizer.learning_rate=inf", "optimizer.beta2=1", "mesh.fsdp=0", "seed=-1",
     "evaluate.depth=0", "passages.length=3", "embed.step=-2", "neighbours.keep=1", "corpus.max_rejects=1.5"],
)  # fmt: skip
def test_a_flag_that_breaks_the_rule_of_its_setting_is_refused(flag):
    name, _, value = flag.partition("=")
    with pytest.raises(ConfigError) as error:
        parse(["--config=ict:tiny", "--workdir=w", f"--{flag}"])
    (line,) = str(error.value).splitlines()
    number = float(value) if "." in line.partition(" ")[0].partition("=")[2] else value
    assert line.startswith(f"{name}={number} ")


def test_the_rules_of_a_config_file_are_checked_too_and_all_broken_ones_are_listed():
    broken = config(log_every=0, optimizer=OptimizerConfig(learning_rate=-1.0), corpus=CorpusConfig(query_share=0.0))
    with pytest.raises(ConfigError) as error:
        checked(broken)
    assert str(error.value).splitlines() == [
        "corpus.query_share=0.0 must lie above 0 and up to 1",
        "optimizer.learning_rate=-1.0 must be positive",
        "log_every=0 must be positive",
    ]


def test_a_whole_number_is_no_fraction(monkeypatch):
    broken = config()
    broken.passages = PassagesConfig()
    monkeypatch.setattr(broken.passages, "length", 1e2)
    with pytest.raises(ConfigError, match=r"^passages\.length=100\.0 is not a whole number$"):
        checked(broken)


@pytest.mark.parametrize("method", ["mlm", "condenser", "cocondenser", "retromae"])
def test_queries_are_no_longer_than_the_model_takes(method):
    with pytest.raises(
        ConfigError, match=r"objective\.query_length=513 exceeds objective\.encoder\.bert\.positions=512"
    ):
        parse([f"--config={method}:tiny", "--workdir=w", "--objective.query_length=513"])
