"""Texts of a few dozen words, the configs that prepare them, and what to look at afterwards."""

import contextlib
import itertools
import json

import numpy as np
import pytest

from dense_jax.config import Config, CorpusConfig, PassagesConfig, TokenizerConfig
from tests.toys import BagOfTokens

WORDS = ["light", "house", "keeper", "sea", "storm", "lamp", "oil", "night"]
WORDS += ["ship", "rock", "wave", "tide", "fog", "bell", "stair", "tower"]


class KilledError(Exception):
    """In the place of a kill -9."""


@contextlib.contextmanager
def killed_at(module, function, count):
    """The block, killed once the generator `function` of `module` has yielded `count` times, in all calls together."""
    called, yielded = getattr(module, function), itertools.count()

    def killed(*arguments, **settings):
        for value in called(*arguments, **settings):
            if next(yielded) == count:
                raise KilledError
            yield value

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(module, function, killed)
        yield


def sentence(seed):
    """Nine tokens: eight words and a full stop."""
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, 8)).capitalize() + "."


def rows(count):
    """Documents of three to six sentences."""
    return [
        {"_id": f"d{i}", "title": f"Title {i}", "text": " ".join(sentence(10 * i + j) for j in range(3 + i % 4))}
        for i in range(count)
    ]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(source, held_out=0, max_rejects=0.0, tokenizer="", vocab_size=80, **passages):
    return Config(
        objective=BagOfTokens(),
        steps=1,
        batch=1,
        corpus=CorpusConfig(source=str(source), held_out=held_out, max_rejects=max_rejects),
        tokenizer=TokenizerConfig(path=str(tokenizer), vocab_size=vocab_size),
        passages=PassagesConfig(**{"length": 32, "shard_size": 20} | passages),
    )


def contents(folder):
    """Every file of a workdir, as bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
