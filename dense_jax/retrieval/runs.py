"""Runs: for each query the scores of its retrieved documents, in memory and as TREC files.

**The order of a run** is trec_eval's: scores compared as float32, higher first; ties by document id, compared as
strings, *descending* ("d9" before "d10"). Every figure and file here uses it.
"""

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from dense_jax.errors import DataError
from dense_jax.io import text_lines, whole_file
from dense_jax.types import Ranking

_SPACE = re.compile(r"\s")
_SPACE_OR_PERCENT = re.compile(r"[\s%]")

Run = dict[str, dict[str, float]]  # query id -> document id -> score


def from_ranking(ranking: Ranking, queries: Iterable[str], ids: list[str]) -> Run:
    """Return the run of `ranking`: its row i belongs to the i-th of `queries`, its entries are rows of `ids`.

    A query without results stays in the run, with no document.
    """
    run: Run = {}
    for query, scores, rows in zip(queries, ranking.scores, ranking.rows, strict=True):
        found = zip(scores.tolist(), rows.tolist(), strict=True)
        run[query] = {ids[row]: score for score, row in found if row >= 0}
    return run


def ordered(scores: Mapping[str, float]) -> list[str]:
    """Return the documents of one query in the order of a run.

    >>> ordered({"d10": 1.0, "d9": 1.0, "d1": 2.0})
    ['d1', 'd9', 'd10']

    Raises:
        DataError: a score is NaN or beyond float32, so that it cannot be ordered.
    """
    with np.errstate(over="ignore"):
        single = np.array(list(scores.values()), np.float32)
    for document, score, kept in zip(scores, scores.values(), single, strict=True):
        if not np.isfinite(kept):
            raise DataError(
                f"document {document!r} has score {score}, which cannot be ranked; scores must be finite in float32"
            )
    ranked = sorted(zip(single.tolist(), scores, strict=True), reverse=True)
    return [document for _, document in ranked]


def truncate(run: Run, depth: int) -> Run:
    """Return the first `depth` documents of each query."""
    return {
        query: {document: scores[document] for document in ordered(scores)[:depth]} for query, scores in run.items()
    }


def without_identical(run: Run, queries: Container[str] | None = None) -> tuple[Run, list[str]]:
    """Return the run without documents whose id is their query's, and these ids; with `queries`, for these alone.

    BEIR drops them for all queries, because ArguAna's queries are documents; its published figures depend on it.
    """
    dropped = [query for query, scores in run.items() if query in scores and (queries is None or query in queries)]
    own = set(dropped)
    kept = {
        query: {document: s for document, s in scores.items() if document != query or query not in own}
        for query, scores in run.items()
    }
    return kept, dropped


def percent_encoded(run: Run) -> Run:
    """Return the run with white space in ids percent-encoded (%20) and % as %25, for a TREC file."""
    return {
        percent_encode(query): {percent_encode(d): score for d, score in scores.items()}
        for query, scores in run.items()
    }


def percent_encode(identifier: str) -> str:
    """Return an id with white space and % percent-encoded, as in a TREC file.

    >>> percent_encode("100% sure")
    '100%25%20sure'
    """
    return _SPACE_OR_PERCENT.sub(lambda found: quote(found[0]), identifier)


def holds_space(identifier: str) -> bool:
    """Return whether an id has white space, which a TREC file cannot express."""
    return _SPACE.search(identifier) is not None


def write_trec_run(path: Path, run: Run, tag: str) -> None:
    """Write `query Q0 document rank score tag` lines, with scores in full precision, whole or not at all.

    Raises:
        DataError: an id or the tag is empty or holds white space, which the format cannot express.
    """
    lines = []
    for query, scores in run.items():
        for rank, document in enumerate(ordered(scores), start=1):
            for word in (query, document, tag):
                _check_word(word, path)
            lines.append(f"{query} Q0 {document} {rank} {scores[document]!r} {tag}\n")
    with whole_file(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def read_trec_run(path: Path) -> Run:
    """Return the scores of a TREC run file. Its ranks are ignored, as trec_eval does.

    Raises:
        DataError: names file and line of a row that is not a result or repeats one.
    """
    run: Run = {}
    try:
        lines = text_lines(path)
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if len(cells) != 6:
            raise DataError(f"{path}:{number}: {len(cells)} columns; a result is `query Q0 document rank score tag`")
        query, _, document, _, score, _ = cells
        if document in run.setdefault(query, {}):
            raise DataError(f"{path}:{number}: query {query!r} has document {document!r} twice")
        run[query][document] = _score(score, f"{path}:{number}")
    return run


def _check_word(word: str, path: Path) -> None:
    if len(word.split()) != 1 or word != word.strip():
        raise DataError(
            f"{path}: id {word!r} is empty or holds white space, which TREC files cannot express; rename it"
        )


def _score(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{where}: score {cell!r} is not a number") from None
