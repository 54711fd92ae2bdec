"""Layout of a title, a body and a prompt as one sequence for an encoder: pure functions of ids."""

from collections.abc import Sequence

import numpy as np

from dense_jax.arrays import Int
from dense_jax.types import Layout, Tokens, Vocabulary

NO_PROMPT: Int[np.ndarray, " n"] = np.empty(0, np.int32)


def build_inputs(
    title: Int[np.ndarray, " t"],
    body: Int[np.ndarray, " l"],
    length: int,
    layout: Layout,
    vocabulary: Vocabulary,
    *,
    prompt: Int[np.ndarray, " n"] = NO_PROMPT,
) -> Tokens:
    """A passage as one padded sequence of `length` tokens (ids and segments int32, mask bool).

    `prompt` stands before the title, or before the body where the layout leaves the title out. The end is cut: the
    title keeps the room that the special tokens leave, the body the rest.
    ORQA section 2.1: in `PAIR` segment 0 goes through the first [SEP]; padding has segment 0.

    >>> vocabulary = Vocabulary(9, 0, 1, 2, 3, 4, special=np.arange(9) < 5, continues=np.zeros(9, bool))
    >>> title, body, prompt = np.array([5]), np.array([6, 6]), np.array([8])
    >>> for layout in Layout:
    ...     print(layout.value, build_inputs(title, body, 8, layout, vocabulary, prompt=prompt).ids.tolist())
    joined [2, 8, 5, 6, 6, 3, 0, 0]
    pair [2, 8, 5, 3, 6, 6, 3, 0]
    body [2, 8, 6, 6, 3, 0, 0, 0]
    """
    cls, sep = [vocabulary.cls], [vocabulary.sep]
    if len(prompt):
        title, body = (
            (title, np.concatenate([prompt, body]))
            if layout is Layout.BODY
            else (np.concatenate([prompt, title]), body)
        )
    if layout is Layout.PAIR:
        first = np.concatenate([cls, title[: length - 3], sep])
        second = np.concatenate([body[: length - 1 - len(first)], sep])
    else:
        whole = body if layout is Layout.BODY else np.concatenate([title, body])
        first, second = np.concatenate([cls, whole[: length - 2], sep]), np.empty(0, np.int32)
    used = len(first) + len(second)
    ids = np.full(length, vocabulary.pad, np.int32)
    types = np.zeros(length, np.int32)
    ids[: len(first)] = first
    ids[len(first) : used] = second
    types[len(first) : used] = 1
    return Tokens(ids, types, np.arange(length) < used)


def stack_tokens(rows: Sequence[Tokens]) -> Tokens:
    """n sequences of length l as one [n l], on the host."""
    return Tokens(*map(np.stack, zip(*rows, strict=True)))


def flatten_tokens(tokens: Tokens) -> Tokens:
    """The sequences of all examples, [b n l] -> [b n, l]."""
    return Tokens(*(x.reshape(-1, x.shape[-1]) for x in tokens))
