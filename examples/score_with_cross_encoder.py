"""Scores of a cross-encoder for the passages of mined queries, to be learned from by `objective.distillation`.

    pip install "dense_jax[torch]"
    python examples/score_with_cross_encoder.py cross-encoder/ms-marco-MiniLM-L6-v2 MINED.jsonl ... \
        --data=WORKDIR --out=SCORED.jsonl

The model is a folder, or a name on the Hugging Face Hub. WORKDIR is the one that `prepare` filled with the documents.
What `mine` wrote is read, in one or several files; the rows of a query are joined. The scores are the model's logits,
for positives and negatives alike, in place of those of the miner.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from tqdm import tqdm

from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.io import whole_file

QUERIES = 256  # scored together, so that texts of one length can share a batch
SIDES = ("positive", "negative")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a CrossEncoder of sentence-transformers with one score: its folder or name")
    parser.add_argument("mined", type=Path, nargs="+", help="files that `dense-jax mine` wrote")
    parser.add_argument("--data", type=Path, required=True, help="the workdir that `dense-jax prepare` wrote to")
    parser.add_argument("--out", type=Path, required=True, help="the file of scored queries")
    parser.add_argument("--length", type=int, help="tokens of a query and a passage together; default: the model's")
    parser.add_argument("--batch", type=int, default=32, help="pairs that the model scores at once")
    given = parser.parse_args(argv)
    model = CrossEncoder(given.model, max_length=given.length)
    if model.num_labels != 1:
        parser.error(f"{given.model} has {model.num_labels} scores for a pair; name a model that has one")
    store, queries = PassageStore(given.data / "documents"), joined(given.mined)
    with whole_file(given.out) as partial, partial.open("w", encoding="utf-8") as file:
        for row in tqdm(scored(queries, store, model, given.batch), total=len(queries), unit=" queries"):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def joined(mined: list[Path]) -> list[dict]:
    """The queries of all files, each once, with the ids of its positives and negatives."""
    found: dict[str, dict] = {}
    for path in mined:
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            query = found.setdefault(row["query_id"], {"query_id": row["query_id"], "query_text": row["query_text"]})
            for name in (f"{side}_document_ids" for side in SIDES):
                query[name] = list(dict.fromkeys([*query.get(name, ()), *row[name]]))
    return list(found.values())


def scored(queries: list[dict], store: PassageStore, model: CrossEncoder, batch: int) -> Iterator[dict]:
    """`queries` with the scores of their passages."""
    rows = {identifier: row for row, identifier in enumerate(store.ids())}
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        lists = [(query["query_text"], query[f"{side}_document_ids"]) for query in block for side in SIDES]
        texts = store.texts([rows[one] for _, ids in lists for one in ids])
        asked = chain.from_iterable([text] * len(ids) for text, ids in lists)
        pairs = [(query, f"{text.title} {text.text}".strip()) for query, text in zip(asked, texts, strict=True)]
        logits = model.predict(pairs, batch_size=batch, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        scores = iter(logits.tolist())
        for query in block:
            yield query | {f"{side}_scores": [next(scores) for _ in query[f"{side}_document_ids"]] for side in SIDES}


if __name__ == "__main__":
    main()
