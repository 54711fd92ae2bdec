"""How a passage becomes a task: the pure draws of the pre-training methods. Each takes the generator it draws from."""

from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Bool, Float, Int
from dense_jax.contracts import Passage, Vocabulary

_MOST_MASKED = 512  # tokens of one sequence, as BERT's own data code has it


class Cloze(NamedTuple):
    """A sentence and the passage it stands in."""

    query: Int[np.ndarray, " q"]
    body: Int[np.ndarray, " l"]
    removed: bool  # the sentence was taken out of the body


def cloze(passage: Passage, removal_rate: float, rng: np.random.Generator) -> Cloze | None:
    """One sentence of `passage`, uniformly drawn, as a query for the rest.

    The sentence is removed from the body with probability `removal_rate`; else the body stays whole, so that the
    encoder also learns to match words. None if a removal was drawn and nothing would be left.
    ORQA (Lee et al. 2019), section 4.
    """
    chosen = passage.sentence(int(rng.integers(len(passage.sentences))))
    removed = bool(rng.random() < removal_rate)
    if removed and len(passage.sentences) == 1:
        return None
    query = passage.tokens[chosen]
    body = np.delete(passage.tokens, chosen) if removed else passage.tokens
    return Cloze(query, body, removed)


class Masked(NamedTuple):
    """A sequence with some tokens hidden, and what they were; `positions` of weight 0 fill up to a fixed number."""

    ids: Int[np.ndarray, " l"]
    positions: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]


def whole_word_mask(
    ids: Int[np.ndarray, " l"], vocabulary: Vocabulary, rate: float, most: int, rng: np.random.Generator
) -> Masked:
    """`ids` with whole words hidden up to the budget of `rate`, in `most` slots.

    Each chosen token becomes [MASK] with probability 0.8, a random id with 0.1, and stays itself with 0.1; all are
    predicted. Special tokens are never chosen. Condenser (Gao and Callan 2021), section 3.
    """
    groups = word_groups(ids, vocabulary)
    content = int(np.count_nonzero(~_structural(ids, vocabulary)))
    chosen = select_words([groups[i] for i in rng.permutation(len(groups))], masking_budget(content, rate))
    positions = np.sort(np.fromiter(chosen, np.int32, len(chosen)))
    draw = rng.random(len(positions))
    noise = rng.integers(vocabulary.size, size=len(positions))
    hidden = ids.copy()
    hidden[positions] = np.where(draw < 0.8, vocabulary.mask, np.where(draw < 0.9, noise, ids[positions]))
    spare = most - len(positions)
    return Masked(
        ids=hidden,
        positions=np.pad(positions, (0, spare)),
        labels=np.pad(ids[positions].astype(np.int32), (0, spare)),
        weights=np.pad(np.ones(len(positions), np.float32), (0, spare)),
    )


def masking_budget(tokens: int, rate: float) -> int:
    """How many of `tokens` (special ones not counted) may be hidden: at least 1, halves rounded to even.

    >>> masking_budget(10, 0.15), masking_budget(30, 0.15), masking_budget(2, 0.15)
    (2, 4, 1)
    """
    return min(_MOST_MASKED, max(1, round(tokens * rate)))


def word_groups(ids: Int[np.ndarray, " l"], vocabulary: Vocabulary) -> list[list[int]]:
    """Positions of each word's pieces. Special tokens belong to no word, and do not part the pieces around them."""
    groups: list[list[int]] = []
    for position in np.flatnonzero(~vocabulary.special[ids]):
        if groups and vocabulary.continues[ids[position]]:
            groups[-1].append(int(position))
        else:
            groups.append([int(position)])
    return groups


def select_words(groups: list[list[int]], budget: int) -> list[int]:
    """Positions of the words taken in the order given; a word that would exceed the budget is passed over.

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


def _structural(ids: Int[np.ndarray, " l"], vocabulary: Vocabulary) -> Bool[np.ndarray, " l"]:
    return np.isin(ids, (vocabulary.pad, vocabulary.cls, vocabulary.sep))
