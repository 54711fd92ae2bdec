"""Test collections in BEIR's layout. No row is dropped silently, guessed or counted twice.

    FOLDER/queries.jsonl        {"_id": "q1", "text": "who discovered radium"}
    FOLDER/qrels/SPLIT.tsv      query-id <tab> corpus-id <tab> score

Both may be compressed (.gz, .xz). Judgements may also be separated by spaces, lack the header, or have TREC's four
columns. An empty query has no vector: it is left out, and named if it is judged.
"""

from collections.abc import Collection
from dataclasses import dataclass

from dense_jax.data.sources.judgements import RejectedQuery, beir_files, judgement_rows, query_rows
from dense_jax.data.sources.rejects import sound
from dense_jax.errors import DataError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

Queries = dict[str, str]  # id -> text
Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade; relevant from 1


@dataclass(frozen=True, slots=True)
class TestSet:
    """Queries and their judgements; every query has both."""

    name: str
    split: str
    queries: Queries
    qrels: Qrels
    unknown_queries: tuple[str, ...]  # judged, but without a text: excluded
    empty_queries: tuple[str, ...] = ()  # file:line of judged queries with an empty text

    def missing_documents(self, ids: Collection[str]) -> list[str]:
        """Return the judged documents missing from `ids`, a corpus; they stay in the denominators, as in BEIR."""
        known = set(ids)
        return sorted({document for grades in self.qrels.values() for document in grades} - known)


def read_test_set(folder: AnyPath, split: str) -> TestSet:
    """Return the queries of `split` in the order of the queries file, with their judgements.

    Raises:
        DataError: a file is missing or malformed, or none of the judged queries has a text.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name a folder with queries.jsonl and qrels/{split}.tsv")
    queries_path, judgements_path = beir_files(folder, split)
    qrels = read_qrels(judgements_path)
    texts = read_beir_queries(queries_path, qrels)
    queries = {query: text for query, text in texts.items() if query in qrels}
    if not queries:
        raise DataError(
            f"{folder}: none of the {len(qrels)} queries of qrels/{split}.tsv is in {queries_path.name}, "
            f"for example {next(iter(qrels))!r}; use the queries that the judgements were made for"
        )
    unknown = tuple(query for query in qrels if query not in texts)
    empty = _empty_queries(queries_path, unknown) if unknown else ()
    return TestSet(folder.name, split, queries, {query: qrels[query] for query in queries}, unknown, empty)


def read_beir_queries(path: AnyPath, judged: Collection[str] | None = None) -> Queries:
    """Return id -> text in the file's order; integer ids become strings.

    With `judged`, unusable queries are left out if they are empty or not judged.

    Raises:
        DataError: names file and line of a row that is not a query, or of a repeated id.
    """
    queries: Queries = {}
    for row in query_rows(path):
        if not isinstance(row, Reject):
            queries[row.id] = row.text
        elif judged is None or not isinstance(row, RejectedQuery):
            raise DataError(f"{row.where}: {row.reason}")
        elif row.id in judged and not row.is_empty:
            fix = f"the query {row.id!r} is judged: correct it, or remove its judgements"
            raise DataError(f"{row.where}: {row.reason}; {fix}")
    if not queries:
        raise DataError(f"{path}: holds no query")
    return queries


def _empty_queries(path: AnyPath, ids: Collection[str]) -> tuple[str, ...]:
    rows = (row for row in query_rows(path) if isinstance(row, RejectedQuery))
    return tuple(row.where for row in rows if row.is_empty and row.id in ids)


def read_qrels(path: AnyPath) -> Qrels:
    """Return query id -> document id -> grade. A repeated judgement of the same grade is accepted.

    Raises:
        DataError: names file and line of a row that is not a judgement, or that contradicts an earlier one.
    """
    qrels: Qrels = {}
    for row in sound(judgement_rows(path)):
        qrels.setdefault(row.query, {})[row.document] = row.grade
    if not qrels:
        raise DataError(f"{path}: holds no judgement")
    return qrels
