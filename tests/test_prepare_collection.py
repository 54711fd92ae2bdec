"""A collection as a store of passages: whole documents, or documents in parts."""

from dataclasses import replace

import numpy as np
import pytest

from dense_jax.data.preparation import collection as module
from dense_jax.data.preparation.collection import open_collection, prepare_collection
from dense_jax.data.preparation.scan import rows_left_out
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import write_json
from tests.roberta_folders import multilingual_bert_tokenizer, roberta_tokenizer, xlm_roberta_tokenizer
from tests.sources import config, contents, killed_at, rows, sentence, write


@pytest.fixture
def tokenizer():
    return Tokenizer.train([sentence(i) for i in range(20)], 80, lowercase=True)


def collected(tmp_path, settings, tokenizer, folder="collections", **more):
    """The store of the BEIR folder `tmp_path`/beir."""
    corpus = open_collection(str(tmp_path / "beir"), settings)
    return prepare_collection(corpus, settings, tokenizer, tmp_path / folder, "beir", **more)


def test_a_collection_keeps_every_document_as_one_passage_in_the_order_of_the_source(tokenizer, tmp_path):
    long = {"_id": "long", "title": "", "text": " ".join(sentence(i) for i in range(500))}
    empty = {"_id": "empty", "title": "Light", "text": ""}
    write(tmp_path / "beir" / "corpus.jsonl", [empty, long, *rows(3)])
    found = collected(tmp_path, config("unused"), tokenizer)
    assert found.ids() == ["empty", "long", "d0", "d1", "d2"]
    assert [len(p.tokens) for p in found.passages(range(2))] == [0, 8_192]
    assert tokenizer.decode(found[0].title) == "light"
    assert found[1].sentences[-1] < 8_192
    assert found[1].tokens.tolist() == np.concatenate(tokenizer.encode([long["text"]])).tolist()[:8_192]
    assert found.document(1).text == long["text"]


def test_a_split_collection_keeps_all_of_a_long_document_as_several_passages(tokenizer, tmp_path):
    long = {"_id": "long", "title": "Light", "text": " ".join(sentence(i) for i in range(20))}
    empty = {"_id": "empty", "title": "House", "text": ""}
    write(tmp_path / "beir" / "corpus.jsonl", [long, empty, *rows(2)])
    found = collected(tmp_path, config("unused"), tokenizer, split=64)
    ids, passages = found.ids(), found.passages(range(len(found)))
    assert list(dict.fromkeys(ids)) == ["long", "empty", "d0", "d1"]
    of_long, of_empty = (passages[ids.index(name) : ids.index(name) + ids.count(name)] for name in ("long", "empty"))
    assert len(of_long) > 3
    assert all(3 + len(passage.title) + len(passage.tokens) <= 64 for passage in of_long)
    assert [tokenizer.decode(passage.title) for passage in of_long] == ["light"] * len(of_long)
    joined = np.concatenate([passage.tokens for passage in of_long])
    assert joined.tolist() == np.concatenate(tokenizer.encode([long["text"]])).tolist()
    assert " ".join(found.document(passage.row).text for passage in of_long) == long["text"]
    assert [(tokenizer.decode(passage.title), len(passage.tokens)) for passage in of_empty] == [("house", 0)]


def test_a_collection_that_is_split_otherwise_has_a_store_of_its_own(tokenizer, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": "a", "text": " ".join(sentence(i) for i in range(20))}])
    found = [collected(tmp_path, config("unused"), tokenizer, split=split) for split in (64, 32, 0, 64)]
    assert len({store.folder for store in found}) == 3
    assert len(found[0]) == len(found[3]) < len(found[1])
    assert len(found[2]) == 1


def test_a_beir_collection_is_read_by_beirs_field_names_whatever_those_of_the_corpus(tokenizer, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", rows(3))
    settings = config("unused")
    settings = replace(settings, corpus=replace(settings.corpus, id_field="key", text_field="body"))
    found = collected(tmp_path, settings, tokenizer)
    assert found.ids() == ["d0", "d1", "d2"]


def test_a_changed_collection_or_tokenizer_makes_another_store(tokenizer, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", rows(3))
    other = Tokenizer.train([sentence(99)], 70, lowercase=True)
    found = [collected(tmp_path, config("unused"), each) for each in (tokenizer, other)]
    write(tmp_path / "beir" / "corpus.jsonl", rows(4))
    found.append(collected(tmp_path, config("unused"), tokenizer))
    assert [len(store) for store in found] == [3, 3, 4]
    assert len({store.folder for store in found}) == 3


def test_the_same_documents_have_the_same_content_whatever_their_source_is_called(tokenizer, tmp_path):
    stores = []
    for name, count in (("a.jsonl", 3), ("b.jsonl", 3), ("c.jsonl", 4)):
        corpus = open_collection(str(write(tmp_path / name, rows(count))), config("unused"))
        stores.append(prepare_collection(corpus, config("unused"), tokenizer, tmp_path / "collections", name))
    assert stores[0].content == stores[1].content != stores[2].content


def test_an_interrupted_collection_ends_with_the_same_files(tokenizer, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", rows(30))
    arguments = (tmp_path, config("unused", shard_size=4), tokenizer)
    collected(*arguments, "whole")
    with killed_at(module, "whole_documents", 17):
        collected(*arguments, "again")
    collected(*arguments, "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_sentence_longer_than_a_passage_is_divided_and_nothing_of_it_is_lost(tokenizer, tmp_path):
    text = " ".join(["word"] * 100)  # no full stop: one sentence
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": "long", "title": "", "text": text}])
    found = collected(tmp_path, config("unused"), tokenizer, split=32)
    passages = found.passages(range(len(found)))
    assert max(len(passage.tokens) for passage in passages) <= 32 - 3
    assert np.concatenate([passage.tokens for passage in passages]).tolist() == tokenizer.encode([text])[0].tolist()
    texts = [document.text for document in found.texts(range(len(found)))]
    assert "".join(texts).replace(" ", "") == "word" * 100  # a piece may end within a word


def test_the_text_of_a_piece_of_a_sentence_says_what_its_tokens_say(tmp_path):
    tokenizer = Tokenizer.train([sentence(i) for i in range(20)], 300, lowercase=True)  # each word is a token
    words = " ".join(sentence(i) for i in range(20)).replace(".", ",").lower()
    text = f"Light. A {words} \u2014 the end\u200b"  # the last character has no token
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": "long", "title": "Light", "text": text}])
    found = collected(tmp_path, config("unused"), tokenizer, split=32)
    texts = [document.text for document in found.texts(range(len(found)))]
    assert len(texts) > 6 and " ".join(texts) == text
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == [
        passage.tokens.tolist() for passage in found.passages(range(len(found)))
    ]


@pytest.mark.parametrize("make", [xlm_roberta_tokenizer, roberta_tokenizer, multilingual_bert_tokenizer])
def test_a_sentence_is_divided_alike_whatever_marks_the_start_of_a_word(make, tmp_path):
    tokenizer = import_folder(make(tmp_path / "tokenizer"))
    first, long = "The keeper sleeps.", "Das Licht hütet den Wärter in São Paulo, " * 9 + "unlighted."
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": "long", "title": "", "text": f"{first} {long}"}])
    found = collected(tmp_path, config("unused"), tokenizer, split=32)
    tokens = np.concatenate([passage.tokens for passage in found.passages(range(len(found)))])
    assert tokens.tolist() == np.concatenate(tokenizer.encode([first, f" {long}"])).tolist()
    texts = [document.text for document in found.texts(range(len(found)))]
    assert "".join(texts).replace(" ", "") == f"{first}{long}".replace(" ", "")


def test_a_split_collection_whose_pieces_have_the_text_of_their_sentence_is_refused(tokenizer, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", rows(2))
    store = collected(tmp_path, config("unused"), tokenizer, split=64)
    del store.manifest["settings"]["texts"]  # as stores were before pieces had texts of their own
    write_json(store.folder / "manifest.json", store.manifest)
    with pytest.raises(ConfigError, match=r"beir-\w+ was made with other settings:\n  texts: None -> split\n"):
        collected(tmp_path, config("unused"), tokenizer, split=64)


def test_rows_without_text_are_left_out_of_a_collection_with_file_and_line(tokenizer, tmp_path, capsys):
    empty = [{"_id": "e", "title": "", "text": " "}, {"_id": "f", "text": None}]
    corpus = write(tmp_path / "beir" / "corpus.jsonl", [*rows(2), *empty])
    found = collected(tmp_path, config("unused"), tokenizer)
    assert found.ids() == ["d0", "d1"]
    said = f"2 rows are left out, such as {corpus}:3 (text and title are empty); see {found.folder / 'rejects.jsonl'}"
    assert f"note: {said}\n" in capsys.readouterr().err
    assert rows_left_out(found.folder) == said


def test_other_bad_rows_of_a_collection_are_refused_up_to_the_share_that_is_allowed(tokenizer, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", [*rows(2), {"_id": "e", "text": 3}])
    with pytest.raises(DataError) as error:
        collected(tmp_path, config("unused"), tokenizer)
    share = float(str(error.value).rpartition("=")[2])
    assert len(collected(tmp_path, config("unused", max_rejects=share), tokenizer)) == 2
