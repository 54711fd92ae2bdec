"""examples/score_with_cross_encoder.py: what `mine` wrote, with a teacher's scores, as fine-tuning reads it."""

import json

import numpy as np
import pytest

import dense_jax
from dense_jax.data.preparation.queries import open_queries
from dense_jax.data.tokenizer import Tokenizer
from tests.query_files import write
from tests.sources import rows, sentence


@pytest.fixture
def teacher(tmp_path):
    """A folder of a cross-encoder of random numbers."""
    pytest.importorskip("sentence_transformers", reason="the teacher's library")
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    Tokenizer.train([sentence(i) for i in range(20)], 80, lowercase=True).save(tmp_path / "teacher", max_length=64)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=90, max_position_embeddings=64, initializer_range=0.5, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.slow
def test_mined_queries_get_the_logits_of_a_cross_encoder_and_are_prepared_for_distillation(teacher, tmp_path):
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    from examples.score_with_cross_encoder import main

    source = tmp_path / "collection"
    documents = {row["_id"]: f"{row['title']} {row['text']}" for row in write_rows(source)}
    settings = {"corpus.source": str(source), "tokenizer.vocab_size": 100, "mine.negatives": 4, "mine.depth": 10}
    run = dense_jax.Run(
        tmp_path / "work", dense_jax.load_config("finetune_dpr:tiny", settings | {"mine.source": "bm25"})
    )
    run.prepare()
    run.mine()
    mined, target = tmp_path / "work" / "mined" / "bm25.jsonl", tmp_path / "scored.jsonl"
    other = write(tmp_path / "other.jsonl", [with_negatives(first(mined), ["d19"])])
    main([str(teacher), str(mined), str(other), f"--data={tmp_path / 'work'}", f"--out={target}", "--batch=3"])

    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(found) == len(mined.read_text().splitlines()) == 20
    assert found[0]["negative_document_ids"] == [*first(mined)["negative_document_ids"], "d19"]
    model = CrossEncoder(str(teacher))
    for row in found[:3]:
        for side in ("positive", "negative"):
            pairs = [(row["query_text"], documents[one]) for one in row[f"{side}_document_ids"]]
            expected = model.predict(pairs, activation_fn=Identity())
            np.testing.assert_allclose(row[f"{side}_scores"], expected, rtol=1e-4, atol=1e-5)

    given = settings | {"corpus.queries": str(target), "objective.distillation": "kl"}
    again = dense_jax.Run(tmp_path / "work2", dense_jax.load_config("finetune_dpr:tiny", given))
    again.prepare()
    query = open_queries(tmp_path / "work2", again.config.corpus).sample(0, 0, np.random.default_rng(0))
    np.testing.assert_allclose(query.positives.scores, found[0]["positive_scores"], rtol=1e-6)
    np.testing.assert_allclose(sorted(query.negatives.scores), sorted(found[0]["negative_scores"]), rtol=1e-6)


def write_rows(source) -> list[dict]:
    """Query i is a sentence of document i, which answers it."""
    found = rows(20)
    write(source / "corpus.jsonl", found)
    write(source / "queries.jsonl", [{"_id": f"q{i}", "text": sentence(10 * i)} for i in range(20)])
    write(source / "qrels" / "train.tsv", "".join(f"q{i}\td{i}\t1\n" for i in range(20)))
    return found


def first(mined) -> dict:
    return json.loads(mined.read_text().splitlines()[0])


def with_negatives(row: dict, ids: list[str]) -> dict:
    return row | {"negative_document_ids": ids, "negative_scores": [0.0] * len(ids)}
