"""The command line: what is understood, and what the messages say when it is not."""

import textwrap
from pathlib import Path

import pytest

from dense_jax.config import Order
from dense_jax.errors import ConfigError
from dense_jax.flags import parse

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config_file(tmp_path):
    """A config with an objective that needs nothing."""
    path = tmp_path / "method.py"
    path.write_text(
        textwrap.dedent("""
        from dense_jax.config import Config, OptimizerConfig, choose
        from tests.toys import BagOfTokens

        def get_config(variant="base"):
            return choose(variant, base=base, tiny=lambda: base(batch=8))

        def base(batch=64):
            return Config(objective=BagOfTokens(), steps=100, batch=batch, optimizer=OptimizerConfig(warmup=10))
        """)
    )
    return path


def message(*argv):
    with pytest.raises(ConfigError) as error:
        parse(list(argv))
    return str(error.value)


def test_overrides_change_the_named_settings_only(config_file):
    found = parse([f"--config={config_file}", "--batch=32", "--loader.order=shuffle", "--workdir=w"])
    assert (found.config.batch, found.config.loader.order, found.config.steps) == (32, Order.SHUFFLE, 100)
    assert str(found.workdir) == "w"


def test_further_sources_are_given_one_flag_each_or_all_in_one(config_file):
    def also(*flags):
        return parse([f"--config={config_file}", "--workdir=w", *flags]).config.corpus.also

    assert also() == ()
    assert also("--corpus.also=/data/a-1.jsonl") == ("/data/a-1.jsonl",)
    assert also("--corpus.also=a.jsonl", "--corpus.also=b.jsonl") == ("a.jsonl", "b.jsonl")
    assert also("--corpus.also=('a.jsonl','b.jsonl')") == ("a.jsonl", "b.jsonl")


def test_further_sources_that_are_no_names_are_refused(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--corpus.also=('a.jsonl',", "--stepz=1")
    assert text.splitlines() == [
        "corpus.also=('a.jsonl', is not a tuple; give the flag once for each of its values",
        "unknown setting stepz; did you mean steps?",
    ]
    text = message(f"--config={config_file}", "--workdir=w", "--corpus.also=")
    assert text == "corpus.also=('',) is not a tuple of sources; give --corpus.also=SOURCE for each"


def test_the_name_after_the_colon_chooses_a_variant(config_file):
    assert parse([f"--config={config_file}:tiny", "--workdir=w"]).config.batch == 8


def test_words_that_are_no_flags_are_kept_in_order(config_file):
    assert parse(["one two", f"--config={config_file}", "--workdir=w", "three"]).words == ["one two", "three"]


def test_an_unknown_variant_is_answered_with_those_there_are(config_file):
    assert message(f"--config={config_file}:huge", "--workdir=w").endswith("there are base, tiny")


def test_a_missing_config_file_is_named(tmp_path):
    assert f"{tmp_path}/no.py: no such config file" in message(f"--config={tmp_path}/no.py", "--workdir=w")


def test_no_config_and_no_workdir_are_asked_for(config_file):
    assert "no --config=FILE" in message("--workdir=w")
    assert "no --workdir=DIR" in message(f"--config={config_file}")


def test_an_unknown_key_suggests_the_nearest(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--optimizer.learning_rat=1")
    assert text == "unknown setting optimizer.learning_rat; did you mean optimizer.learning_rate?"


def test_a_key_in_the_wrong_place_is_found_by_its_last_part(config_file):
    assert "did you mean optimizer.warmup?" in message(f"--config={config_file}", "--workdir=w", "--warmup=1")


def test_an_unknown_flag_suggests_the_nearest(config_file):
    assert "did you mean --workdir?" in message(f"--config={config_file}", "--workdi=w")


def test_several_mistakes_are_all_listed(config_file):
    text = message(
        f"--config={config_file}",
        "--workdir=w",
        "--batch=many",
        "--stepz=1",
        "--loader.order=random",
    )
    assert text.splitlines() == [
        "batch=many is not a whole number",
        "unknown setting stepz; did you mean steps?",
        "loader.order=random is not one of locality, shuffle, distinct",
    ]


def test_broken_rules_are_all_listed(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--batch=0", "--optimizer.learning_rate=-1")
    assert text.splitlines() == ["optimizer.learning_rate=-1.0 must be positive", "batch=0 must be positive"]


def test_a_rule_between_two_settings_sees_the_overridden_values(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--steps=5")
    assert text == "optimizer.warmup=10 is more than steps=5"


def test_the_readmes_run_of_realm_has_the_tokenizer_of_its_reader(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = Path("README.md").read_text().replace("\\\n", "").splitlines()
    shown = [line.split() for line in lines if "--config=configs/realm.py --workdir=runs/realm" in line]
    prepared, trained = (parse(words).config for _, verb, *words in shown if verb in ("prepare", "train"))
    assert prepared.tokenizer.path == trained.tokenizer.path == trained.init_reader_from != ""
