"""What a run will take, said before it starts."""

from dataclasses import replace

import numpy as np
import pytest

from dense_jax.config import Config, LoaderConfig, MeshConfig
from dense_jax.data.pipeline import Examples
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.ict import ICT
from dense_jax.terminal import show
from dense_jax.train.loop import make_program
from tests.toys import VOCABULARY, BagOfTokens, MemoryStore

BERT = BertConfig(layers=1, width=16, heads=2, feed_forward=16, vocab_size=50, positions=8)
METHOD = ICT(Encoder(BERT), query_length=4, passage_length=8)
SCORES, ENCODED = "scores and other terms of the loss", "encodings of the batch"


class Sentences(MemoryStore):
    """Passages of two sentences."""

    def __getitem__(self, row):
        passage = super().__getitem__(row)
        return replace(passage, sentences=np.array([0, 1]))


def prepared(method=METHOD, **settings):
    config = Config(method, steps=10, batch=256, **settings)
    examples = Examples(Sentences(), method, VOCABULARY, LoaderConfig(), 0, length=10, batch=config.batch)
    return make_program(config), examples


def activations(**settings):
    return show.activations(*prepared(**settings))


@pytest.mark.slow
def test_in_chunks_the_activations_shrink_in_proportion():
    whole = activations()["activations of 256 examples"]
    parts = [activations(chunk=n)[f"activations of {n} examples"] for n in (64, 16)]
    # what is kept but once, such as casts of parameters, does not shrink
    assert parts == pytest.approx([whole / 4, whole / 16], rel=0.01)


@pytest.mark.slow
def test_in_chunks_what_all_examples_are_encoded_to_is_kept_besides():
    assert ENCODED not in activations()
    assert activations(chunk=64)[ENCODED] == 2 * 256 * 16 * 4  # vectors of width 16 in float32, of both sides


@pytest.mark.slow
def test_the_scores_of_the_batch_are_kept_unless_they_are_computed_in_chunks():
    scores = 256 * 256 * 4  # bytes
    assert scores <= activations()[SCORES] < 1.1 * scores
    assert activations(method=replace(METHOD, score_chunk=64))[SCORES] < 0.1 * scores


def test_the_plan_says_how_often_the_passages_of_each_source_are_visited():
    store, loader = MemoryStore(sources=(30, 0, 10)), LoaderConfig(sampling_power=0.0)
    examples = Examples(store, BagOfTokens(), VOCABULARY, loader, 0, length=600, batch=20)
    said = show.plan(examples, Config(BagOfTokens(), steps=30, batch=20)).splitlines()
    assert said[2:] == [
        "40 passages, each visited 15.0 times",
        "source0: 30 passages in 50.0% of the examples, each visited 10.0 times",
        "source1: 0 passages in 0.0% of the examples, each visited 0.0 times",
        "source2: 10 passages in 50.0% of the examples, each visited 30.0 times",
    ]


def test_the_plan_of_one_source_speaks_of_all_passages_alone():
    examples = Examples(MemoryStore(), BagOfTokens(), VOCABULARY, LoaderConfig(), 0, length=600, batch=20)
    assert len(show.plan(examples, Config(BagOfTokens(), steps=30, batch=20)).splitlines()) == 3


def test_the_compute_type_is_shown_with_its_setting():
    assert show.compute_types(prepared()[1]) == "float32 (dtype=auto on cpu)"


@pytest.mark.slow
def test_the_memory_is_that_of_one_device_of_all():
    program, examples = prepared(chunk=64)
    said = show.memory(program, examples)
    share = activations(chunk=64)["activations of 64 examples"] / 8 / 2**20
    assert "on each of 8 devices {'dcn': 1, 'data': 4, 'update': 2, 'fsdp': 1, 'tensor': 1}" in said
    assert f"activations of 64 examples {share:>32,.1f} MiB" in said


def test_of_what_is_split_over_fsdp_and_tensor_a_device_counts_its_own():
    program, _ = prepared(mesh=MeshConfig(2, 2, tensor=2))
    quarters = 50 * 16 + (4 + 2) * 16 * 16  # words and kernels
    halves = (2 + 8) * 16 + (3 + 1) * 16  # types and positions; biases of query, key, value and up
    whole = 2 * 16 + 3 * 2 * 16  # other biases, layer normalisation
    assert show.local_bytes(program.like.params) == 4 * (quarters // 4 + halves // 2 + whole)
