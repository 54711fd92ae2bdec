"""The cache of data sets that were read elsewhere: files of rows and BEIR folders, each written once and whole.

It lies in XDG_CACHE_HOME/dense_jax, in ~/.cache/dense_jax unless that is set.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.errors import DataError
from dense_jax.io import naming_storage_errors, sync

JUDGEMENT = ("query-id", "corpus-id", "score")  # columns of judgements

Row = Mapping[str, Any]


@dataclass(frozen=True)
class BeirRows:
    """Documents, queries, and judgements by split, in BEIR's names."""

    documents: Iterable[Row]
    queries: Iterable[Row]
    judgements: Mapping[str, Iterable[Row]]


def cached(kind: str, name: str) -> Path:
    """The folder in the cache for the data set `name` of a `kind`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(root) / "dense_jax" / kind / name.strip("/").replace("/", "--")


def written_once(folder: Path, about: str, write: Callable[[Path], None]) -> Path:
    """The one entry of `folder`, which `write` makes in a folder that it is given, unless it is there.

    Several processes may write one: the first to end wins. `about` is printed before.

    Raises:
        StorageError: the disk is full or refuses the write.
    """
    if not folder.is_dir():
        print(f"{about}: reading it once into {folder}", file=sys.stderr)
        with naming_storage_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                write(partial)
                _rename_unless_there(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    (entry,) = folder.iterdir()
    return entry


def _rename_unless_there(partial: Path, folder: Path) -> None:
    try:
        partial.replace(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    sync(folder.parent)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a JSON object for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    sync(path)


def write_collection(folder: Path, collection: BeirRows) -> None:
    """Write a BEIR folder.

    Raises:
        DataError: a judgement lacks one of its three columns.
    """
    write_rows(folder / "corpus.jsonl", collection.documents)
    write_rows(folder / "queries.jsonl", collection.queries)
    for split, judgements in collection.judgements.items():
        path = folder / "qrels" / f"{split}.tsv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write("\t".join(JUDGEMENT) + "\n")
            file.writelines("\t".join(_cells(row)) + "\n" for row in judgements)
        sync(path)


def _cells(row: Row) -> list[str]:
    if missing := [name for name in JUDGEMENT if name not in row]:
        raise DataError(f"judgements have the fields {', '.join(row)}, but not {', '.join(missing)}")
    return [str(row[name]) for name in JUDGEMENT]
