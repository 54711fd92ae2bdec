import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dense_jax.data.masking import mask_id
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.errors import ConfigError, DataError, StorageError

TEXTS = [
    "The lighthouse keeper kept the light; the keeper's lighthouses were lighter.",
    "Keeping lights, a Café in São Paulo (3.14) and 中文字.",
    "Unbelievable! The unlighted keeper sleeps.",
] * 5


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(TEXTS, vocab_size=90, lowercase=True)


def pieces(tokenizer, text):
    return [tokenizer.backend.id_to_token(int(i)) for i in tokenizer.encode([text])[0]]


def test_a_trained_vocabulary_starts_with_berts_special_tokens_and_keeps_to_its_size(trained):
    vocabulary = trained.vocabulary
    assert [vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask] == [0, 1, 2, 3, 4]
    assert vocabulary.special.nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert trained.size == vocabulary.size == 90


def test_text_becomes_ids_without_special_tokens_and_comes_back(trained):
    ids = trained.encode(["The Lighthouse keeper!", ""])
    assert trained.decode(ids[0]) == "the lighthouse keeper!"
    assert ids[0].dtype == np.int32
    assert ids[1].tolist() == []


def test_special_tokens_are_shown_when_decoded(trained):
    assert trained.decode([2, *trained.encode(["keeper"])[0].tolist(), 4, 3]) == "[CLS] keeper [MASK] [SEP]"


def test_case_is_kept_where_lowercase_is_off():
    tokenizer = Tokenizer.train(TEXTS, vocab_size=90, lowercase=False)
    assert tokenizer.decode(tokenizer.encode(["The Café"])[0]) == "The Café"


def test_a_piece_continues_a_word_if_it_starts_with_two_hashes(trained):
    words = pieces(trained, "unkept sleepers.")
    continues = trained.vocabulary.continues[trained.encode(["unkept sleepers."])[0]]
    assert any(continues)
    assert continues.tolist() == [word.startswith("##") for word in words]


TRAIN = """
import hashlib, json
from dense_jax.data.tokenizer import Tokenizer
rng = __import__("random").Random(0)
words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(1, 9))) for _ in range(3_000)]
texts = [" ".join(rng.choices(words, k=50)) for _ in range(200)]
print(hashlib.md5(Tokenizer.train(texts, 600, True).backend.to_str().encode()).hexdigest())
"""


@pytest.mark.slow
def test_training_gives_the_same_vocabulary_whatever_the_number_of_threads():
    def digest(threads):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        return subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, check=True).stdout

    assert digest("1") == digest("2")


def test_words_that_become_unknown_teach_a_vocabulary_nothing():
    long = "qz" * 51
    vocabulary = Tokenizer.train([*TEXTS, f"keeper,{long}.light"], 90, True).backend.get_vocab()
    assert vocabulary == Tokenizer.train([*TEXTS, "keeper,.light"], 90, True).backend.get_vocab()


def test_a_word_of_a_hundred_characters_is_trained_on():
    vocabulary = Tokenizer.train([*TEXTS, "qz" * 50], 90, True).backend.get_vocab()
    assert {"q", "z"} <= vocabulary.keys()


def test_text_without_spaces_is_trained_on_word_by_word():
    joined = "-".join(["keeper", "light"] * 20)
    parted = " - ".join(["keeper", "light"] * 20)
    trained = [Tokenizer.train([text], 60, True).backend.get_vocab() for text in (joined, parted)]
    assert trained[0] == trained[1]


def test_a_vocabulary_without_room_for_an_alphabet_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=31 leaves no room for an alphabet; use at least 32"):
        Tokenizer.train(TEXTS, vocab_size=31, lowercase=True)


def test_the_smallest_vocabulary_keeps_to_its_size():
    assert Tokenizer.train(TEXTS, vocab_size=32, lowercase=True).size <= 32


def test_a_saved_tokenizer_loads_unchanged(trained, tmp_path):
    trained.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.special == trained.special
    assert [x.tolist() for x in loaded.encode(TEXTS)] == [x.tolist() for x in trained.encode(TEXTS)]


def test_a_tokenizer_travels_to_another_process(trained):
    assert pickle.loads(pickle.dumps(trained)).encode(["keeper"])[0].tolist() == trained.encode(["keeper"])[0].tolist()


@pytest.mark.parametrize("lowercase", [True, False])
def test_transformers_reads_a_saved_folder_and_adds_berts_frame(read_by_transformers, tmp_path, lowercase):
    tokenizer = Tokenizer.train(TEXTS, vocab_size=90, lowercase=lowercase)
    tokenizer.save(tmp_path, max_length=77)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "BertTokenizer"  # a name that transformers 4 and 5 both know

    theirs = read_by_transformers(tmp_path)
    a, b = (ids.tolist() for ids in tokenizer.encode(TEXTS[:2]))
    pair = theirs(TEXTS[0], TEXTS[1])
    assert pair["input_ids"] == [2, *a, 3, *b, 3]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert theirs.model_max_length == 77


def hugging_face_folder(folder, backend, **config):
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    roles = {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture
def byte_level():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


@pytest.fixture
def sentence_piece():
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return backend


@pytest.mark.parametrize(("kind", "mark"), [("byte_level", "Ġ"), ("sentence_piece", "▁")])
def test_an_imported_tokenizer_marks_words_by_how_their_first_piece_starts(kind, mark, request, tmp_path):
    tokenizer = import_folder(hugging_face_folder(tmp_path / "theirs", request.getfixturevalue(kind)))
    text = "the keeper sleeps"
    continues = tokenizer.vocabulary.continues[tokenizer.encode([text])[0]]
    assert continues.tolist() == [not piece.startswith(mark) for piece in pieces(tokenizer, text)]
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_an_imported_tokenizer_keeps_its_own_special_tokens_through_saving(byte_level, read_by_transformers, tmp_path):
    import_folder(hugging_face_folder(tmp_path / "theirs", byte_level)).save(tmp_path / "ours")
    vocabulary = Tokenizer.load(tmp_path / "ours").vocabulary
    assert [vocabulary.cls, vocabulary.pad, vocabulary.sep, vocabulary.unk, vocabulary.mask] == [0, 1, 2, 3, 4]
    assert not vocabulary.continues[:5].any()
    assert read_by_transformers(tmp_path / "ours").mask_token == "<mask>"


def test_truncation_and_padding_of_an_imported_tokenizer_are_switched_off(byte_level, tmp_path):
    byte_level.enable_truncation(3)
    byte_level.enable_padding(length=3)
    tokenizer = import_folder(hugging_face_folder(tmp_path / "theirs", byte_level))
    assert [len(ids) for ids in tokenizer.encode(["x", "xyz" * 4])] == [1, 12]


def test_missing_special_tokens_are_named(byte_level, tmp_path):
    folder = hugging_face_folder(tmp_path / "theirs", byte_level, mask_token=None, cls_token=None)
    with pytest.raises(
        ConfigError, match="theirs: the tokenizer has no cls_token; an encoder needs pad, unk, cls, sep"
    ):
        import_folder(folder)


def test_a_tokenizer_whose_words_cannot_be_told_apart_is_refused(tmp_path):
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "a"])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer = import_folder(hugging_face_folder(tmp_path / "theirs", backend))
    with pytest.raises(
        ConfigError, match="a BPE tokenizer is not supported; use WordPiece, byte-level BPE or SentencePiece"
    ):
        _ = tokenizer.vocabulary


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent: no tokenizer.json, tokenizer_config.json or vocab.txt there"):
        import_folder(tmp_path / "absent")


def test_a_folder_that_asks_to_run_its_own_code_is_refused_and_the_code_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    auto_map = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": auto_map}))
    with pytest.raises(ConfigError, match="theirs: transformers cannot load it"):
        import_folder(folder)
    assert not canary.exists()


@pytest.mark.parametrize(("extra", "text"), [("keep", "keep"), ("Keep", "Keep")])
def test_a_bare_vocabulary_lowers_case_unless_it_has_capitals(tmp_path, extra, text):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, extra, "##er"]) + "\n")
    assert pieces(import_folder(tmp_path), "Keeper") == [text, "##er"]


def test_a_bare_vocabulary_without_its_special_tokens_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nword\n")
    with pytest.raises(ConfigError, match=r"vocab.txt: the tokenizer has no sep_token; an encoder needs"):
        import_folder(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_a_vocabulary_ends_at_a_newline_only(end, tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rest = ["\u2028", "a\x85", "\u2029", "\x0b", "\x0c", "\x1c", "", "otter"]
    (tmp_path / "vocab.txt").write_bytes("".join(piece + end for piece in [*special, *rest]).encode())
    found = import_folder(tmp_path)
    assert (found.size, found.encode(["otter"])[0].tolist()) == (13, [12])


def unmasked(trained, folder, **config):
    """A folder of `trained` in which another piece has the place of [MASK]."""
    trained.save(folder)
    raw = json.loads((folder / "tokenizer.json").read_text().replace("[MASK]", "zzz"))
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "zzz"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["mask_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | config))
    return folder


@pytest.mark.parametrize("config", [{}, {"mask_token": None}, {"tokenizer_class": "PreTrainedTokenizerFast"}], ids=str)
def test_a_tokenizer_without_a_mask_token_is_read_and_refused_where_tokens_are_masked(config, trained, tmp_path):
    found = import_folder(unmasked(trained, tmp_path, **config))
    assert (found.size, found.vocabulary.mask) == (trained.size, None)
    found.save(tmp_path / "own")
    assert Tokenizer.load(tmp_path / "own").vocabulary.mask is None
    assert import_folder(tmp_path / "own").vocabulary.mask is None
    with pytest.raises(ConfigError, match="the tokenizer has no mask token, and this objective masks tokens; train a"):
        mask_id(found.vocabulary)


def test_a_bare_vocabulary_without_a_mask_token_is_read(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nword\n")
    found = import_folder(tmp_path)
    assert (found.size, found.vocabulary.mask) == (5, None)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "tokenizer_config.json", "sentencepiece.bpe.model"])
def test_a_git_lfs_pointer_for_a_tokenizer_is_named_with_its_cure(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 466247\n")
    with pytest.raises(
        StorageError, match=f"{name}: a Git LFS pointer, not the file itself; fetch it by `git lfs pull`"
    ):
        import_folder(tmp_path)


def test_of_a_models_config_only_its_kind_concerns_its_tokenizer(trained, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "is_decoder": null, "hidden_size": "wide"}')
    assert import_folder(tmp_path).size == trained.size


def test_a_lone_surrogate_is_refused_with_its_text(trained):
    with pytest.raises(DataError, match=r"'bad \\ud800 text' holds a lone surrogate, which is no character; remove it"):
        trained.encode(["fine", "bad \ud800 text"])


def test_a_damaged_tokenizer_file_is_named(trained, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(StorageError, match=r"tokenizer.json: damaged"):
        Tokenizer.load(tmp_path)


def test_a_folder_without_our_files_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"tokenizer_config.json: no such file"):
        Tokenizer.load(tmp_path)


def explosive(pattern="(a+)+b"):
    tokenizer = Tokenizer.train(["a b c"], 32, True)
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    tokenizer.backend.pre_tokenizer = split
    return tokenizer


def test_a_pattern_that_backtracks_without_end_is_named_with_the_text(capfd):
    with pytest.raises(ConfigError, match=r"cannot encode the text 'aaaa.* of 61 characters \(.*retry-limit"):
        explosive().encode(["fine", "a" * 60 + "c"])


def test_a_piece_with_an_absurd_id_is_refused_before_memory_is_asked_for(tmp_path):
    Tokenizer.train(["a b c"], 32, True).save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    raw["model"]["vocab"]["zz"] = 4_000_000_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(StorageError, match=r"tokenizer\.json: damaged \(model\.vocab\..*zz: Input should be less than"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: damaged \(model\.vocab\..*zz: Input should be less than"):
        import_folder(tmp_path)


def test_a_special_token_without_a_piece_is_named(tmp_path):
    Tokenizer.train(["a b c"], 32, True).save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(raw | {"pad_token": "<nothing>"}))
    with pytest.raises(StorageError, match="no piece for its pad_token '<nothing>'"):
        Tokenizer.load(tmp_path)
