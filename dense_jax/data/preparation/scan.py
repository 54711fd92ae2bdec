"""A first pass over a corpus: every row is checked, and the bad ones are listed with file and line."""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import CheckedCorpus, Source
from dense_jax.data.sources.documents import EMPTY
from dense_jax.data.sources.rejects import advice, likely_cause
from dense_jax.errors import DataError
from dense_jax.io import whole_file
from dense_jax.terminal.progress import progress
from dense_jax.types import Reject

REJECTS = "rejects.jsonl"
_EXAMPLES = 5  # rejected rows shown in an error


def scan(corpus: CheckedCorpus, rejects: Path, *, may_be_empty: bool = False) -> dict[str, int]:
    """Read every row once, list the bad ones in `rejects`, and return the counts of usable and rejected rows.

    With `may_be_empty`, rows with neither text nor title do not count against corpus.max_rejects.

    Raises:
        DataError: the share of bad rows in a source is above corpus.max_rejects, or it has no usable row.
    """
    with whole_file(rejects) as partial, partial.open("wb") as file:
        found = [_scan_source(source, file) for source in corpus.sources]
    if bad := [_too_many(scanned, rejects) for scanned in found if scanned.too_bad(may_be_empty)]:
        raise DataError("\n".join(bad))
    return {"usable": sum(of.documents for of in found), "rejected": sum(of.rejected for of in found)}


def rows_left_out(folder: Path) -> str:
    """A sentence about the rows that `scan` listed in `folder`, with file and line; empty if it listed none."""
    lines = (folder / REJECTS).read_bytes().split(b"\n")[:-1] if (folder / REJECTS).is_file() else []
    if not lines:
        return ""
    first = orjson.loads(lines[0])
    phrase = "rows are left out, such as" if len(lines) > 1 else "row is left out:"
    return f"{len(lines):,} {phrase} {first['file']}:{first['line']} ({first['reason']}); see {folder / REJECTS}"


@dataclass(frozen=True)
class _Scanned:
    """The number of usable rows of a source, and the reasons of the others."""

    config: CorpusConfig
    documents: int
    reasons: Counter[str]
    causes: Counter[str]  # of the same rows
    first: list[Reject]

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    def too_bad(self, may_be_empty: bool) -> bool:
        counted = self.rejected - (self.reasons[_without_details(EMPTY)] if may_be_empty else 0)
        return counted > self.config.max_rejects * (self.rejected + self.documents) or not self.documents


def _scan_source(source: Source, rejects: BinaryIO) -> _Scanned:
    if source.contents.note:
        print(source.contents.note, file=sys.stderr)
    reasons: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    first: list[Reject] = []
    documents = 0
    for row in progress(source, f"check {source.name}", None, "rows"):
        if isinstance(row, Reject):
            place, _, line = row.where.rpartition(":")
            rejects.write(orjson.dumps({"file": place, "line": int(line), "reason": row.reason}) + b"\n")
            reasons[_without_details(row.reason)] += 1
            causes[likely_cause(row.reason)] += 1
            first += [row] if len(first) < _EXAMPLES else []
        else:
            documents += 1
    return _Scanned(source.config, documents, reasons, causes, first)


def _without_details(reason: str) -> str:
    """A reason without the details of its row."""
    return re.split(r"[('\"\d]", reason, maxsplit=1)[0].strip(" ,:")


def _too_many(found: _Scanned, file: Path) -> str:
    rows = found.rejected + found.documents
    allowed = found.config.max_rejects
    fix = advice(found.causes, found.documents)
    return "\n".join(
        [
            f"{found.rejected:,} of {rows:,} rows cannot be used (corpus.max_rejects={allowed}):",
            *(f"  {count:,} x {kind or 'other'}" for kind, count in found.reasons.most_common()),
            "for example",
            *(f"  {row.where}: {row.reason}" for row in found.first),
            f"all are in {file}; {fix if found.documents else f'no document is left; {fix}'}",
        ]
    )
