"""BERT's WordPiece: a vocabulary trained on texts, and its normalisation, splitting and special tokens."""

import json
import re
from collections import Counter
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from dense_jax.errors import ConfigError

# in the order of their ids
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_PREFIX = "##"  # of a piece that continues a word
_SMALLEST = 32  # trained vocabulary
_LONGEST_WORD = 100  # characters; a longer word is [UNK]
_LONG = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


def train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    """A vocabulary of at most `vocab_size` pieces, the same for the same texts in the same order.

    The library numbers continuing letters in the order of a hash map and breaks ties by these numbers, so two runs
    differ. Here the alphabet and its continuing forms get their numbers first. Words of more than 100 characters
    are left out: they become [UNK] anyway, and training takes time quadratic in the length of a word.

    Raises:
        ConfigError: `vocab_size` has no room for an alphabet.
    """
    if vocab_size < _SMALLEST:
        raise ConfigError(f"tokenizer.vocab_size={vocab_size} leaves no room for an alphabet; use at least {_SMALLEST}")
    backend = wordpiece({}, lowercase)
    texts = [_without_long_words(backend, text) for text in texts]
    alphabet = _alphabet(backend, texts, limit=min(1_000, max(vocab_size // 16, min(128, vocab_size // 2 - 4))))
    letters = [_PREFIX + letter for letter in alphabet if _joins_words(backend, letter)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS.values(), *letters],
        initial_alphabet=alphabet,
        limit_alphabet=max(1, len(alphabet)),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return wordpiece(json.loads(backend.to_str())["model"]["vocab"], lowercase)


def wordpiece(vocabulary: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's tokenizer: clean, split at spaces, punctuation and Chinese characters, longest pieces first."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=SPECIAL_TOKENS["unk"], max_input_chars_per_word=_LONGEST_WORD)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=_PREFIX)
    if vocabulary:
        backend.add_special_tokens([token for token in SPECIAL_TOKENS.values() if token in vocabulary])
        cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(token, vocabulary[token]) for token in (cls, sep)],
        )
    return backend


def _without_long_words(backend: tokenizers.Tokenizer, text: str) -> str:
    """`text` without the words, as `backend` splits them, of more than `_LONGEST_WORD` characters."""
    normal = backend.normalizer.normalize_str(text)
    if not _LONG.search(normal):
        return text

    def short(match: re.Match[str]) -> str:
        words = backend.pre_tokenizer.pre_tokenize_str(match[0])
        return " ".join(word for word, _ in words if len(word) <= _LONGEST_WORD)

    return _LONG.sub(short, normal)


def _alphabet(backend: tokenizers.Tokenizer, texts: Iterable[str], limit: int) -> list[str]:
    """The `limit` most frequent characters after normalisation, in the order of their code points."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    letters = [letter for letter in counts if not letter.isspace()]
    return sorted(sorted(letters, key=lambda letter: (-counts[letter], letter))[:limit])


def _joins_words(backend: tokenizers.Tokenizer, letter: str) -> bool:
    """True if `letter` can be inside a word: punctuation and Chinese characters are words of their own."""
    normal = backend.normalizer.normalize_str("a" + letter)
    return len(backend.pre_tokenizer.pre_tokenize_str(normal)) == 1
