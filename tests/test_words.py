"""Texts encoded by their words have the ids that the tokenizer gives them as a whole."""

import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_jax.data import words
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.words import Words, spaces_separate
from tests.test_tokenizer import TEXTS

TRAINED = {lowercase: Tokenizer.train(TEXTS, vocab_size=90, lowercase=lowercase) for lowercase in (True, False)}
# where spaces, marks that stand alone, case, scripts without spaces and special tokens meet
PARTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from([" ", "  ", "\u00a0", "\u2028", "\x1c", "\x00", "\u0301", "e\u0301", "Σ", "ΑΣ", "İ", "中文",
                     "[SEP]", "[MASK]", "lighthouse", "Keeper's", "\ufffd", "\n", "\t", "a" * 101]),
)  # fmt: skip


def whole(tokenizer, texts):
    return [found.ids for found in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)]


@pytest.mark.parametrize("lowercase", [True, False])
@given(parts=st.lists(st.lists(PARTS, max_size=12), max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_text_has_the_ids_of_the_whole(lowercase, parts):
    texts = ["".join(text) for text in parts]
    tokenizer = TRAINED[lowercase]
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == whole(tokenizer, texts)


def test_words_are_encoded_once(monkeypatch):
    tokenizer = TRAINED[True]
    kept = Words(tokenizer.backend, "[SEP]")
    kept.encode(["the keeper kept the light"])
    asked = []
    monkeypatch.setattr(kept, "_encode", lambda texts: asked.extend(texts) or iter(()))
    (found,) = kept.encode(["light the keeper"])
    assert asked == []
    assert found.dtype == np.int32
    assert found.tolist() == whole(tokenizer, ["light the keeper"])[0]


def test_when_too_many_words_are_kept_they_are_forgotten(monkeypatch):
    monkeypatch.setattr(words, "_MOST", 3)
    kept = Words(TRAINED[True].backend, "[SEP]")
    texts = ["the keeper kept a light", "a lighthouse", "the keeper"]
    assert [kept.encode([text])[0].tolist() for text in texts] == whole(TRAINED[True], texts)
    assert len(kept._ids) <= 5


def test_results_may_be_written_to():
    (ids,) = TRAINED[True].encode(["the keeper"])
    ids[0] = 4
    assert ids[0] == 4


def test_words_stay_where_they_were_when_a_tokenizer_is_sent_elsewhere():
    kept = Words(TRAINED[True].backend, "[SEP]")
    kept.encode(TEXTS)
    assert pickle.loads(pickle.dumps(kept))._ids == {}


def test_tokenizers_whose_pieces_hold_a_space_or_whose_added_tokens_do_take_whole_texts():
    byte_level = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    assert not spaces_separate(byte_level)
    backend = tokenizers.Tokenizer.from_str(TRAINED[True].backend.to_str())
    assert spaces_separate(backend)
    backend.add_tokens(["light house"])
    assert not spaces_separate(backend)
