"""Texts -> tokens by the files of an exported folder alone: what its users' libraries will do."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from dense_jax.arrays import np
from dense_jax.io import read_json
from dense_jax.types import Tokens


def read_tokens(folder: Path, inputs: Sequence[str | tuple[str, str]], length: int) -> Tokens:
    """`inputs`, texts or pairs of them, as `length` tokens each, special ones included."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(length)
    backend.enable_padding(length=length, pad_id=read_json(folder / "config.json")["pad_token_id"])
    found = backend.encode_batch(list(inputs))
    ids, types = (np.array([getattr(x, name) for x in found], np.int32) for name in ("ids", "type_ids"))
    return Tokens(ids, types, np.array([x.attention_mask for x in found]) == 1)
