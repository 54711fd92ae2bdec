"""Vectors cut to their first components: `embed.width`."""

from dataclasses import replace

import numpy as np
import pytest

import dense_jax
from dense_jax.config import Precision
from dense_jax.errors import ConfigError
from dense_jax.models.encoder import Encoder
from dense_jax.retrieval.narrow import FirstComponents, narrow
from dense_jax.types import Similarity, Towers
from tests.bert_folders import fresh_params
from tests.fake_tower import tower
from tests.test_run import example, workdir  # noqa: F401  fixtures
from tests.test_show import BERT
from tests.toys import VOCABULARY


def vectors_of(encoder, params):
    from dense_jax.data.inputs import build_inputs, stack_tokens
    from dense_jax.types import Layout

    texts = [np.arange(5, 5 + n) for n in (1, 3, 6)]
    rows = [build_inputs(text[:0], text, 8, Layout.BODY, VOCABULARY) for text in texts]
    return np.asarray(encoder.apply(params, stack_tokens(rows)))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_first_components_have_length_1_where_the_whole_vectors_have_it(normalize):
    encoder, params = Encoder(BERT, normalize=normalize), {"bert": fresh_params(BERT)["encoder"]["bert"]}
    whole, found = vectors_of(encoder, params), vectors_of(FirstComponents(encoder, 5), params)
    first = whole[:, :5]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True) if normalize else first
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_both_towers_are_narrowed_and_more_than_the_model_has_is_refused():
    whole = Towers(tower(), tower(), Similarity.DOT)
    found = narrow(whole, 2)
    assert (found.query.encoder.width, found.passage.encoder.width) == (2, 2)
    with pytest.raises(ConfigError, match=r"embed\.width=4 is more than the 3 numbers of the model's vectors; use few"):
        narrow(whole, 4)


def with_embed(path, **changes):
    """The run of a workdir with other settings of `embed`."""
    config = dense_jax.Run(path)._loaded.config
    return dense_jax.Run(path, replace(config, embed=replace(config.embed, **changes)))


@pytest.mark.slow
def test_embed_search_and_evaluate_use_the_width_and_export_all_numbers(workdir, capsys):  # noqa: F811
    narrowed = with_embed(workdir, width=8)
    assert narrowed.embed().width == 8 and narrowed.encode_queries(["a query"]).shape == (1, 8)
    assert "note: embed.width=8: the objective was not trained with that width" in capsys.readouterr().err
    assert narrowed.index().vectors.width == 8 and len(narrowed.search(["number 7"])[0]) == 5
    assert "after training, 8 numbers" in narrowed.evaluate().figures
    assert {path.name for path in (workdir / "results").rglob("*after_training.json")} == {
        "after_training.json", "hybrid_after_training.json",
        "8_after_training.json", "hybrid_8_after_training.json",
    }  # fmt: skip
    narrowed.export()
    assert '"hidden_size": 16' in (workdir / "export" / "config.json").read_text()
    assert dense_jax.Run(workdir).embed().width == 16


@pytest.mark.slow
def test_int8_vectors_are_searched_and_evaluated_beside_those_of_float32(workdir):  # noqa: F811
    run = dense_jax.Run(workdir)
    floats, found = run.embed().array(), run.search(["number 7"])
    small = with_embed(workdir, precision=Precision.INT8)
    vectors = small.embed()
    assert vectors.dtype == "int8"
    np.testing.assert_allclose(vectors.array(), floats, atol=0.01)
    hits = small.search(["number 7"])[0]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in found[0]], abs=0.02)
    assert "after training, int8" in small.evaluate().figures
