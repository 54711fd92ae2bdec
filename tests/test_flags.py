"""The command line: what is understood, and what the messages say when it is not."""

import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from dense_jax.config import Order
from dense_jax.config.command_line import parse
from dense_jax.config.help import print_settings
from dense_jax.config.settings import settings_of
from dense_jax.errors import ConfigError, DataError
from tests.bert_folders import write_config

ROOT = Path(__file__).parent.parent
TINY_ICT = "configs/ict.py:tiny"
NOT_ALONE = ("prepare.staging", "corpus.questions")  # allowed with other settings only


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


def test_further_sources_are_given_one_flag_each(config_file):
    def also(*flags):
        return parse([f"--config={config_file}", "--workdir=w", *flags]).config.corpus.also

    assert also() == ()
    assert also("--corpus.also=/data/a-1.jsonl") == ("/data/a-1.jsonl",)
    assert also("--corpus.also=a.jsonl", "--batch=8", "--corpus.also", "b.jsonl") == ("a.jsonl", "b.jsonl")


def test_a_further_source_without_a_name_is_refused(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--corpus.also=")
    assert text == "corpus.also=('',) is not a tuple of sources; give --corpus.also=SOURCE for each"


def test_a_value_follows_its_flag_or_an_equals_sign_and_is_never_a_word(config_file):
    found = parse(["--config", str(config_file), "--batch", "32", "--workdir", "w", "a query", "--embed.step", "-1"])
    assert (found.config.batch, found.config.embed.step) == (32, -1)
    assert (str(found.workdir), found.words) == ("w", ["a query"])


def test_what_follows_two_dashes_is_a_word_whatever_it_begins_with(config_file):
    found = parse([f"--config={config_file}", "--workdir=w", "one", "--", "-v", "--batch=8", "--"])
    assert found.words == ["one", "-v", "--batch=8", "--"]
    assert found.config.batch == 64


def test_a_value_that_looks_like_a_flag_comes_after_an_equals_sign(config_file):
    options = "--runner=DataflowRunner --project=p"
    flags = [f"--config={config_file}", "--workdir=w", "--prepare.runner=beam"]
    assert parse([*flags, f"--prepare.options={options}"]).config.prepare.options == options
    assert message(*flags, "--prepare.options", options).splitlines()[0] == (
        "--prepare.options has no value; give one as --prepare.options=VALUE"
    )


def test_one_dash_is_no_flag(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "-v")
    assert text == "unknown flag -v; a query that begins with - comes after --"


def test_hybrid_is_a_switch_of_search_alone(config_file):
    flags = [f"--config={config_file}", "--workdir=w"]
    found = parse([*flags, "--hybrid", "a query"], "search")
    assert (found.hybrid, found.words) == (True, ["a query"])
    assert not parse([*flags, "a query"], "search").hybrid
    with pytest.raises(ConfigError, match=r"evaluate takes no --hybrid; `evaluate` has a row of it, and `mine` takes"):
        parse([*flags, "--hybrid"], "evaluate")
    assert "--hybrid=no: takes no value; leave the flag out" in message(*flags, "--hybrid=no")


def test_traffic_is_listed_of_a_step_that_is_compiled_for_tpus():
    flags = ["--config=ict:tiny", "--workdir=runs/x", "--traffic"]
    assert parse([*flags, "--topology=v5e:2x2"], "show").traffic
    with pytest.raises(ConfigError, match="--traffic is of a step compiled for TPUs; use it with `dense-jax show"):
        parse(flags, "show")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("--fusion.weight=1.5", "fusion.weight=1.5 is not between 0 and 1"),
        ("--fusion.depth=0", "fusion.depth=0 must be positive"),
        ("--fusion.method=sum", "fusion.method=sum is not one of rrf, zscore"),
        ("--evaluate.dev_split=test", "evaluate.dev_split=test is evaluate.split too"),
    ],
)
def test_settings_of_a_fusion_that_cannot_be_kept_are_refused(config_file, setting, said):
    assert said in message(f"--config={config_file}", "--workdir=w", setting)


def test_an_argument_that_is_not_utf_8_is_refused(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "a\udcff")
    assert text == r"'a\udcff' is not UTF-8"


def test_of_a_flag_that_is_given_twice_the_last_counts(config_file):
    assert parse([f"--config={config_file}", "--workdir=w", "--batch=8", "--batch=16"]).config.batch == 16


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False)])
def test_booleans_are_true_or_false(config_file, text, value):
    assert parse([f"--config={config_file}", "--workdir=w", f"--embed.split={text}"]).config.embed.split is value


def test_a_home_folder_is_expanded_in_every_path(config_file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    known = settings_of(parse([f"--config={config_file}", "--workdir=w"]).config)
    places = [setting for setting in known if setting.place]
    flags = [f"--{setting.name}=~/x" for setting in places if setting.name not in NOT_ALONE]
    found = parse(["--workdir=~/w", f"--config={config_file}", *flags])
    assert str(found.workdir) == "/home/ada/w"
    values = {setting.name: setting.value for setting in settings_of(found.config)}
    assert {values[flag[2:].partition("=")[0]] for flag in flags} == {"/home/ada/x", ("/home/ada/x",)}
    assert len(flags) > 10


@pytest.mark.parametrize(("name", "source"), [("ict:tiny", "installed"), ("ict", ""), ("finetune_dpr:tiny", "")])
def test_only_the_configs_of_the_demo_have_a_corpus(name, source):
    assert parse([f"--config={name}", "--workdir=w"]).config.corpus.source == source


def test_a_published_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named, by_path = (parse([f"--config={name}", "--workdir=w"]).config for name in ("ict:tiny", ROOT / TINY_ICT))
    assert named == by_path
    assert parse(["--config=ict", "--workdir=w"]).config.batch == 4096


def test_a_name_that_is_not_published_is_answered_with_those_that_are():
    text = message("--config=ictt", "--workdir=w")
    assert text.startswith(
        "--config=ictt is neither a path of a .py file nor one of the published configs: cocondenser,"
    )


def test_the_folder_of_a_pretrained_model_is_the_callers_and_may_have_a_colon(tmp_path, monkeypatch):
    folder = tmp_path / "a:b.py"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder.mkdir()
    write_config(folder)
    for name in ("a:b.py", "~/a:b.py", str(folder)):
        found = parse([f"--config=pretrained:{name}", "--workdir=w"]).config
        assert Path(found.init_from).resolve() == folder
    assert "name it after the colon" in message("--config=pretrained", "--workdir=w")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", ":1: SyntaxError: "),
        ("import nothing_of_that_name\n", ":1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("\ndef get_config():\n    return 1 / 0\n", ":3: ZeroDivisionError: division by zero"),
        ("x = 1\n", ": AttributeError: "),
        ("def get_config():\n    return 7\n", ": get_config returned int, not a Config"),
    ],
)
def test_a_config_file_that_fails_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    assert message(f"--config={path}", "--workdir=w").startswith(f"{path}{said}")


def test_the_name_after_the_colon_chooses_a_variant(config_file):
    assert parse([f"--config={config_file}:tiny", "--workdir=w"]).config.batch == 8


def test_a_setting_of_the_method_is_known_and_suggested(config_file):
    flags = f"--config={config_file}", "--workdir=w"
    assert parse([*flags, "--objective.noise=0.5"]).config.objective.noise == 0.5
    assert "did you mean --objective.encoder.views" in message(*flags, "--objective.encoder.vews=1")
    assert "did you mean --objective.noise" in message(*flags, "--noise=1")


def test_t18_mistakes_of_flags_are_found_before_jax_is_imported():
    code = (
        "import sys; from dense_jax.__main__ import run; status = run(sys.argv[1:]); "
        "sys.exit('jax' in sys.modules or status)"
    )
    flags = ["--config=ict:tiny", "--workdir=w", "--batc=1", "--steps=many", "--embed.batch=-2"]
    done = subprocess.run([sys.executable, "-c", code, "train", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "dense-jax train: unknown flag --batc; did you mean --batch?",
        "steps=many is not a whole number",
        "embed.batch=-2 must be positive",
    ]


def test_a_missing_file_is_named_before_jax_is_imported_by_the_verb_that_reads_it(config_file, tmp_path):
    flags = [f"--config={config_file}", "--workdir=w", f"--corpus.source={tmp_path}", "--corpus.also=no.jsonl"]
    with pytest.raises(DataError, match=r"^corpus\.also=no\.jsonl: no such file or folder; correct the name$"):
        parse(flags, "prepare")
    assert parse(flags, "train").config.corpus.also == ("no.jsonl",)
    for elsewhere in ("installed", "tfds:wiki", "gs://bucket/x"):
        assert parse([*flags[:2], f"--corpus.source={elsewhere}"], "prepare").config.corpus.source == elsewhere


def test_words_that_are_no_flags_are_kept_in_order(config_file):
    assert parse(["one two", f"--config={config_file}", "--workdir=w", "three"]).words == ["one two", "three"]


def test_an_unknown_variant_is_answered_with_those_there_are(config_file):
    assert message(f"--config={config_file}:huge", "--workdir=w").endswith("; it has base, tiny")


def test_a_missing_config_file_is_named(tmp_path):
    assert f"{tmp_path}/no.py: no such config file" in message(f"--config={tmp_path}/no.py", "--workdir=w")


def test_no_config_and_no_workdir_are_asked_for(config_file):
    assert "no --config=NAME" in message("--workdir=w")
    assert "no --workdir=DIR" in message(f"--config={config_file}")


def test_an_unknown_key_suggests_the_nearest(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--optimizer.learning_rat=1")
    assert text == "unknown flag --optimizer.learning_rat; did you mean --optimizer.learning_rate?"


def test_a_key_in_the_wrong_place_is_found_by_its_last_part(config_file):
    assert "did you mean --optimizer.warmup?" in message(f"--config={config_file}", "--workdir=w", "--warmup=1")


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
        "unknown flag --stepz; did you mean --steps?",
        "loader.order=random is not one of locality, shuffle, distinct",
    ]


def test_t18_broken_rules_are_all_listed(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--batch=0", "--optimizer.learning_rate=-1")
    assert text.splitlines() == ["batch=0 must be positive", "optimizer.learning_rate=-1.0 must be positive"]


def test_a_rule_between_two_settings_sees_the_overridden_values(config_file):
    text = message(f"--config={config_file}", "--workdir=w", "--steps=5")
    assert text == "optimizer.warmup=10 is more than steps=5"


def test_the_documented_run_of_realm_has_the_tokenizer_of_its_reader(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = Path("docs/realm.md").read_text().replace("\\\n", "").splitlines()
    shown = [line.split() for line in lines if "--config=configs/realm.py --workdir=runs/realm" in line]
    prepared, trained = (parse(words).config for _, verb, *words in shown if verb in ("prepare", "train"))
    assert prepared.tokenizer.path == trained.tokenizer.path == trained.init_reader_from != ""


def test_the_help_of_a_setting_is_not_repeated_for_the_next_one_or_for_a_group(monkeypatch, capsys):
    """Tyro takes a comment above a field for that of the next fields too, up to one with a comment of its own."""
    monkeypatch.setenv("COLUMNS", "110")  # wider ones have boxes side by side
    print_settings("train", None)
    lines = [line.strip("│ ").partition(" (default: ")[0] for line in capsys.readouterr().out.splitlines()]
    texts = [re.sub(r"--[\w.]+ (\{.*?\}|\S+) *", "", line) for line in lines]
    counts = Counter(text for text in texts if len(text) > 20 and " " in text)
    assert len(counts) > 60
    assert [text for text, count in counts.items() if count > 1] == []
