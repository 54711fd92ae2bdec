"""The prompts of queries and passages: in the examples of every method as in search, and in what is exported."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dense_jax.config import LoaderConfig
from dense_jax.config.tree import with_vocabulary
from dense_jax.data.masking import masked_passage
from dense_jax.data.pipeline import Examples
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.hf.export import _prompts_by_side
from dense_jax.models.layers import Dtype
from dense_jax.terminal.show import example_texts
from dense_jax.types import Layout, Passage, QAExample, Tokens, TrainingQuery
from tests.test_objectives import FILES, batch_of, load, sentences_store, shrunk
from tests.toys import VOCABULARY, AnsweredStore, QuestionStore

QUERY, PASSAGE = np.array([45, 46]), np.array([47, 48, 49])  # ids that stand nowhere else
PROMPTS = {"45 46 ": QUERY, "47 48 49 ": PASSAGE}
KNOWN = replace(VOCABULARY, prompts=PROMPTS)
CLS, SEP = VOCABULARY.cls, VOCABULARY.sep
# methods whose training has passages alone; their queries get their prompt in search
WITHOUT_QUERIES = ("cocondenser", "condenser", "mlm", "retromae")


def prompted(path):
    objective = with_vocabulary(shrunk(load(path, "tiny").objective, Dtype.FLOAT32), VOCABULARY.size)
    lengths = {name: 24 for name in ("query_length", "passage_length", "view_length") if hasattr(objective, name)}
    return replace(objective, query_prompt="45 46 ", passage_prompt="47 48 49 ", **lengths)


def plain_ids(store):
    """Without the ids of the prompts."""
    store.tokens = [np.minimum(ids, 44) for ids in store.tokens]
    return store


def examples_of(objective):
    stores = {TrainingQuery: QuestionStore, QAExample: AnsweredStore, Passage: sentences_store}
    store = (
        plain_ids(stores[objective.learns_from]())
        if objective.learns_from is Passage
        else stores[objective.learns_from]()
    )
    return Examples(store, objective, KNOWN, LoaderConfig(), seed=0, length=40, batch=8)


def starts(tokens: Tokens) -> list[list[int]]:
    """The ids that each real text begins with, as far as the longer prompt goes."""
    rows = np.atleast_2d(tokens.ids), np.atleast_2d(tokens.mask)
    return [ids[:4].tolist() for ids, mask in zip(*rows, strict=True) if mask.any()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_training_texts_begin_with_the_prompt_of_their_side(path):
    objective = prompted(path)
    examples = examples_of(objective)
    sides = {"query": QUERY, "passage": PASSAGE, "passages": PASSAGE, "key": PASSAGE, "tokens": PASSAGE}
    seen = set()
    for i in range(len(examples)):
        for name, value in examples[i].inputs.items():
            if name in sides:
                seen.add(name)
                prompt = sides[name].tolist()
                assert all(ids[: 1 + len(prompt)] == [CLS, *prompt] for ids in starts(value)), (name, value)
    assert seen
    learned = [*([] if path.stem in WITHOUT_QUERIES else ["45 46 "]), "47 48 49 "]
    assert list(objective.prompts()) == learned


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_search_and_export_have_the_prompts_of_training(path):
    objective = prompted(path)
    towers = objective.towers(jax.eval_shape(objective.init, jax.random.key(0)))
    assert (towers.query.prompt, towers.passage.prompt) == ("45 46 ", "47 48 49 ")
    joined = replace(towers, passage=replace(towers.passage, layout=Layout.JOINED))
    assert _prompts_by_side(joined) == {"query": "45 46 ", "document": "47 48 49 "}


@pytest.mark.parametrize("name", ["mlm", "condenser", "cocondenser", "retromae"])
def test_a_prompt_is_neither_masked_nor_counted(name):
    path = next(path for path in FILES if path.stem == name)
    examples, bare = (
        examples_of(objective)
        for objective in (prompted(path), replace(prompted(path), query_prompt="", passage_prompt=""))
    )
    for i in range(len(examples)):
        found, without = (np.atleast_2d(of[i].inputs["positions"]) for of in (examples, bare))
        real = np.atleast_2d(examples[i].inputs["weights"]) > 0
        assert (found[real] > len(PASSAGE)).all()
        np.testing.assert_array_equal(found[real], without[real] + len(PASSAGE))  # the same words of the same text


def test_a_window_of_a_long_text_leaves_room_for_the_prompt():
    body, rng = np.arange(5, 45), np.random.default_rng(3)
    found = masked_passage(body[:0], body, 12, Layout.BODY, KNOWN, 0.1, rng, prompt=PASSAGE)["tokens"]
    assert found.ids[:4].tolist() == [CLS, *PASSAGE] and found.ids[-1] == SEP and found.mask.all()


@pytest.mark.parametrize("name", ["realm", "orqa"])
def test_the_reader_sees_the_question_without_its_prompt(name):
    path = next(path for path in FILES if path.stem == name)
    with_prompt = batch_of(prompted(path), vocabulary=KNOWN)
    bare = batch_of(replace(prompted(path), query_prompt="", passage_prompt=""), vocabulary=KNOWN)
    for one, other in zip(with_prompt["read"], bare["read"], strict=True):
        np.testing.assert_array_equal(one, other)
    if name == "realm":
        np.testing.assert_array_equal(with_prompt["positions"], bare["positions"])


def test_show_prints_an_example_with_its_prompts():
    class Numbers(Tokenizer):
        def decode(self, ids):
            return " ".join(map(str, ids))

    path = next(path for path in FILES if path.stem == "ict")
    shown = example_texts(examples_of(prompted(path)), Numbers.__new__(Numbers))
    assert [line.split(": ")[0] for line in shown[1:]] == ["query", "passage"]
    assert "tokens: 2 45 46 " in shown[1] and "tokens: 2 47 48 49 " in shown[2]
