"""The workdir's config: what is only known once passages and a tokenizer are there."""

import json
from types import SimpleNamespace

import pytest

from dense_jax.config import (
    Config,
    CorpusConfig,
    LoaderConfig,
    Mixing,
    OptimizerConfig,
    Order,
    PassagesConfig,
    TokenizerConfig,
    Unit,
)
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError
from dense_jax.types import Tower
from dense_jax.workdir import Workdir
from tests.toys import VOCABULARY, BagOfTokens, MeanEmbedding, MemoryStore


def workdir(tmp_path, **settings):
    """A workdir whose passages and tokenizer need no disk."""
    asked = Config(**({"objective": BagOfTokens(), "steps": 0, "batch": 8, "tokens": 10_000} | settings))
    work = Workdir(tmp_path, asked)
    work.__dict__["tokenizer"] = SimpleNamespace(
        size=VOCABULARY.size, vocabulary=VOCABULARY, with_prompts=lambda prompts: VOCABULARY
    )
    work.__dict__["passages"] = MemoryStore()
    return work


def test_a_budget_of_tokens_becomes_steps(tmp_path):
    work = workdir(tmp_path, loader=LoaderConfig(order=Order.SHUFFLE))
    mean = sum(map(len, work.passages.tokens)) / 40  # an example of this method is a whole passage
    assert work.config.tokens == 0
    assert work.config.steps == pytest.approx(10_000 / (8 * mean), rel=0.05)  # 1,024 examples are 25.6 epochs


@pytest.mark.slow
def test_all_seeds_train_as_many_steps_on_a_budget_of_tokens(tmp_path):
    assert len({workdir(tmp_path, seed=seed, tokens=1_000_000).config.steps for seed in range(3)}) == 1


@pytest.mark.slow
def test_a_budget_of_tokens_is_as_many_steps_however_sources_are_mixed(tmp_path):
    """A batch is larger than the sample of examples that the budget is computed from."""

    def steps(mixing):
        work = workdir(tmp_path, batch=4_096, tokens=10**7, loader=LoaderConfig(mixing=mixing))
        work.__dict__["passages"] = MemoryStore(sources=(20, 20))
        work.passages.tokens = [tokens[:2] if row < 20 else tokens for row, tokens in enumerate(work.passages.tokens)]
        return work.config.steps

    assert steps(Mixing.BATCH) == steps(Mixing.EXAMPLE)


def test_a_warmup_that_is_longer_than_the_budget_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"optimizer\.warmup=9999 is more than steps=\d+"):
        _ = workdir(tmp_path, optimizer=OptimizerConfig(warmup=9_999)).config


def test_the_vocabulary_size_is_the_tokenizers(tmp_path):
    work = workdir(tmp_path, objective=BagOfTokens(encoder=MeanEmbedding(vocab_size=0)))
    assert work.config.objective.encoder.vocab_size == 50


TEXTS = ["The keeper kept the light.", "A lighthouse is kept by a keeper."] * 3


def warm(tmp_path, theirs):
    """A workdir with a tokenizer of its own, that starts from a folder with tokenizer `theirs`, if any."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    if theirs:
        theirs.save(folder)
    work = Workdir(tmp_path, Config(BagOfTokens(), steps=1, batch=8, init_from=str(folder)))
    work.__dict__["tokenizer"] = Tokenizer.train(TEXTS, vocab_size=60, lowercase=True)
    return work


def test_a_start_from_other_token_ids_is_refused_with_one_that_differs(tmp_path):
    work = warm(tmp_path, Tokenizer.train(["Other words altogether."], vocab_size=60, lowercase=True))
    with pytest.raises(ConfigError, match=r"was trained on other token ids: \d+ differ, such as '.+', \d+ there and"):
        work.check_init_from()


def test_a_start_from_the_same_token_ids_is_welcome(tmp_path, capsys):
    warm(tmp_path, Tokenizer.train(TEXTS, vocab_size=60, lowercase=True)).check_init_from()
    assert capsys.readouterr().err == ""


def test_a_start_from_a_folder_without_a_tokenizer_is_pointed_out(tmp_path, capsys):
    warm(tmp_path, None).check_init_from()
    assert "has no tokenizer; are the token ids of init_from those of this run?" in capsys.readouterr().err


def test_search_covers_single_span_documents_that_training_on_spans_leaves_out(tmp_path):
    source = tmp_path / "corpus.jsonl"
    long = " ".join(["The keeper kept the light."] * 8)
    texts = {"short": "A lighthouse is kept by a keeper.", "long": long}
    source.write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in texts.items()))
    config = Config(
        BagOfTokens(),
        steps=1,
        batch=8,
        corpus=CorpusConfig(source=str(source)),
        tokenizer=TokenizerConfig(vocab_size=60),
        passages=PassagesConfig(unit=Unit.SPANS, length=16),
    )
    prepare(config, tmp_path / "work")
    work = Workdir(tmp_path / "work", config)
    assert work.passages.ids() == ["long"]
    assert work.collection(Tower(MeanEmbedding(), {}, 16)).store.ids() == ["short", "long"]
