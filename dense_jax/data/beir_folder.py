"""Writer of test collections in BEIR's layout, each file whole or absent."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson

from dense_jax.io import whole_file
from dense_jax.types import Document


def write_beir(
    folder: Path,
    documents: Iterable[Document],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    split: str,
) -> None:
    """Write the corpus, then `queries` (id -> text) and their judgements (query id -> document id -> grade)."""
    with whole_file(folder / "corpus.jsonl") as partial, partial.open("wb") as file:
        for document in documents:
            file.write(_line({"_id": document.id, "title": document.title, "text": document.text}))
    with whole_file(folder / "queries.jsonl") as partial, partial.open("wb") as file:
        file.writelines(_line({"_id": query, "text": text}) for query, text in queries.items())
    with (
        whole_file(folder / "qrels" / f"{split}.tsv") as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, delimiter="\t", lineterminator="\n")  # quotes ids with tabs and quotes, as BEIR reads
        table.writerow(["query-id", "corpus-id", "score"])
        table.writerows([query, document, grade] for query, own in qrels.items() for document, grade in own.items())


def _line(row: dict[str, str]) -> bytes:
    return orjson.dumps(row) + b"\n"
