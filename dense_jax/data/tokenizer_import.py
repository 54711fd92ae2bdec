"""Tokenizers imported from folders of Hugging Face."""

import functools
from pathlib import Path
from typing import Any

import tokenizers
import xxhash

from dense_jax.data.tokenizer import Tokenizer, check_special_tokens
from dense_jax.data.wordpiece import SPECIAL_TOKENS, wordpiece
from dense_jax.errors import ConfigError, UserError
from dense_jax.hf.schemas import ModelKind, PieceIds, TokenizerFile
from dense_jax.io import Settings, check_no_pointer, digest, read_json, text_lines

_FILES = ("tokenizer*.json", "vocab*", "*.model", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_SCHEMAS: dict[str, Any] = {"tokenizer.json": TokenizerFile, "vocab.json": PieceIds, "added_tokens.json": PieceIds}


def import_folder(folder: Path) -> Tokenizer:
    """Any tokenizer folder of Hugging Face, a bare `vocab.txt` included. Code in it never runs.

    Raises:
        ConfigError: the folder has no tokenizer, or a special token that every encoder needs is missing.
        StorageError: a file is a pointer of Git LFS.
    """
    files = _tokenizer_files(folder)
    for path in files:
        check_no_pointer(path)
    if [path.name for path in files] == ["vocab.txt"] and not (folder / "config.json").exists():
        return _from_vocabulary(folder / "vocab.txt")
    for path in files:
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
    special = {role: str(getattr(theirs, f"{role}_token") or "") for role in SPECIAL_TOKENS}
    return Tokenizer.checked(backend, special, folder, ConfigError)


def has_tokenizer(folder: Path) -> bool:
    """True if `folder` has files for `import_folder`."""
    return any(next(folder.glob(pattern), None) for pattern in _FILES)


def folder_fingerprint(folder: Path) -> str:
    """A digest of the tokenizer's files in a Hugging Face folder.

    Raises:
        ConfigError: the folder has no such file.
    """
    lines = "".join(f"{path.name} {digest(path)}\n" for path in _tokenizer_files(folder))
    return xxhash.xxh3_128_hexdigest(lines.encode())


def _theirs(folder: Path) -> Any:
    """The tokenizer of transformers in `folder`, without a mask token that its vocabulary does not have."""
    from transformers import AutoTokenizer  # imported here: it takes seconds

    load = functools.partial(AutoTokenizer.from_pretrained, str(folder), trust_remote_code=False, local_files_only=True)
    theirs = load(**_model_kind(folder))
    return load(**_model_kind(folder), mask_token=None) if _is_invented(theirs.mask_token, folder) else theirs


def _is_invented(token: str | None, folder: Path) -> bool:
    """True if no file of a whole vocabulary has `token`: transformers adds its class's default to such a vocabulary."""
    is_whole = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    if not token or not is_whole:
        return False
    return not any(str(token).encode() in path.read_bytes() for path in _tokenizer_files(folder))


def _model_kind(folder: Path) -> dict[str, Any]:
    """The model's config as an argument of AutoTokenizer, with the values for tokenizers only.

    transformers would refuse some of the others, such as null for a truth value.
    """
    path = folder / "config.json"
    raw = read_json(path, ModelKind, ConfigError) if path.is_file() else {}
    if not raw.get("model_type"):
        return {}
    from transformers import AutoConfig

    return {"config": AutoConfig.for_model(raw["model_type"], tokenizer_class=raw.get("tokenizer_class"))}


def _tokenizer_files(folder: Path) -> list[Path]:
    found = sorted(path for pattern in _FILES for path in folder.glob(pattern))
    if not found:
        raise ConfigError(f"tokenizer.path={folder}: no tokenizer.json, tokenizer_config.json or vocab.txt there")
    return found


def _from_vocabulary(path: Path) -> Tokenizer:
    """BERT's tokenizer with a `vocab.txt`; it lower-cases if no piece has an upper-case letter."""
    pieces = text_lines(path)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    special = {role: token if token in vocabulary else "" for role, token in SPECIAL_TOKENS.items()}
    check_special_tokens(special, path)
    lowercase = not any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    return Tokenizer(wordpiece(vocabulary, lowercase), special)
