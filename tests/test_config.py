"""The configuration tree: rules, the vocabulary size, and what two runs differ in."""

from types import SimpleNamespace

import pytest

from dense_jax.config import (
    AnswerConfig,
    Config,
    CorpusConfig,
    MeshConfig,
    NeighboursConfig,
    OptimizerConfig,
    PassagesConfig,
    Refresh,
    Unit,
)
from dense_jax.config.tree import checked, differences, to_dict, with_vocabulary, without_folders
from dense_jax.errors import ConfigError
from dense_jax.types import QAExample
from tests.toys import BagOfTokens, MeanEmbedding


def config(**settings) -> Config:
    return Config(**({"objective": BagOfTokens(), "steps": 10, "batch": 8} | settings))


def test_checked_sees_values_that_were_set_after_construction():
    broken = config()
    broken.optimizer.clip = -1.0
    with pytest.raises(ConfigError, match=r"optimizer.clip=-1.0 must not be negative"):
        checked(broken)


def test_checked_returns_an_equal_tree():
    assert checked(config()) == config()


def test_a_vocabulary_size_of_zero_is_taken_from_the_tokenizer():
    open_size = config(objective=BagOfTokens(encoder=MeanEmbedding(vocab_size=0)))
    assert with_vocabulary(open_size.objective, 123).encoder.vocab_size == 123


def test_a_vocabulary_padded_by_the_user_is_kept():
    padded = BagOfTokens(encoder=MeanEmbedding(vocab_size=128))
    assert with_vocabulary(padded, 123).encoder.vocab_size == 128


def test_a_model_too_small_for_the_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=100 is smaller than the tokenizer's vocabulary of 123; use 0"):
        with_vocabulary(BagOfTokens(encoder=MeanEmbedding(vocab_size=100)), 123)


def test_differences_name_the_settings_and_both_values():
    old = to_dict(config())
    new = to_dict(config(batch=16, optimizer=OptimizerConfig(learning_rate=3e-4)))
    assert list(differences(old, new)) == ["batch: 8 -> 16", "optimizer.learning_rate: 0.0001 -> 0.0003"]


def test_a_saved_config_is_plain_json_and_enums_are_their_values():
    assert to_dict(config())["loader"]["order"] == "locality"
    assert to_dict(config(mesh=MeshConfig(2, 4)))["mesh"] == {
        "dcn": 1, "data": 2, "fsdp": 4, "tensor": 1, "shard_update": True, "gradient_dtype": "float32"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 3}, "chunk=3 does not divide batch=8; 0 means the whole batch"),
        ({"tokens": 100}, "tokens=100 and steps=10 both say how long to train; set one of them to 0"),
        ({"optimizer": OptimizerConfig(warmup=11)}, "optimizer.warmup=11 is more than steps=10"),
    ],
)
def test_a_setting_that_does_not_fit_another_is_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        config(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("settings", [{"chunk": 8}, {"chunk": 2}, {"tokens": 100, "steps": 0}, {"steps": 0}])
def test_settings_that_fit_are_taken(settings):
    assert config(**settings)


def test_a_warmup_is_checked_once_the_steps_are_known():
    """A budget of tokens comes with steps=0, which says nothing of the warm-up."""
    config(tokens=100, steps=0, optimizer=OptimizerConfig(warmup=11))


def test_a_warmup_is_given_in_steps_or_as_a_share_and_not_as_both():
    with pytest.raises(ConfigError) as error:
        OptimizerConfig(warmup_share=0.1, warmup=5)
    assert str(error.value) == (
        "optimizer.warmup=5 and optimizer.warmup_share=0.1 both say how long to warm up; set one of them to 0"
    )


def test_chunks_are_all_of_one_length():
    with pytest.raises(ConfigError) as error:
        PassagesConfig(unit=Unit.CHUNKS, short_rate=0.1)
    assert str(error.value) == (
        "passages.short_rate=0.1 shortens passages and spans, and passages.unit=chunks are all of one length; set it "
        "to 0"
    )
    assert PassagesConfig(unit=Unit.CHUNKS) and PassagesConfig(unit=Unit.SPANS, short_rate=0.1)


@pytest.mark.parametrize("also", ["news.jsonl", ("",), (7,), ["news.jsonl"]])
def test_further_sources_are_a_tuple_of_names(also):
    """The rule is asked by itself, since in the tests types are checked before it is."""
    with pytest.raises(ConfigError) as error:
        CorpusConfig.__post_init__(SimpleNamespace(also=also, query_share=1.0))
    assert str(error.value) == (f"corpus.also={also!r} is not a tuple of sources; give --corpus.also=SOURCE for each")


def test_further_sources_are_compared_and_saved_as_a_list():
    one, two = (to_dict(config(corpus=CorpusConfig(also=also))) for also in [("a.jsonl",), ("a.jsonl", "b.jsonl")])
    assert list(differences(one, two)) == ["corpus.also: ['a.jsonl'] -> ['a.jsonl', 'b.jsonl']"]


class OfQuestions(BagOfTokens):
    learns_from = QAExample


def test_questions_with_answers_are_asked_of_passages():
    config(objective=OfQuestions())
    with pytest.raises(ConfigError) as error:
        config(objective=OfQuestions(), passages=PassagesConfig(unit=Unit.CHUNKS))
    assert str(error.value) == (
        "passages.unit=chunks does not fit OfQuestions, which learns from questions that passages answer: use "
        "--passages.unit=passages"
    )


def test_questions_for_what_does_not_learn_from_them_are_refused():
    with pytest.raises(ConfigError) as error:
        config(corpus=CorpusConfig(questions="nq.jsonl"))
    assert str(error.value) == (
        "corpus.questions=nq.jsonl does not fit BagOfTokens, which learns from passages, spans or chunks; leave it out"
    )


def test_an_age_that_every_index_reaches_before_the_next_snapshot_is_refused():
    beside = {"refresh": Refresh.ASYNCHRONOUS, "every": 10, "ahead": 4}
    with pytest.raises(ConfigError, match=r"max_staleness=13 is below neighbours.every=10 and neighbours.ahead=4 tog"):
        NeighboursConfig(**beside, max_staleness=13)
    for sound in (14, 0):
        assert NeighboursConfig(**beside, max_staleness=sound).max_staleness == sound


def test_patterns_without_a_file_are_refused():
    with pytest.raises(ConfigError, match=r"answer.patterns=True describes the answers of answer.questions"):
        AnswerConfig(patterns=True)
    with pytest.raises(ConfigError, match=r"answer.read=False needs a file of questions with answers; name it by"):
        AnswerConfig(read=False)


def test_what_is_published_of_a_config_names_no_folder():
    corpus = CorpusConfig(source="/home/ada/beir/scifact/", also=("/home/ada/news.jsonl", "installed"))
    files = {"init_reader_from": "/home/ada/reader", "answer": AnswerConfig(questions="/home/ada/nq.jsonl")}
    config = Config(BagOfTokens(), steps=1, batch=8, init_from="/home/ada/bert", corpus=corpus, **files)
    public = without_folders(config)
    assert (public.init_from, public.init_reader_from, public.answer.questions) == ("bert", "reader", "nq.jsonl")
    assert public.corpus.sources == ("scifact", "news.jsonl", "installed")
    assert "/home" not in str(to_dict(public))
