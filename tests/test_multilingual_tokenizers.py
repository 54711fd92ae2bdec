"""Tokenizers of XLM-R, RoBERTa and multilingual BERT: their ids are those of transformers, their words are words."""

import numpy as np
import pytest
import tokenizers

from dense_jax.data.inputs import build_inputs
from dense_jax.data.masking import word_groups
from dense_jax.data.preparation.entries import whole_documents
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.types import Document, Layout
from tests.roberta_folders import multilingual_bert_tokenizer, roberta_tokenizer, xlm_roberta_tokenizer

STYLES = {"xlm_roberta": xlm_roberta_tokenizer, "roberta": roberta_tokenizer, "bert": multilingual_bert_tokenizer}
HARD = [
    "The lighthouse keeper's light (3.14)!",
    "  two  spaces, and one behind ",
    "Der Leuchtturmwärter hütet das Licht.",
    "São Paulo CAFÉ",
    "灯塔看守人 keeper 守着灯。",
    "light<mask> keeper </s> [MASK]",
    "emoji 🗼 and \t a tab",
    "",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: make(root / name) for name, make in STYLES.items()}


@pytest.mark.parametrize("style", STYLES)
def test_ids_are_those_of_transformers(style, folders, read_by_transformers, tmp_path):
    ours, theirs = import_folder(folders[style]), read_by_transformers(folders[style])
    expected = theirs(HARD, add_special_tokens=False)["input_ids"]
    assert [ids.tolist() for ids in ours.encode(HARD)] == expected
    ours.save(tmp_path)
    assert [ids.tolist() for ids in Tokenizer.load(tmp_path).encode(HARD)] == expected


@pytest.mark.parametrize("style", STYLES)
def test_a_framed_text_is_that_of_transformers_before_and_after_saving(style, folders, read_by_transformers, tmp_path):
    ours, theirs = import_folder(folders[style]), read_by_transformers(folders[style])
    expected = theirs(HARD[:5], padding="max_length", truncation=True, max_length=12)
    rows = [build_inputs(ids[:0], ids, 12, Layout.BODY, ours.vocabulary) for ids in ours.encode(HARD[:5])]
    assert [row.ids.tolist() for row in rows] == expected["input_ids"]
    assert [row.mask.astype(int).tolist() for row in rows] == expected["attention_mask"]
    ours.save(tmp_path, max_length=12)
    again = read_by_transformers(tmp_path)
    assert again(HARD[:5], padding="max_length", truncation=True)["input_ids"] == expected["input_ids"]


@pytest.mark.parametrize(
    ("style", "ids"), [("xlm_roberta", [1, 3, 0, 2]), ("roberta", [1, 3, 0, 2]), ("bert", [0, 1, 2, 3])]
)
def test_special_tokens_have_their_published_ids(style, ids, folders):
    tokenizer = import_folder(folders[style])
    vocabulary = tokenizer.vocabulary
    mask = 4 if style == "bert" else tokenizer.size - 1
    assert [vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask] == [*ids, mask]
    assert vocabulary.special.nonzero()[0].tolist() == sorted([*ids, mask])
    assert not vocabulary.continues[vocabulary.special].any()


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """What whole-word masking takes as the words of `text`."""
    ids = tokenizer.encode([text])[0]
    return [tokenizer.decode(ids[group]).strip() for group in word_groups(ids, tokenizer.vocabulary)]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("xlm_roberta", ["Wärter", "keeper's", "unlighted", "lights,"]),
        ("roberta", ["Wärter", "keeper's", "unlighted", "lights,"]),
        ("bert", ["Wärter", "keeper", "'", "s", "unlighted", "lights", ","]),
    ],
)
def test_words_are_put_together_from_their_pieces(style, expected, folders):
    assert words(import_folder(folders[style]), "Wärter keeper's unlighted lights,") == expected


def test_chinese_pieces_are_words_for_they_stand_without_spaces(folders):
    sentence_piece, word_piece = (import_folder(folders[style]) for style in ("xlm_roberta", "bert"))
    assert words(sentence_piece, "灯塔看守人") == ["", "灯塔", "看", "守", "人"]  # "▁" is a piece of its own here
    assert words(word_piece, "灯塔看守人") == ["灯", "塔", "看", "守", "人"]


def test_multilingual_bert_keeps_case_and_accents(folders):
    tokenizer = import_folder(folders["bert"])
    assert tokenizer.decode(tokenizer.encode(["Café in São Paulo"])[0]) == "Café in São Paulo"


@pytest.mark.parametrize("style", STYLES)
def test_title_and_sentences_tokenised_apart_are_the_text_tokenised_at_once(style, folders):
    tokenizer = import_folder(folders[style])
    document = Document("a", "The keeper", "The light sleeps. Keeping lights, the keeper kept it.")
    entry = next(whole_documents([document], tokenizer, length=99)).entries[0]
    apart = np.concatenate([entry.title, entry.tokens])
    assert apart.tolist() == tokenizer.encode([f"{document.title} {document.text}"])[0].tolist()


def test_a_folder_with_a_vocabulary_alone_and_a_config_is_read_as_its_config_says(folders, tmp_path):
    """As multilingual BERT was first published: vocab.txt and a tokenizer_config.json that keeps case."""
    vocabulary = tokenizers.Tokenizer.from_file(str(folders["bert"] / "tokenizer.json")).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')
    assert [x.tolist() for x in import_folder(tmp_path).encode(HARD)] == [
        x.tolist() for x in import_folder(folders["bert"]).encode(HARD)
    ]
