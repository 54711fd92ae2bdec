"""Benchmark tasks: the model, random batches of full rows, and their model FLOPs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import flops
import numpy as np

from dense_jax.arrays import Batch
from dense_jax.data.masking import masking_budget
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype
from dense_jax.models.pooling import Pooling
from dense_jax.objective import Objective
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.types import Tokens

VOCABULARY = 30_522  # BERT's
FIRST_WORD = 1_000  # smaller ids are special tokens and single characters
PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
MASK_RATE = 0.15
TEMPERATURE = 0.05  # of the inverse cloze task


@dataclass(frozen=True)
class Task:
    """A pre-training method on one model and one shape of batch."""

    objective: Objective
    batch: Callable[[np.random.Generator], Batch]
    tokens: int  # of a step, padding not counted (there is none)
    flops: float  # of a step


def model(size: str, dtype: str) -> Encoder:
    """The encoder of all benchmarks: mean pooling, vectors of length 1, no dropout."""
    config = bert(size, vocab_size=VOCABULARY, dropout=0.0, attention_dropout=0.0, dtype=Dtype(dtype))
    return Encoder(config, pooling=Pooling.MEAN, normalize=True)


def mlm(encoder: Encoder, rows: int, length: int, chunk: int = 0) -> Task:
    """Masked language modelling of 15 % of `rows` sequences of `length` tokens, without a `chunk`."""
    assert chunk == 0
    masked = masking_budget(length, MASK_RATE)

    def batch(rng: np.random.Generator) -> Batch:
        tokens = random_tokens(rng, rows, length)
        places = np.argsort(rng.random((rows, length - 2)), axis=1)[:, :masked] + 1  # not [CLS] and [SEP]
        positions = np.sort(places, axis=1).astype(np.int32)
        labels = np.take_along_axis(np.asarray(tokens.ids), positions, axis=1)
        hidden = np.array(tokens.ids)
        np.put_along_axis(hidden, positions, MASK, axis=1)
        weights = np.ones((rows, masked), np.float32)
        return {"tokens": tokens._replace(ids=hidden), "positions": positions, "labels": labels, "weights": weights}

    step = flops.mlm_step(encoder.bert, rows, length, rows * masked)
    return Task(
        MLM(encoder, passage_length=length, query_length=length, mask_rate=MASK_RATE), batch, rows * length, step
    )


def ict(encoder: Encoder, rows: int, length: int, chunk: int = 0) -> Task:
    """The inverse cloze task on `rows` passages of `length` tokens and queries of a quarter of it.

    With a `chunk`, so many passages are scored at a time.
    """
    query = length // 4

    def batch(rng: np.random.Generator) -> Batch:
        sides = {"query": random_tokens(rng, rows, query), "passage": random_tokens(rng, rows, length)}
        return sides | {"removed": np.ones(rows, bool)}

    objective = ICT(encoder, query_length=query, passage_length=length, temperature=TEMPERATURE, score_chunk=chunk)
    step = flops.dual_encoder_step(encoder.bert, rows, query, length, encoder.width)
    return Task(objective, batch, rows * (query + length), step)


def random_tokens(rng: np.random.Generator, rows: int, length: int) -> Tokens:
    """Full rows [CLS] words [SEP] in one segment."""
    ids = rng.integers(FIRST_WORD, VOCABULARY, size=(rows, length), dtype=np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return Tokens(ids, np.zeros_like(ids), np.ones_like(ids, bool))


def text(tokens: Tokens) -> str:
    """Words that the tokenizer of `write_tokenizer` turns into the ids of one row.

    >>> text(Tokens(np.array([CLS, 1234, 29000, SEP]), np.zeros(4, np.int32), np.ones(4, bool)))
    'w1234 w29000'
    """
    return " ".join(f"w{i}" for i in tokens.ids[1:-1])


def write_tokenizer(folder: Path, length: int) -> Tokenizer:
    """A WordPiece tokenizer of BERT's size in which every word is one piece, saved in `folder` to cut at `length`."""
    special = {PAD: "[PAD]", UNK: "[UNK]", CLS: "[CLS]", SEP: "[SEP]", MASK: "[MASK]"}
    words = [special.get(i, f"w{i}") for i in range(VOCABULARY)]
    with tempfile.TemporaryDirectory() as plain:
        (Path(plain) / "vocab.txt").write_text("\n".join(words))
        tokenizer = import_folder(Path(plain))
    tokenizer.save(folder, max_length=length)
    return tokenizer


TASKS: dict[str, Callable[[Encoder, int, int, int], Task]] = {"mlm": mlm, "ict": ict}
