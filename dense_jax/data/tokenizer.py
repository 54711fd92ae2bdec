"""The tokenizer of a workdir: texts as ids, in a folder that Hugging Face reads too.

The folder holds `tokenizer.json` and `tokenizer_config.json`, and loads in transformers 4 and 5.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypeVar

import numpy as np
import tokenizers
import xxhash
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.config import require
from dense_jax.data.sources.lines import has_surrogate
from dense_jax.data.wordpiece import SPECIAL_TOKENS, train_wordpiece
from dense_jax.data.words import Words, spaces_separate
from dense_jax.errors import ConfigError, DataError, StorageError, UserError
from dense_jax.hf.schemas import TokenizerFile
from dense_jax.io import read_json, whole_file, write_json
from dense_jax.types import Vocabulary

# Thai to Lao, Burmese, Khmer, Japanese and Chinese: scripts without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
T = TypeVar("T")
_LONGEST_INPUT = 512  # tokens; model_max_length unless the exporter sets another


class _OwnTokenizer(TypedDict):
    """tokenizer_config.json of a workdir."""

    pad_token: NotRequired[str | None]
    unk_token: NotRequired[str | None]
    cls_token: NotRequired[str | None]
    sep_token: NotRequired[str | None]
    mask_token: NotRequired[str | None]


class Placed(NamedTuple):
    """A text as ids with their character offsets."""

    ids: Int[np.ndarray, " l"]
    places: Int[np.ndarray, "l 2"]  # the characters of each, half open, without white space; empty for a space


@dataclass(frozen=True)
class Tokenizer:
    """Text -> ids without special tokens, and the facts of the vocabulary that objectives need."""

    backend: tokenizers.Tokenizer
    special: dict[str, str]  # pad, unk, cls, sep, mask -> token; mask may be empty

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer in a folder of `save`.

        Raises:
            StorageError: a file is missing or damaged.
        """
        config = read_json(folder / "tokenizer_config.json", _OwnTokenizer)
        special = {role: config.get(f"{role}_token") or "" for role in SPECIAL_TOKENS}
        path = folder / "tokenizer.json"
        text = json.dumps(read_json(path, TokenizerFile), ensure_ascii=False)
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise StorageError(f"{path}: damaged ({error})") from error
        return cls.checked(backend, special, folder, StorageError)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
        """BERT's tokenizer with a vocabulary of `train_wordpiece`."""
        return cls(train_wordpiece(texts, vocab_size, lowercase), SPECIAL_TOKENS)

    @classmethod
    def checked(
        cls, backend: tokenizers.Tokenizer, special: dict[str, str], folder: Path, error: type[UserError]
    ) -> "Tokenizer":
        """The tokenizer in `folder`, with its `special` tokens checked.

        Raises:
            ConfigError: a special token that every encoder needs is missing.
            UserError: a special token has no id; the error is of class `error`.
        """
        check_special_tokens(special, folder)
        pieces = backend.get_vocab()
        lost = [f"{role}_token {token!r:.60}" for role, token in special.items() if token and token not in pieces]
        if lost:
            raise error(
                f"{folder}: the tokenizer has no piece for its {', '.join(lost)}; its files do not belong together: "
                "fetch or prepare the folder again"
            )
        return cls(backend, special)

    def save(self, folder: Path, max_length: int = _LONGEST_INPUT) -> None:
        """Write the folder; transformers will cut texts after `max_length` tokens.

        Raises:
            StorageError: the disk is full or refuses.
        """
        normalizer = json.loads(self.backend.to_str())["normalizer"] or {}
        config: dict[str, Any] = {f"{role}_token": token or None for role, token in self.special.items()}
        config |= {"model_max_length": max_length, "clean_up_tokenization_spaces": False}
        if normalizer.get("type") == "BertNormalizer":
            config |= {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": normalizer["lowercase"],
                "strip_accents": normalizer["strip_accents"],
                "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
            }
        else:
            config |= {"tokenizer_class": "PreTrainedTokenizerFast"}  # TokenizersBackend would not load in version 4
        with whole_file(folder / "tokenizer.json") as partial:
            self.backend.save(str(partial))
        write_json(folder / "tokenizer_config.json", config)

    def encode(self, texts: Sequence[str]) -> list[Int[np.ndarray, " l"]]:
        """Ids of each text, without special tokens and uncut; several texts at once use several threads.

        Raises:
            DataError: a text holds a lone surrogate, which is no character.
        """
        return _encoded(self._arrays, texts)

    def encode_placed(self, texts: Sequence[str]) -> list[Placed]:
        """The ids of `encode` with their character offsets.

        A piece that is only the space before a word has no character. Several pieces of one character, as byte-level
        tokenizers have them, have that character each.

        Raises:
            DataError: as `encode`.
        """
        mark, starts = self._word_mark
        # SentencePiece gives the piece of a space the offsets of the next character.
        space = self.backend.token_to_id(mark) if starts else None
        encode = functools.partial(self.backend.encode_batch, add_special_tokens=False)
        found = zip(texts, _encoded(encode, texts), strict=True)
        return [_placed(text, encoding, space) for text, encoding in found]

    @functools.cached_property
    def _arrays(self) -> Callable[[list[str]], list[Int[np.ndarray, " l"]]]:
        """Ids of texts, by their words where that gives the same."""
        if spaces_separate(self.backend):
            return Words(self.backend, self.special["sep"]).encode
        encode = functools.partial(self.backend.encode_batch_fast, add_special_tokens=False)
        return lambda texts: [np.array(found.ids, np.int32) for found in encode(texts)]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " l"]) -> str:
        """Text of `ids`, with special tokens."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def check_ids(self, other: "Tokenizer", name: str) -> None:
        """
        Raises:
            ConfigError: a piece of `other`, the tokenizer of `name`, has another id or no id in this tokenizer.
        """
        ours = self.backend.get_vocab()
        different = [(p, i) for p, i in other.backend.get_vocab().items() if ours.get(p) != i]
        if different:
            piece, i = min(different, key=lambda found: found[1])
            raise ConfigError(
                f"{name} was trained on other token ids: {len(different):,} differ, such as {piece!r}, "
                f"{i} there and {ours.get(piece, 'unknown')} here; run `dense-jax prepare` "
                "with the same flags and another --workdir, which takes its tokenizer"
            )

    @property
    def fingerprint(self) -> str:
        """A digest that changes with the results of `encode`."""
        return xxhash.xxh3_128_hexdigest((self.backend.to_str() + str(sorted(self.special.items()))).encode())

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return self.vocabulary.size

    def with_prompts(self, prompts: Iterable[str]) -> Vocabulary:
        """The vocabulary, with the ids of `prompts`."""
        return replace(self.vocabulary, prompts={prompt: self.prompt_ids(prompt) for prompt in prompts})

    def prompt_ids(self, prompt: str) -> Int[np.ndarray, " l"]:
        """The ids of a prompt, to precede those of a text.

        Raises:
            ConfigError: the prompt would change the ids of the text.
        """
        if not prompt:
            return np.empty(0, np.int32)
        alone, word, both = self.encode([prompt, "1", f"{prompt}1"])
        shorter = prompt.rstrip()
        byte_level = f"a byte-level tokenizer takes {shorter!r}, without its last space"
        fix = byte_level if shorter != prompt else "end it in a space"
        require(
            np.array_equal(np.concatenate([alone, word]), both),
            f"the prompt {prompt!r} changes the tokens of the word after it, and texts are stored as tokens; {fix}",
        )
        return alone

    @property
    def vocabulary(self) -> Vocabulary:
        """Ids of the special tokens, and flags of the pieces that continue a word.

        Raises:
            ConfigError: the type of the tokenizer is not supported.
        """
        return self._vocabulary  # a cached property does not match a protocol's property

    @functools.cached_property
    def _vocabulary(self) -> Vocabulary:
        pieces = self.backend.get_vocab()
        size = max(pieces.values()) + 1
        mark, starts = self._word_mark
        special, continues = np.zeros(size, bool), np.zeros(size, bool)
        for piece, i in pieces.items():
            # Otherwise a whole sentence would be one word, too long to mask; in BERT each such character is a word.
            unspaced = starts and _UNSPACED.match(piece)
            continues[i] = piece.startswith(mark) != starts and not unspaced
        special[[i for i, token in self.backend.get_added_tokens_decoder().items() if token.special]] = True
        ids = {role: pieces[token] for role, token in self.special.items() if token}
        special[list(ids.values())] = True
        return Vocabulary(
            size=size, **{"mask": None, **ids}, special=special, continues=continues & ~special, prompts={}
        )

    @functools.cached_property
    def _word_mark(self) -> tuple[str, bool]:
        """A prefix of pieces, and True if it marks the start of a word (False: its continuation)."""
        description = json.loads(self.backend.to_str())
        model = description["model"]
        if model["type"] == "WordPiece":
            return model["continuing_subword_prefix"], False
        splitters = _flat_steps(description["pre_tokenizer"]) + _flat_steps(description["decoder"])
        for part in splitters:
            if part["type"] == "Metaspace":
                return part["replacement"], True
            if part["type"] == "ByteLevel":
                return "Ġ", True
        raise ConfigError(
            f"a {model['type']} tokenizer is not supported; use WordPiece, byte-level BPE or SentencePiece"
        )


def check_special_tokens(special: dict[str, str], folder: Path) -> None:
    """Check that each role has a token, apart from the mask, which some objectives do not use.

    Raises:
        ConfigError: a token is missing.
    """
    needed = [role for role in SPECIAL_TOKENS if role != "mask"]
    if missing := [f"{role}_token" for role in needed if not special[role]]:
        raise ConfigError(
            f"{folder}: the tokenizer has no {', '.join(missing)}; an encoder needs {', '.join(needed)}: name them in "
            "tokenizer_config.json, or use another tokenizer"
        )


def _encoded(encode: Callable[[list[str]], list[T]], texts: Sequence[str]) -> list[T]:
    try:
        return encode(list(texts))
    except BaseException as error:
        if bad := next((text for text in texts if has_surrogate(text)), None):
            raise DataError(f"{bad[:60]!r} holds a lone surrogate, which is no character; remove it") from error
        if not _is_of_library(error):
            raise
        bad = next((text for text in texts if not _encodes(encode, text)), "")
        raise ConfigError(
            f"the tokenizer cannot encode the text {bad[:60]!r} of {len(bad):,} characters ({error}); use another "
            "--tokenizer.path, or leave the text out of the corpus"
        ) from None


def _encodes(encode: Callable[[list[str]], Any], text: str) -> bool:
    try:
        encode([text])
    except BaseException as error:
        if not _is_of_library(error):
            raise
        return False
    return True


def _is_of_library(error: BaseException) -> bool:
    """True for errors of the library: bare Exception, or a panic, such as that of a pattern that backtracks."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _placed(text: str, encoding: tokenizers.Encoding, space: int | None) -> Placed:
    places = []
    for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        piece = "" if i == space else text[start:end]
        start += len(piece) - len(piece.lstrip())
        places.append((start, start + len(piece.strip())))
    return Placed(np.array(encoding.ids, np.int32), np.array(places, np.int32).reshape(-1, 2))


def _flat_steps(stage: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer or decoder, with sequences flattened."""
    if not stage:
        return []
    return [part for key in ("pretokenizers", "decoders") for part in stage.get(key, [])] or [stage]
