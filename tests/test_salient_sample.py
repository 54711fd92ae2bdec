"""How good the sources of salient spans are, on a sample that a person marked."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dense_jax.config import SpansConfig
from dense_jax.data.salient.chosen import make_tagger
from dense_jax.types import Document

SAMPLE = Path(__file__).parent / "salient_sample.txt"  # documents: a title, then a sentence a line, [[spans]] marked


def marked(lines):
    """Text and spans."""
    text, spans = "", set()
    for i, part in enumerate(re.split(r"\[\[(.*?)\]\]", " ".join(lines))):
        spans |= {(len(text), len(text) + len(part))} if i % 2 else set()
        text += part
    return text, spans


@pytest.fixture(scope="module")
def sample():
    """Documents, and the spans of each."""
    blocks = [block.split("\n") for block in SAMPLE.read_text(encoding="utf-8").strip().split("\n\n")]
    found = [(title.removeprefix("# "), *marked(lines)) for title, *lines in blocks]
    return [(Document(title, title, text), spans) for title, text, spans in found]


def test_the_sample_has_as_many_sentences_and_spans_as_is_said_of_it(sample):
    assert sum(not line.startswith("#") for line in SAMPLE.read_text().splitlines() if line) == 28
    assert sum(len(spans) for _, spans in sample) == 77


@pytest.mark.parametrize(
    ("sources", "precision", "recall"),
    [
        (("patterns",), 0.96, 0.32),
        (("capitals",), 0.82, 0.55),
        (("titles",), 1.00, 0.10),
        (("patterns", "capitals", "titles"), 0.94, 0.88),
    ],
)
def test_precision_and_recall_are_those_of_the_documentation(sample, sources, precision, recall):
    """Whoever changes a tagger says in `data/salient/taggers.py` what it is worth now."""
    tagger = make_tagger(replace(SpansConfig(), **dict.fromkeys(sources, True)), [document for document, _ in sample])
    found = [(set(tagger(document)), spans) for document, spans in sample]
    right = sum(len(ours & theirs) for ours, theirs in found)
    assert right / sum(len(ours) for ours, _ in found) == pytest.approx(precision, abs=0.005)
    assert right / sum(len(theirs) for _, theirs in found) == pytest.approx(recall, abs=0.005)
