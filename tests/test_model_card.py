"""The model card: everything a reader needs to use the folder, and the numbers it scored."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from dense_jax.hf.model_card import CardContent, CardResult, render_card
from dense_jax.types import Layout, Similarity, Tower, Towers
from tests.toys import MeanEmbedding

RESULT = CardResult("toy", "test", "nDCG@10", 0.25)
CARD = CardContent("ada", "the inverse cloze task", "two sentences", 7_000, 8, "seed: 0", "mit", (RESULT,))
PLAIN = Towers(Tower(MeanEmbedding(), {}, 12), Tower(MeanEmbedding(), {}, 32))


def test_the_card_carries_results_as_metadata_and_as_a_table():
    card = ModelCard(render_card(CARD, PLAIN, shared=True))
    found = card.data.eval_results[0]
    assert (found.metric_type, found.metric_value, found.dataset_split) == ("nDCG@10", 0.25, "test")
    assert (card.data.license, card.data.model_name) == ("mit", "ada")
    assert "| toy | test | nDCG@10 | 0.2500 |" in card.text


def test_a_question_answering_result_has_no_split():
    found = ModelCard(
        render_card(replace(CARD, results=(CardResult("nq.jsonl", "", "AnswerRecall@5", 0.5),)), PLAIN, shared=True)
    )
    assert (found.data.eval_results[0].dataset_name, found.data.eval_results[0].dataset_split) == ("nq.jsonl", None)


def test_the_card_says_how_the_model_was_made():
    text = render_card(CARD, PLAIN, shared=True)
    assert "trained with the inverse cloze task on two sentences: 7,000 steps of 8 examples" in text
    assert "```\nseed: 0\n```" in text


@pytest.mark.parametrize(
    ("steps", "base", "said"),
    [
        (20, "MiniLM", "encoder: MiniLM, trained further with the inverse cloze task on two sentences: 20 steps of 8"),
        (0, "MiniLM", "encoder: MiniLM as it is, without further training, exported by dense_jax."),
        (0, "", "encoder of random numbers, without any training, exported by dense_jax."),
    ],
)
def test_the_card_names_the_base_model_and_what_was_done(steps, base, said):
    card = ModelCard(render_card(replace(CARD, steps=steps, base=base, base_model=base), PLAIN, shared=True))
    assert said in card.text
    assert card.data.base_model == (base or None)


def test_a_card_without_results_license_or_settings_leaves_them_out():
    text = render_card(replace(CARD, results=(), license="", settings=""), PLAIN, shared=True)
    assert not any(word in text for word in ("## Results", "## Settings", "license", "model-index"))


@pytest.mark.parametrize(
    ("layout", "note", "call"),
    [
        (Layout.BODY, "Passages are their text; titles were not used.", '.encode(["A text that'),
        (Layout.JOINED, "A passage with a title is one string, title first", '.encode(["A text that'),
        (Layout.PAIR, "A passage is a pair: `model.encode([(title, text)])`", '.encode([("A title", "A text that'),
    ],
)
def test_the_card_says_how_titles_are_passed(layout, note, call):
    text = render_card(CARD, replace(PLAIN, passage=replace(PLAIN.passage, layout=layout)), shared=True)
    assert note in text
    assert call in text


def test_the_card_says_lengths_width_and_similarity():
    text = render_card(CARD, PLAIN, shared=True)
    assert "Queries were cut to 12 tokens and passages to 32, special tokens included; set `model.max_seq" in text
    assert "Vectors have 4 numbers and are compared by their inner product." in text
    assert "by cosine" in render_card(CARD, replace(PLAIN, similarity=Similarity.COSINE), shared=True)


def test_two_models_have_their_own_folders_and_lengths():
    text = render_card(CARD, PLAIN, shared=False)
    assert 'SentenceTransformer("PATH/query").encode(["A question?"])' in text
    assert 'SentenceTransformer("PATH/passage")' in text
    assert "set `model.max_seq" not in text


def test_prompts_are_named_and_used():
    query, passage = replace(PLAIN.query, prompt="q: "), replace(PLAIN.passage, prompt="p: ")
    text = render_card(CARD, Towers(query, passage), shared=True)
    assert 'encode(["A question?"], prompt_name="query")' in text
    assert "Queries start with 'q: ', the prompt called `query`." in text
    assert "Passages start with 'p: ', the prompt called `document`." in text


def test_a_prompt_cannot_be_put_before_a_pair():
    passage = replace(PLAIN.passage, prompt="p: ", layout=Layout.PAIR)
    text = render_card(CARD, replace(PLAIN, passage=passage), shared=True)
    assert "Put 'p: ' before each title: a prompt cannot be put before a pair." in text
    assert 'prompt_name="document"' not in text
