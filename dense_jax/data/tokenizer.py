"""The tokenizer, trained here or imported, as a folder that Hugging Face reads too.

The folder holds `tokenizer.json` and `tokenizer_config.json`, and loads in transformers 4 and 5.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import numpy as np
import tokenizers
import xxhash
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.config import require
from dense_jax.data.sources.lines import has_surrogate
from dense_jax.errors import ConfigError, DataError, StorageError, UserError
from dense_jax.hf.schemas import ModelKind, PieceIds, TokenizerFile
from dense_jax.io import Settings, check_no_pointer, digest, read_json, text_lines, whole_file, write_json
from dense_jax.types import Vocabulary

_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # in the order of their ids
_FILES = ("tokenizer*.json", "vocab*", "*.model", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_PREFIX = "##"  # of a piece that continues a word, in WordPiece
# Thai to Lao, Burmese, Khmer, Japanese and Chinese: scripts without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_SCHEMAS: dict[str, Any] = {"tokenizer.json": TokenizerFile, "vocab.json": PieceIds, "added_tokens.json": PieceIds}
_SMALLEST = 32  # trained vocabulary
_LONGEST_WORD = 100  # characters, in WordPiece; a longer word is [UNK]
_LONG = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
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
        special = {role: config.get(f"{role}_token") or "" for role in _BERT}
        backend, special = _read(folder / "tokenizer.json"), _complete(special, folder)
        _check_vocabulary(backend, special, folder, StorageError)
        return cls(backend, special)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
        """A BERT WordPiece vocabulary of at most `vocab_size` pieces, the same for the same texts in the same order.

        The library numbers continuing letters in the order of a hash map and breaks ties by these numbers, so two runs
        differ. Here the alphabet and its continuing forms get their numbers first. Words of more than 100 characters
        are left out: they become [UNK] anyway, and training takes time quadratic in the length of a word.

        Raises:
            ConfigError: `vocab_size` has no room for an alphabet.
        """
        if vocab_size < _SMALLEST:
            raise ConfigError(
                f"tokenizer.vocab_size={vocab_size} leaves no room for an alphabet; use at least {_SMALLEST}"
            )
        backend = _wordpiece({}, lowercase)
        texts = [_without_long_words(backend, text) for text in texts]
        alphabet = _alphabet(backend, texts, limit=min(1_000, max(vocab_size // 16, min(128, vocab_size // 2 - 4))))
        letters = [_PREFIX + letter for letter in alphabet if _joins_words(backend, letter)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=[*_BERT.values(), *letters],
            initial_alphabet=alphabet,
            limit_alphabet=max(1, len(alphabet)),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(_wordpiece(json.loads(backend.to_str())["model"]["vocab"], lowercase), _BERT)

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
        encodings = _encoded(self.backend.encode_batch_fast, texts)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

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
        found = zip(texts, _encoded(self.backend.encode_batch, texts), strict=True)
        return [_placed(text, encoding, space) for text, encoding in found]

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
        return _hash(self.backend.to_str() + str(sorted(self.special.items())))

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return self.vocabulary.size

    @property
    def vocabulary(self) -> Vocabulary:
        """Ids of the special tokens, and flags of the pieces that continue a word.

        Raises:
            ConfigError: the type of the tokenizer is not supported.
        """
        return self._vocabulary

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
        require(
            np.array_equal(np.concatenate([alone, word]), both),
            f"the prompt {prompt!r} changes the tokens of the word after it, and texts are stored as tokens; end it in "
            "a space, or with a byte-level tokenizer use no such prompt",
        )
        return alone

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
        splitters = _parts(description["pre_tokenizer"]) + _parts(description["decoder"])
        for part in splitters:
            if part["type"] == "Metaspace":
                return part["replacement"], True
            if part["type"] == "ByteLevel":
                return "Ġ", True
        raise ConfigError(
            f"a {model['type']} tokenizer is not supported; use WordPiece, byte-level BPE or SentencePiece"
        )


def import_folder(folder: Path) -> Tokenizer:
    """Any tokenizer folder of Hugging Face, a bare `vocab.txt` included. Code in it never runs.

    Raises:
        ConfigError: the folder has no tokenizer, or a special token that every encoder needs is missing.
        StorageError: a file is a pointer of Git LFS.
    """
    for path in _files(folder):
        check_no_pointer(path)
    if [path.name for path in _files(folder)] == ["vocab.txt"] and not (folder / "config.json").exists():
        return _from_vocabulary(folder / "vocab.txt")
    for path in _files(folder):
        if path.suffix == ".json":
            read_json(path, _SCHEMAS.get(path.name, Settings), ConfigError)  # transformers would not name the file
    try:
        theirs = _theirs(folder)
        backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    except UserError:
        raise
    except Exception as error:  # those of three libraries
        raise ConfigError(f"tokenizer.path={folder}: transformers cannot load it ({error})") from error
    backend.no_truncation()
    backend.no_padding()
    special = {role: str(getattr(theirs, f"{role}_token") or "") for role in _BERT}
    special = _complete(special, folder)
    _check_vocabulary(backend, special, folder, ConfigError)
    return Tokenizer(backend, special)


def has_tokenizer(folder: Path) -> bool:
    """True if `folder` has files for `import_folder`."""
    return any(path for pattern in _FILES for path in folder.glob(pattern))


def folder_fingerprint(folder: Path) -> str:
    """A digest of the tokenizer's files in a Hugging Face folder.

    Raises:
        ConfigError: the folder has no such file.
    """
    return _hash("".join(f"{path.name} {digest(path)}\n" for path in _files(folder)))


def _theirs(folder: Path) -> Any:
    """The tokenizer of transformers in `folder`, without a mask token that its vocabulary does not have."""
    from transformers import AutoTokenizer  # imported here: it takes seconds

    load = functools.partial(AutoTokenizer.from_pretrained, str(folder), trust_remote_code=False, local_files_only=True)
    theirs = load(**_kind(folder))
    return load(**_kind(folder), mask_token=None) if _is_invented(theirs.mask_token, folder) else theirs


def _is_invented(token: str | None, folder: Path) -> bool:
    """True if no file of a whole vocabulary has `token`: transformers adds its class's default to such a vocabulary."""
    is_whole = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    return bool(token) and is_whole and not any(str(token).encode() in path.read_bytes() for path in _files(folder))


def _kind(folder: Path) -> dict[str, Any]:
    """The model's config as an argument of AutoTokenizer, with the values for tokenizers only.

    transformers would refuse some of the others, such as null for a truth value.
    """
    path = folder / "config.json"
    raw = read_json(path, ModelKind, ConfigError) if path.is_file() else {}
    if not raw.get("model_type"):
        return {}
    from transformers import AutoConfig

    return {"config": AutoConfig.for_model(raw["model_type"], tokenizer_class=raw.get("tokenizer_class"))}


def _encoded(encode: Callable[..., list[tokenizers.Encoding]], texts: Sequence[str]) -> list[tokenizers.Encoding]:
    try:
        return encode(list(texts), add_special_tokens=False)
    except BaseException as error:
        if bad := next((text for text in texts if has_surrogate(text)), None):
            raise DataError(f"{bad[:60]!r} holds a lone surrogate, which is no character; remove it") from error
        if not _is_the_librarys(error):
            raise
        bad = next((text for text in texts if not _encodes(encode, text)), "")
        raise ConfigError(
            f"the tokenizer cannot encode the text {bad[:60]!r} of {len(bad):,} characters ({error}); use another "
            "--tokenizer.path, or leave the text out of the corpus"
        ) from None


def _encodes(encode: Callable[..., list[tokenizers.Encoding]], text: str) -> bool:
    try:
        encode([text], add_special_tokens=False)
    except BaseException as error:
        if not _is_the_librarys(error):
            raise
        return False
    return True


def _is_the_librarys(error: BaseException) -> bool:
    """True for errors of the library: bare Exception, or a panic, such as that of a pattern that backtracks."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _placed(text: str, encoding: tokenizers.Encoding, space: int | None) -> Placed:
    places = []
    for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        piece = "" if i == space else text[start:end]
        start += len(piece) - len(piece.lstrip())
        places.append((start, start + len(piece.strip())))
    return Placed(np.array(encoding.ids, np.int32), np.array(places, np.int32).reshape(-1, 2))


def _files(folder: Path) -> list[Path]:
    found = sorted(path for pattern in _FILES for path in folder.glob(pattern))
    if not found:
        raise ConfigError(f"tokenizer.path={folder}: no tokenizer.json, tokenizer_config.json or vocab.txt there")
    return found


def _from_vocabulary(path: Path) -> Tokenizer:
    """BERT's tokenizer with a `vocab.txt`; it lower-cases if no piece has an upper-case letter."""
    pieces = text_lines(path)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    special = _complete({role: token if token in vocabulary else "" for role, token in _BERT.items()}, path)
    lowercase = not any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    return Tokenizer(_wordpiece(vocabulary, lowercase), special)


def _wordpiece(vocabulary: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's WordPiece: clean, split at spaces, punctuation and Chinese characters, longest pieces first."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=_BERT["unk"], max_input_chars_per_word=_LONGEST_WORD)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=_PREFIX)
    if vocabulary:
        backend.add_special_tokens([token for token in _BERT.values() if token in vocabulary])
        cls, sep = _BERT["cls"], _BERT["sep"]
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


def _parts(stage: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer or decoder, with sequences flattened."""
    if not stage:
        return []
    return [part for key in ("pretokenizers", "decoders") for part in stage.get(key, [])] or [stage]


def _complete(special: dict[str, str], folder: Path) -> dict[str, str]:
    """`special`, checked: all roles need a token except mask, which some objectives do not use."""
    needed = [role for role in _BERT if role != "mask"]
    missing = [f"{role}_token" for role in needed if not special[role]]
    if missing:
        raise ConfigError(
            f"{folder}: the tokenizer has no {', '.join(missing)}; an encoder needs {', '.join(needed)}: name them in "
            "tokenizer_config.json, or use another tokenizer"
        )
    return special


def _check_vocabulary(
    backend: tokenizers.Tokenizer, special: dict[str, str], folder: Path, error: type[UserError]
) -> None:
    """
    Raises:
        UserError: a special token has no id; the error is of class `error`.
    """
    pieces = backend.get_vocab()
    if unknown := [f"{role}_token {token!r:.60}" for role, token in special.items() if token and token not in pieces]:
        raise error(
            f"{folder}: the tokenizer has no piece for its {', '.join(unknown)}; its files do not belong together: "
            "fetch or prepare the folder again"
        )


def _hash(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _read(path: Path) -> tokenizers.Tokenizer:
    text = json.dumps(read_json(path, TokenizerFile), ensure_ascii=False)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise StorageError(f"{path}: damaged ({error})") from error
