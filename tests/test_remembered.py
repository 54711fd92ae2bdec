"""The config that a workdir remembers: what is read back, from where, and what is refused."""

import json
from pathlib import Path

import pytest

from dense_jax.config import Order
from dense_jax.config.command_line import parse
from dense_jax.config.files import find_config, published
from dense_jax.config.overrides import LoadedConfig, load_config
from dense_jax.config.remembered import FILE, is_remembered, recall_config, remember
from dense_jax.config.tree import to_dict
from dense_jax.errors import ConfigError, StorageError
from dense_jax.objectives.contriever import Negatives

VARIANTS = [
    "contriever:tiny_in_batch",
    *(f"{name}:tiny" for name in published() if name not in ("finetune", "pretrained")),
]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_remembered_config_is_the_one_that_was_recorded(tmp_path, name):
    loaded = load_config(name, {"batch": 16, "corpus.also": ("/a.jsonl", "/b.jsonl"), "loader.order": "shuffle"})
    remember(loaded, tmp_path)
    known = recall_config(tmp_path)
    assert known == loaded
    assert type(known.config.objective) is type(loaded.config.objective)
    assert known.given == {"batch", "corpus.also", "loader.order"}


def test_a_workdir_stands_in_for_config_and_flags_and_flags_override_it(tmp_path):
    remember(load_config("ict:tiny", {"batch": 16, "optimizer.learning_rate": 1e-3}), tmp_path)
    known = parse([f"--workdir={tmp_path}", "--batch=32", "--loader.order=distinct"])
    assert (known.config.batch, known.config.loader.order, known.config.optimizer.learning_rate) == (
        32,
        Order.DISTINCT,
        1e-3,
    )
    assert known.loaded.given == {"batch", "optimizer.learning_rate", "loader.order"}
    assert parse([f"--workdir={tmp_path}", "--config=ict"]).config.batch == 4096


def test_mistakes_over_a_remembered_config_are_all_listed(tmp_path):
    remember(load_config("ict:tiny"), tmp_path)
    with pytest.raises(ConfigError) as error:
        parse([f"--workdir={tmp_path}", "--objective.removal_rat=1", "--batch=0", "--restrat=true"])
    assert str(error.value).splitlines() == [
        "unknown flag --objective.removal_rat; did you mean --objective.removal_rate?",
        "batch=0 must be positive",
        "unknown flag --restrat; did you mean --restart?",
    ]


def test_paths_are_recorded_in_full_and_mean_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from dense_jax.configs.ict import get_config\n")
    also = ("tfds:wiki", "gs://bucket/docs", "~/more.jsonl")
    remember(load_config("mine.py:tiny", {"corpus.source": "data/../docs.jsonl", "corpus.also": also}), Path("work"))
    monkeypatch.chdir("/")
    known = recall_config(tmp_path / "work")
    assert known.name == f"{tmp_path}/mine.py:tiny"
    assert known.config.corpus.source == str(tmp_path / "docs.jsonl")
    assert known.config.corpus.also == ("tfds:wiki", "gs://bucket/docs", str(Path("~/more.jsonl").expanduser()))


def test_the_demos_corpus_is_no_path(tmp_path):
    remember(load_config("ict:tiny"), tmp_path)
    assert recall_config(tmp_path).config.corpus.source == "installed"


def test_no_workdir_remembers_before_a_verb_recorded(tmp_path):
    assert not is_remembered(tmp_path)
    with pytest.raises(ConfigError, match="no --config=NAME, such as --config=ict:tiny, and no --workdir that"):
        parse([f"--workdir={tmp_path}"])


def test_a_class_of_the_users_needs_its_config_again(tmp_path):
    path = tmp_path / "method.py"
    path.write_text(
        "from dense_jax.config import Config\nfrom tests.toys import BagOfTokens\n"
        "def get_config():\n    return Config(BagOfTokens(), steps=1, batch=8)\n"
    )
    remember(LoadedConfig(str(path), find_config(str(path)).load()), tmp_path)
    with pytest.raises(ConfigError) as error:
        parse([f"--workdir={tmp_path}"])
    assert str(error.value) == (
        f"{tmp_path / FILE}: objective is tests.toys:BagOfTokens, a class that is not of dense_jax; name it again, by "
        f"--config={path} and its flags"
    )
    assert parse([f"--workdir={tmp_path}", f"--config={path}"]).config.steps == 1


def changed(workdir: Path, *keys: str, value) -> None:
    """Changes one place of what a workdir remembers."""
    known = json.loads((workdir / FILE).read_text())
    node = known
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    (workdir / FILE).write_text(json.dumps(known))


@pytest.mark.parametrize(
    "name",
    ["subprocess:Popen", "foreign:Method", "dense_jax:Run", "dense_jax.io:Path", "dense_jax.absent:X",
     "dense_jax.objectives.ict:ICTT", "dense_jax.config.rules:at_least", "dense_jax.io:whole_file", 7],
)  # fmt: skip
def test_a_class_that_is_no_part_of_the_config_is_refused_and_nothing_foreign_is_imported(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "foreign.py").write_text("raise SystemExit('foreign code ran')\n")
    remember(load_config("ict:tiny"), tmp_path)
    changed(tmp_path, "settings", "objective", "class", value=name)
    with pytest.raises(ConfigError, match=r"objective is .*(not of dense_jax|this version of dense_jax lacks)"):
        recall_config(tmp_path)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("settings", "batch"), "8", "batch: Input should be a valid integer"),
        (("settings", "batch"), None, "batch: Input should be a valid integer"),
        (("settings", "loader", "order"), "random", "loader.order: Input should be 'locality'"),
        (("settings", "corpus"), 7, "corpus: "),
        (("settings", "corpus", "also"), "a.jsonl", "corpus.also: Input should be"),
        (("settings", "objective", "encoder", "bert", "layers"), [], "objective.encoder.bert.layers: Input should be"),
        (("settings",), [], "settings: Input should be a valid dictionary"),
        (("given",), "batch", "given: Input should be a valid list"),
    ],
)
def test_a_damaged_record_is_named_with_the_place(tmp_path, keys, value, said):
    remember(load_config("ict:tiny"), tmp_path)
    changed(tmp_path, *keys, value=value)
    with pytest.raises(StorageError) as error:
        recall_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / FILE}: damaged ({said}")


def test_a_value_that_breaks_a_rule_and_a_setting_of_another_version_are_named(tmp_path):
    remember(load_config("ict:tiny"), tmp_path)
    changed(tmp_path, "settings", "batch", value=-8)
    with pytest.raises(ConfigError, match=r"settings\.json: batch=-8 must be positive"):
        recall_config(tmp_path)
    changed(tmp_path, "settings", "batch", value=8)
    changed(tmp_path, "settings", "loader", "speed", value=9)
    with pytest.raises(ConfigError, match=r"loader\.speed is no setting of this version of dense_jax; name it again"):
        recall_config(tmp_path)


def test_overrides_take_values_of_python_and_texts_alike():
    typed = {"loader.order": Order.SHUFFLE, "embed.split": False, "optimizer.clip": 2, "corpus.also": ["a", "b"]}
    texts = {"loader.order": "shuffle", "embed.split": "false", "optimizer.clip": "2", "corpus.also": ["a", "b"]}
    assert load_config("contriever:tiny", typed) == load_config("contriever:tiny", texts)
    method = load_config("contriever:tiny", {"objective.negatives": Negatives.IN_BATCH}).config.objective
    assert to_dict(method)["negatives"] == "in_batch"


def test_all_mistakes_of_overrides_are_listed_at_once():
    with pytest.raises(ConfigError) as error:
        load_config("ict:tiny", {"batc": 8, "steps": 2.5, "embed.batch": -2})
    assert str(error.value).splitlines() == [
        "unknown flag --batc; did you mean --batch?",
        "steps=2.5 is not a whole number",
        "embed.batch=-2 must be positive",
    ]


def test_a_damaged_record_is_replaced_by_the_next_one(tmp_path):
    (tmp_path / FILE).write_text("{")
    with pytest.raises(StorageError, match=r"settings\.json: damaged"):
        parse([f"--workdir={tmp_path}"])
    remember(load_config("ict:tiny"), tmp_path)
    assert recall_config(tmp_path) == load_config("ict:tiny")
