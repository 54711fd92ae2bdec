"""Export of several vectors a passage: sentence-transformers' own MultiVectorEncoder gives our vectors and scores."""

import dataclasses

import numpy as np
import pytest

from dense_jax.errors import ConfigError
from dense_jax.hf.export import export
from dense_jax.models.distilbert import DistilBertConfig
from dense_jax.models.encoder import MultiViewEncoder
from dense_jax.models.modernbert import ModernBertConfig
from dense_jax.types import Layout, Similarity, Tower, Towers
from tests.test_export import CARD, CLOSE, PASSAGES, TITLES, bert, ours, params_of, tokenizer, tokenizer_folder

__all__ = ["bert", "tokenizer", "tokenizer_folder"]  # fixtures
VIEWS = 3
QUERIES = ["who wrote the first program?", ""]


def towers_of(bert, layout: Layout, *, normalize: bool = False, views: int = VIEWS) -> Towers:
    encoder = MultiViewEncoder(bert, views=views, normalize=normalize)
    one = dataclasses.replace(encoder, views=1)
    return Towers(
        Tower(one, params_of(one, 1), 12, prompt="query: "),
        Tower(encoder, params_of(encoder, 2), 32, layout, "passage: "),
        Similarity.COSINE if normalize else Similarity.DOT,
    )


@pytest.fixture(scope="module")
def load():
    judge = pytest.importorskip("sentence_transformers", reason="the judge of exports")
    return lambda folder: judge.MultiVectorEncoder(str(folder), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "normalize", "views"),
    [(Layout.PAIR, False, VIEWS), (Layout.JOINED, True, VIEWS), (Layout.BODY, False, 1)],
)
def test_t30_a_multi_vector_encoder_gives_our_vectors_and_scores(
    bert, tokenizer, tokenizer_folder, tmp_path, load, layout, normalize, views
):
    towers = towers_of(bert, layout, normalize=normalize, views=views)
    report = export(towers, tokenizer_folder, tmp_path / "model", CARD)
    assert report.difference < 1e-5
    model = load(tmp_path / "model")
    titles = [f"passage: {title}" for title in TITLES]
    inputs = {
        Layout.PAIR: list(zip(titles, PASSAGES, strict=True)),
        Layout.JOINED: [f"{title} {text}" for title, text in zip(TITLES, PASSAGES, strict=True)],
        Layout.BODY: PASSAGES,
    }[layout]
    texts = [f"passage: {text}" for text in PASSAGES] if layout is Layout.BODY else PASSAGES
    expected = np.asarray(ours(towers.passage, tokenizer, titles, texts)).reshape(len(PASSAGES), views, -1)
    passages = model.encode_document(inputs)
    np.testing.assert_allclose(np.stack(passages), expected, **CLOSE)
    queries = model.encode_query(QUERIES)
    questions = ours(towers.query, tokenizer, ["", ""], [f"query: {query}" for query in QUERIES])
    np.testing.assert_allclose(np.concatenate(queries), questions, **CLOSE)
    best = np.einsum("qd,pnd->qpn", np.asarray(questions), expected).max(2)
    np.testing.assert_allclose(model.similarity(queries, passages), best, atol=1e-4)  # sums of 16 products up to 10


@pytest.mark.slow
def test_a_distilbert_gives_our_vectors(tokenizer, tokenizer_folder, tmp_path, load):
    bert = DistilBertConfig(layers=1, width=16, heads=2, feed_forward=24, vocab_size=tokenizer.size, positions=40)
    towers = towers_of(bert, Layout.JOINED)
    assert export(towers, tokenizer_folder, tmp_path / "model", CARD).difference < 1e-5
    titles = [f"passage: {title}" for title in TITLES]
    expected = np.asarray(ours(towers.passage, tokenizer, titles, PASSAGES)).reshape(len(PASSAGES), VIEWS, -1)
    inputs = [f"{title} {text}" for title, text in zip(TITLES, PASSAGES, strict=True)]
    np.testing.assert_allclose(np.stack(load(tmp_path / "model").encode_document(inputs)), expected, **CLOSE)


def test_a_family_without_a_table_of_positions_is_refused(tokenizer, tokenizer_folder, tmp_path):
    bert = ModernBertConfig(layers=1, width=16, heads=2, feed_forward=24, vocab_size=tokenizer.size)
    with pytest.raises(ConfigError, match="ModernBertConfig with views cannot be exported: view tokens share"):
        export(towers_of(bert, Layout.JOINED), tokenizer_folder, tmp_path / "model", CARD)


@pytest.mark.slow
def test_a_text_that_spells_a_viewer_has_no_vector_more(bert, tokenizer, tokenizer_folder, tmp_path, load):
    export(towers_of(bert, Layout.BODY), tokenizer_folder, tmp_path / "model", CARD)
    model = load(tmp_path / "model")
    assert model.encode_document(["what [VIE2] [VIEQ] who"])[0].shape == (VIEWS, 16)
    assert model.encode_query(["what [VIEQ] who"])[0].shape == (1, 16)


@pytest.mark.slow
def test_shared_encoders_read_queries_by_the_first_viewer(bert, tokenizer, tokenizer_folder, tmp_path, load):
    passage = towers_of(bert, Layout.BODY).passage
    query = dataclasses.replace(passage, encoder=dataclasses.replace(passage.encoder, views=1), length=12, prompt="")
    export(Towers(query, passage), tokenizer_folder, tmp_path / "model", CARD)
    found = np.concatenate(load(tmp_path / "model").encode_query(QUERIES))
    np.testing.assert_allclose(found, ours(query, tokenizer, ["", ""], QUERIES), **CLOSE)


@pytest.mark.slow
def test_the_card_tells_how_to_load_it(bert, tokenizer_folder, tmp_path):
    export(towers_of(bert, Layout.PAIR), tokenizer_folder, tmp_path / "model", CARD)
    card = (tmp_path / "model" / "README.md").read_text()
    assert 'model = MultiVectorEncoder("PATH")' in card
    assert "A passage has 3 vectors, of which the best counts; a query has one." in card
    assert "SentenceTransformer(" not in card
