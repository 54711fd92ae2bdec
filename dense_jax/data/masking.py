"""Random tasks made from a passage, for the pre-training methods: pure functions of a generator."""

import enum

import numpy as np

from dense_jax.arrays import Bool, Example, Int
from dense_jax.data.inputs import NO_PROMPT, build_inputs
from dense_jax.errors import ConfigError
from dense_jax.types import Layout, Passage, Tokens, Vocabulary

_DECODER_SAMPLES = 256  # of one sequence, as in RetroMAE's released code


class Noise(enum.Enum):
    """The change of a sampled token."""

    NONE = "none"
    DELETE = "delete"
    REPLACE = "replace"  # by any token that is not special
    MASK = "mask"
    SHUFFLE = "shuffle"  # the sampled tokens are permuted


def crop(
    tokens: Int[np.ndarray, " l"], shortest: float, longest: float, rng: np.random.Generator
) -> Int[np.ndarray, " c"]:
    """A random run of floor(u l) tokens, at least one, with u uniform in [shortest, longest) and a uniform start.

    Contriever (Izacard et al. 2022), section 3.1; the released code.
    """
    length = max(1, int(len(tokens) * rng.uniform(shortest, longest)))
    start = int(rng.integers(len(tokens) - length + 1))
    return tokens[start : start + length]


def corrupt(
    tokens: Int[np.ndarray, " l"], noise: Noise, rate: float, vocabulary: Vocabulary, rng: np.random.Generator
) -> Int[np.ndarray, " _"]:
    """`tokens`, each changed by `noise` with probability `rate`. At least one token is left: the first."""
    if noise is Noise.NONE:
        return tokens
    drawn = rng.random(len(tokens)) < rate
    if noise is Noise.DELETE:
        return tokens[~drawn] if not drawn.all() else tokens[:1]
    changed = tokens.copy()
    if noise is Noise.MASK:
        changed[drawn] = mask_id(vocabulary)
    elif noise is Noise.SHUFFLE:
        changed[drawn] = rng.permutation(tokens[drawn])
    else:
        others = rng.integers(vocabulary.size, size=len(tokens))
        drawn &= ~vocabulary.special[others]
        changed[drawn] = others[drawn]
    return changed


def mask_id(vocabulary: Vocabulary) -> int:
    """Return the id of the mask token.

    Raises:
        ConfigError: the tokenizer has no mask token.
    """
    if vocabulary.mask is None:
        raise ConfigError(
            "the tokenizer has no mask token, and this objective masks tokens; train a method that does not, such as "
            "configs/ict.py or configs/contriever.py, or take a tokenizer that has one, --tokenizer.path=FOLDER"
        )
    return vocabulary.mask


def masked_passage(
    title: Int[np.ndarray, " t"],
    body: Int[np.ndarray, " l"],
    length: int,
    layout: Layout,
    vocabulary: Vocabulary,
    rate: float,
    rng: np.random.Generator,
    *,
    prompt: Int[np.ndarray, " n"] = NO_PROMPT,
) -> Example:
    """A passage as a sequence with whole words masked, none of them in the prompt: tokens, positions, labels, weights.

    If the body is too long, a random window of it is taken. Condenser (Gao and Callan 2021), section 3; the released
    code.
    """
    room = length - len(prompt) - (3 if layout is Layout.PAIR else 2) - (0 if layout is Layout.BODY else len(title))
    spare = len(body) - room
    start = int(rng.integers(spare + 1)) if spare > 0 else 0
    tokens = build_inputs(title, body[start:], length, layout, vocabulary, prompt=prompt)
    budget = masking_budget(content(tokens, vocabulary) - len(prompt), rate)
    return apply_mlm_mask(tokens, budget, masking_budget(length, rate), vocabulary, rng, prompt=len(prompt))


def apply_mlm_mask(
    tokens: Tokens, budget: int, slots: int, vocabulary: Vocabulary, rng: np.random.Generator, *, prompt: int = 0
) -> Example:
    """`tokens` with up to `budget` tokens of whole words masked; positions of weight 0 fill up to `slots`.

    Each sampled token becomes [MASK] with probability 0.8, a random id with 0.1, and stays itself with 0.1; all are
    predicted. Special tokens are never sampled, nor are the first `prompt` tokens after [CLS].
    """
    ids = np.asarray(tokens.ids)
    positions = 1 + prompt + np.sort(sample_words(ids[1 + prompt :], budget, vocabulary, rng))
    draw = rng.random(len(positions))
    noise = rng.integers(vocabulary.size, size=len(positions))
    hidden = ids.copy()
    hidden[positions] = np.where(draw < 0.8, mask_id(vocabulary), np.where(draw < 0.9, noise, ids[positions]))
    return {
        "tokens": tokens._replace(ids=hidden),
        "positions": _zeros_after(positions, slots),
        "labels": _zeros_after(ids[positions].astype(np.int32), slots),
        "weights": _zeros_after(np.ones(len(positions), np.float32), slots),
    }


def mask_span(
    passage: Passage,
    length: int,
    slots: int,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    prompt: Int[np.ndarray, " n"] = NO_PROMPT,
) -> Example | None:
    """The sentence around one salient span of `passage`, drawn uniformly, with all tokens of the span masked.

    The first `slots` of them are labels. Positions are those in the sentence without `prompt`, after [CLS]. None
    without a span, or if the sampled one does not fit into `length` tokens.
    REALM (Guu et al. 2020), section 3.4; the released code.
    """
    if not len(passage.spans):
        return None
    first, end = passage.spans[rng.integers(len(passage.spans))].tolist()
    chosen = passage.sentence(int(np.searchsorted(passage.sentences, first, side="right")) - 1)
    start, end = first - chosen.start, end - chosen.start  # in the sentence
    if end > length - 2 - len(prompt):
        return None
    sentence = passage.tokens[chosen]
    hidden = sentence.copy()
    hidden[start:end] = mask_id(vocabulary)
    labels = sentence[start:end][:slots].astype(np.int32)
    return {
        "query": build_inputs(passage.title[:0], hidden, length, Layout.BODY, vocabulary, prompt=prompt),
        "positions": _zeros_after(np.arange(len(labels), dtype=np.int32) + start + 1, slots),  # after [CLS]
        "labels": _zeros_after(labels, slots),
        "weights": _zeros_after(np.ones(len(labels), np.float32), slots),
    }


def sample_words(
    ids: Int[np.ndarray, " l"], budget: int, vocabulary: Vocabulary, rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Positions of whole words, sampled until they have `budget` tokens."""
    groups = word_groups(ids, vocabulary)
    chosen = select_words([groups[i] for i in rng.permutation(len(groups))], budget)
    return np.fromiter(chosen, np.int32, len(chosen))


def decoder_view(
    tokens: Tokens, rate: float, vocabulary: Vocabulary, rng: np.random.Generator
) -> Bool[np.ndarray, "l l"]:
    """Attention mask of RetroMAE's decoder: position i (row) sees position j (column) where it is True.

    Row i hides itself and one of up to 256 samples of whole words, which have a share `rate` of all tokens, special
    ones counted. Special tokens are visible to all others; padding is hidden. RetroMAE (Xiao et al. 2022), section 3.2;
    the released code.
    """
    ids, real = np.asarray(tokens.ids), np.asarray(tokens.mask)
    length = int(real.sum())
    groups = word_groups(ids, vocabulary)
    samples = min(length, _DECODER_SAMPLES)
    order = np.argsort(rng.random((samples, len(groups))), axis=1)
    chosen = select_words_often(order, [len(group) for group in groups], masking_budget(length, rate))
    word_of = np.full(len(ids), len(groups))  # the last column: outside of words
    for word, group in enumerate(groups):
        word_of[group] = word
    hidden = np.pad(chosen, ((0, 0), (0, 1)))[rng.integers(samples, size=len(ids))][:, word_of]
    return real[None] & ~hidden & ~np.eye(len(ids), dtype=bool)


def select_words_often(order: Int[np.ndarray, "s w"], sizes: list[int], budget: int) -> Bool[np.ndarray, "s w"]:
    """`select_words` for many orders of the same words at once: True for each selected word.

    >>> select_words_often(np.array([[0, 1, 2], [2, 1, 0]]), [2, 1, 1], budget=2)
    array([[ True, False, False],
           [False,  True,  True]])
    """
    lengths, rows = np.asarray(sizes, np.int64), np.arange(len(order))
    chosen, left = np.zeros(order.shape, bool), np.full(len(order), budget)
    for word in order.T:
        fits = lengths[word] <= left
        chosen[rows, word] = fits
        left -= lengths[word] * fits
    return chosen


def content(tokens: Tokens, vocabulary: Vocabulary) -> int:
    """The number of tokens that are text: not [CLS], [SEP] or padding."""
    ids = np.asarray(tokens.ids)
    return int(np.count_nonzero(tokens.mask & (ids != vocabulary.cls) & (ids != vocabulary.sep)))


def masking_budget(tokens: int, rate: float) -> int:
    """The number of `tokens` to mask at most: at least 1, halves rounded to even.

    >>> masking_budget(10, 0.15), masking_budget(30, 0.15), masking_budget(2, 0.15)
    (2, 4, 1)
    """
    return max(1, round(tokens * rate))


def word_groups(ids: Int[np.ndarray, " l"], vocabulary: Vocabulary) -> list[list[int]]:
    """Positions of each word's pieces. Special tokens belong to no word, and do not separate the pieces around them."""
    groups: list[list[int]] = []
    for position in np.flatnonzero(~vocabulary.special[ids]):
        if groups and vocabulary.continues[ids[position]]:
            groups[-1].append(int(position))
        else:
            groups.append([int(position)])
    return groups


def select_words(groups: list[list[int]], budget: int) -> list[int]:
    """Positions of the words selected in the given order; a word that would exceed the budget is skipped.

    >>> select_words([[1, 2], [0], [3]], budget=1)
    [0]
    """
    chosen: list[int] = []
    for group in groups:
        if len(chosen) == budget:
            break
        if len(chosen) + len(group) <= budget:
            chosen.extend(group)
    return chosen


def _zeros_after(values: np.ndarray, slots: int) -> np.ndarray:
    """`values`, then zeros; np.pad takes ten times as long."""
    result = np.zeros(slots, values.dtype)
    result[: len(values)] = values
    return result
