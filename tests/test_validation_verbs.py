"""Validation of a workdir, from the command line's settings to what the other verbs make of them."""

import random
from itertools import combinations
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.config import command_line
from dense_jax.data.beir_folder import write_beir
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import read_json
from dense_jax.train.validation import read_history
from dense_jax.types import Document
from dense_jax.workdir import Workdir
from tests.programs import train_workdir

ROOT = Path(__file__).parent.parent
WORDS = [
    "river",
    "engine",
    "violin",
    "planet",
    "bridge",
    "glacier",
    "market",
    "forest",
    "poem",
    "harbour",
    "cross",
    "carry",
    "shape",
    "follow",
    "measure",
]

SPLIT = {"validation.select": "best", "embed.split": "true", "objective.passage_length": 24}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A BEIR folder of 120 documents of four sentences, each about its three words, which are its query."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("data") / "toys"
    topics = rng.sample(list(combinations(WORDS, 3)), 120)
    texts = [[" ".join(rng.choices(topic, k=7)) for _ in range(4)] for topic in topics]
    documents = [
        Document(f"d{i}", f"title {i}", " ".join(f"{line.capitalize()}." for line in text))
        for i, text in enumerate(texts)
    ]
    queries = {f"q{i}": " ".join(topic) for i, topic in enumerate(topics[:40])}
    for split, step in (("dev", 2), ("test", 3)):
        write_beir(folder, documents, queries, {f"q{i}": {f"d{i}": 1} for i in range(0, 40, step)}, split)
    return folder


def arguments(corpus: Path, workdir: Path, **more) -> list[str]:
    small = {
        "corpus.source": corpus,
        "corpus.held_out": 10,
        "tokenizer.vocab_size": 100,
        "objective.encoder.bert.width": 32,
        "objective.encoder.bert.feed_forward": 64,
        "batch": 16,
        "steps": 30,
        "optimizer.warmup_share": 0.1,
        "optimizer.learning_rate": 3e-3,
        "validation.every": 10,
        "validation.folder": corpus,
        "validation.queries": 8,
        "validation.documents": 110,
    } | {key.replace("__", "."): value for key, value in more.items()}
    values = [f"--{key}={value}" for key, value in small.items()]
    return [f"--config={ROOT / 'configs' / 'ict.py'}:tiny", f"--workdir={workdir}", *values]


def opened(*given, **more) -> Workdir:
    asked = command_line.parse(arguments(*given, **more))
    return Workdir(asked.workdir, asked.config)


def trained(*given, **more) -> Workdir:
    work = opened(*given, **more)
    train_workdir(work.config, work.passages, work.vocabulary, work.path, validator=work.validator())
    return work


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    assert run(["prepare", *arguments(corpus, workdir)]) == 0
    return workdir


@pytest.fixture(scope="module")
def finished(corpus, prepared, tmp_path_factory) -> Workdir:
    """A run whose documents are split."""
    workdir = tmp_path_factory.mktemp("finished")
    return trained(corpus, workdir, passages__workdir=prepared, **SPLIT)


@pytest.mark.slow
def test_evaluate_uses_the_best_checkpoint_and_reproduces_the_validation_scores(corpus, finished):
    sample, prepared = finished.path / "validation" / "toys-dev-8-110", finished.asked.passages.workdir
    more = SPLIT | {"evaluate.folder": sample, "evaluate.split": "dev", "passages.workdir": prepared}
    assert run(["evaluate", *arguments(corpus, finished.path, **more)]) == 0
    history = read_history(finished.path)
    assert history.best == finished.trained(-1).step > 0
    by_step = {validation["step"]: validation for validation in history.results}
    for name, step in {"before_training": 0, "after_training": history.best}.items():
        found = read_json(finished.path / "results" / "toys-dev-8-110-dev" / f"{name}.json")
        assert (found["step"], found["counts"]["queries"]) == (step, 8)
        assert found["mean"] | by_step[step] == found["mean"] | {"step": step}
    assert len(finished.sample().store) > 110  # split: documents are several passages


def test_without_a_folder_the_held_out_queries_are_validated(corpus, prepared, tmp_path):
    sample = opened(corpus, tmp_path, passages__workdir=prepared, validation__folder="").sample()
    assert (sample.test_set.split, len(sample.test_set.queries)) == ("test", 8)
    assert (tmp_path / "validation" / "test-test-8-110").is_dir()


def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(corpus, prepared, tmp_path):
    with pytest.raises(DataError, match=r"no split 'train' \(qrels/train.tsv\); there are: dev, test"):
        opened(corpus, tmp_path, passages__workdir=prepared, validation__split="train").sample()


def test_without_judged_queries_there_is_nothing_to_validate(corpus, tmp_path):
    more = {"corpus__held_out": 0, "validation__folder": ""}
    assert run(["prepare", *arguments(corpus, tmp_path, **more)]) == 0
    with pytest.raises(ConfigError, match=r"no judged queries; name a BEIR folder by --validation.folder=DIR"):
        opened(corpus, tmp_path, **more).sample()
