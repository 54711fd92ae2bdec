"""REALM learns to retrieve: on a corpus where each fact stands in two passages, it finds the other one.

A fact is a name of two letters and a value. Both of its passages have two sentences; the first of them tells the value,
which is what is masked, and no other passage tells it.
"""

import numpy as np
import pytest

from dense_jax.augmented.versions import Library
from dense_jax.config import Config, EmbedConfig, LoaderConfig, NeighboursConfig, OptimizerConfig, Order, SpansConfig
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.realm import Realm
from dense_jax.types import Passage, Vocabulary
from tests.programs import train_workdir
from tests.toys import MemoryStore, ToyTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FACTS, LETTERS, VALUES, WORDS = 400, 30, 6, 20
FIRST_LETTER = 5
FIRST_VALUE = FIRST_LETTER + LETTERS
FIRST_WORD = FIRST_VALUE + VALUES
SIZE = FIRST_WORD + WORDS
FLAGS = np.zeros(SIZE, bool)
VOCABULARY = Vocabulary(SIZE, pad=0, unk=1, cls=2, sep=3, mask=4, special=np.arange(SIZE) < 5, continues=FLAGS)
BERT = BertConfig(
    vocab_size=SIZE, layers=1, width=32, heads=2, feed_forward=64, positions=32, initializer=0.1, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip
ENCODER = Encoder(BERT, pooling=Pooling.MEAN, normalize=True)
LOADER = LoaderConfig(order=Order.SHUFFLE)


class Tokenizer(ToyTokenizer):
    vocabulary = VOCABULARY


class Twins(MemoryStore):
    """Passages 2 i and 2 i + 1 tell fact i."""

    def __init__(self):
        super().__init__(2 * FACTS)
        rng = np.random.default_rng(0)
        names = np.stack(np.divmod(rng.permutation(LETTERS**2)[:FACTS], LETTERS), axis=1) + FIRST_LETTER
        values = rng.integers(FIRST_VALUE, FIRST_WORD, FACTS)
        words = rng.integers(FIRST_WORD, SIZE, (2 * FACTS, 5))
        self.tokens = [
            np.array([w[0], *names[row // 2], values[row // 2], w[1], w[2], *names[row // 2], w[3], w[4]], np.uint16)
            for row, w in enumerate(words)
        ]

    def __getitem__(self, row):
        tokens = self.tokens[row].astype(np.int32)
        return Passage(row, tokens[:0], tokens, np.array([0, 5], np.int32), np.array([[3, 4]], np.int32))


class Watched(Realm):
    """Notes how often the twin is the first of a batch's candidates."""

    def __post_init__(self):
        super().__post_init__()
        self.shares: list[float] = []

    def join(self, examples, found, passages, vocabulary):
        others = [rows[rows != source] for rows, source in zip(found.rows, examples.rows, strict=True)]
        twins = [rows[0] == source ^ 1 for rows, source in zip(others, examples.rows, strict=True)]
        self.shares.append(float(np.mean(twins)))
        return super().join(examples, found, passages, vocabulary)


@pytest.fixture(scope="module")
def ict(tmp_path_factory):
    """Towers that find the twin more often than not."""
    workdir = tmp_path_factory.mktemp("ict")
    objective = ICT(encoder=ENCODER, query_length=12, passage_length=16, removal_rate=1.0, temperature=0.1)
    config = Config(objective, 150, 64, seed=3, loader=LOADER, optimizer=OptimizerConfig(3e-3, warmup_share=0.1))
    train_workdir(config, Twins(), VOCABULARY, workdir)
    return workdir


def twins_found(workdir, ict, every: int) -> tuple[float, float]:
    """Share of batches' queries whose twin ranks first, over the first and the last 25 steps."""
    config = Config(
        Watched(encoder=ENCODER, query_length=12, passage_length=16, candidates=8, most_masked=1, temperature=0.05),
        steps=200,
        batch=32,
        seed=3,
        init_from=str(ict),
        loader=LOADER,
        spans=SpansConfig(capitals=True),
        optimizer=OptimizerConfig(1e-3, warmup_share=0.3),
        embed=EmbedConfig(batch=256),
        neighbours=NeighboursConfig(every=every),
    )
    store = Twins()
    train_workdir(config, store, VOCABULARY, workdir, library=Library(store, Tokenizer(), "twins"))
    shares = config.objective.shares  # pyright: ignore[reportAttributeAccessIssue]
    return float(np.mean(shares[:25])), float(np.mean(shares[-25:]))


def test_the_twin_is_found_more_often_after_training_and_less_so_with_a_stale_index(tmp_path, ict):
    (tmp_path / "fresh").mkdir()
    (tmp_path / "stale").mkdir()
    before, after = twins_found(tmp_path / "fresh", ict, every=25)
    assert after > 0.95 > before + 0.05  # from 0.7 to 1.0, when this was written
    same, stale = twins_found(tmp_path / "stale", ict, every=750)  # thirty times as long as the fresh one
    assert same == before
    assert stale < after - 0.05
