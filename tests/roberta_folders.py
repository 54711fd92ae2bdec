"""Small tokenizers and folders in the style of XLM-R, RoBERTa and multilingual BERT, as their authors publish them."""

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The lighthouse keeper kept the light; the keeper's lighthouses were lighter.",
    "Der Leuchtturmwärter hütet das Licht, und das Licht hütet den Wärter.",
    "Keeping lights, a Café in São Paulo (3.14).",
    "灯塔看守人守着灯。灯塔在海边。",
    "Unbelievable! The unlighted keeper sleeps.",
] * 5
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": {"content": "<mask>", "lstrip": True, "normalized": True, "rstrip": False, "single_word": False},
}


def xlm_roberta_tokenizer(folder, vocab_size=160):
    """A Unigram model of pieces that mark the start of a word by "▁"; "<mask>" is the last id."""
    backend = tokenizers.Tokenizer(models.Unigram())
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=ROBERTA_SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return _roberta_folder(folder, backend, "XLMRobertaTokenizer")


def roberta_tokenizer(folder, vocab_size=320):
    """Byte-level BPE, whose pieces hold the space before a word, shown as "Ġ"."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=ROBERTA_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return _roberta_folder(folder, backend, "RobertaTokenizer")


def multilingual_bert_tokenizer(folder, vocab_size=160):
    """Cased WordPiece; every Chinese character is a word."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    backend.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return _write(folder, backend, {"tokenizer_class": "BertTokenizer", "do_lower_case": False}, roles)


def _roberta_folder(folder, backend, kind):
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=True)])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return _write(folder, backend, {"tokenizer_class": kind}, ROLES)


def _write(folder, backend, config, roles):
    """The three files; special tokens stand in one of them alone, as in folders of transformers 4."""
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512}))
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    return folder
