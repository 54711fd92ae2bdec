"""Writes a test collection in BEIR's layout, each file whole or not at all."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson

from dense_jax.contracts import Document
from dense_jax.files import whole_file


def write_beir(
    folder: Path,
    documents: Iterable[Document],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    split: str,
) -> None:
    """`queries` (id -> text) and their judgements (query id -> document id -> grade) beside the corpus; grades last."""
    with whole_file(folder / "corpus.jsonl") as partial, partial.open("wb") as file:
        for document in documents:
            file.write(_line({"_id": document.id, "title": document.title, "text": document.text}))
    with whole_file(folder / "queries.jsonl") as partial, partial.open("wb") as file:
        file.writelines(_line({"_id": query, "text": text}) for query, text in queries.items())
    with whole_file(folder / "qrels" / f"{split}.tsv") as partial:
        rows = [f"{query}\t{document}\t{grade}\n" for query, own in qrels.items() for document, grade in own.items()]
        partial.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), encoding="utf-8")


def _line(row: dict[str, str]) -> bytes:
    return orjson.dumps(row) + b"\n"
