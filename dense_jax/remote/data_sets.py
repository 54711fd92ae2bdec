"""Published data sets by name, streamed once into the cache of this machine in a form that every reader knows.

    hf:ORG/NAME[/CONFIGURATION][:SPLIT]    a data set of the Hugging Face Hub: the rows of a split, `train` unless
                                           one is named; with configurations `corpus` and `queries` a BEIR folder
    hf:FOLDER[:SPLIT]                      the same of a folder that the library `datasets` reads
    ir:NAME                                a collection of ir_datasets, as a BEIR folder; the split of its judgements is
                                           what follows the documents in NAME, such as dev-small, or `test`

The cache has a folder for each revision of a data set. No code of a data set is executed.
"""

import contextlib
import functools
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.errors import DataError, MachineError, UserError, first_line
from dense_jax.io import short_digest
from dense_jax.remote.cache import JUDGEMENT, BeirRows, Row, cached, write_collection, write_rows, written_once

HUB, IR = "hf:", "ir:"
_NAME = re.compile(r"(?P<data>[\w.-]+/[\w.-]+)(/(?P<part>[\w.-]+))?(:(?P<split>[^:]+))?")
_OF_COLLECTIONS = {"corpus", "queries"}  # configurations of a data set that is a collection
_OF_JUDGEMENTS = ("qrels", "default")  # one of these has its judgements, or a data set of its own, NAME-qrels
_SPLIT = "train"  # of rows, unless another one is named
_SHORT = 12  # characters of a revision


@functools.cache
def local_data(name: str) -> Path:
    """The file or folder of the data set `name`, which begins with `hf:` or `ir:`; written now if it is not cached.

    Raises:
        DataError: there is no such data set, configuration or split, or it cannot be read.
        MachineError: a library or the network is missing.
    """
    return _ir_collection(name) if name.startswith(IR) else _hub_data(name)


@dataclass(frozen=True)
class _HubData:
    """A data set of the Hub, or of a folder in the same layout."""

    name: str  # as the user wrote it
    data: str  # ORG/NAME, or a folder
    part: str  # configuration; empty: the only one, or `default`
    split: str  # empty: none is named
    revision: str | None  # None for a folder
    library: Any

    def write(self, folder: Path) -> None:
        label = Path(self.data).name
        parts = self.library.get_dataset_config_names(self.data, revision=self.revision)
        if not self.part and set(parts) >= _OF_COLLECTIONS:
            if self.split:
                raise DataError(
                    f"{self.name}: is a collection, of which all splits are read; leave :{self.split} out, and name "
                    "it by --evaluate.split or --corpus.split"
                )
            return write_collection(folder / label, self._collection(parts))
        part = self.part or ("default" if len(parts) > 1 else parts[0])
        if part not in parts:
            raise DataError(
                f"{self.name}: name one of its configurations, {', '.join(parts)}: {HUB}{self.data}/{parts[0]}"
            )
        splits, split = self._splits(self.data, part), self.split or _SPLIT
        if split not in splits:
            raise DataError(f"{self.name}: has no split {split!r}; there are: {', '.join(splits)}")
        return write_rows(folder / f"{label}.jsonl", splits[split])

    def _collection(self, parts: list[str]) -> BeirRows:
        documents, queries = (
            (row for split in self._splits(self.data, part).values() for row in split) for part in ("corpus", "queries")
        )
        own = next((part for part in _OF_JUDGEMENTS if part in parts), None)
        judgements = self._splits(self.data, own) if own else self._splits(f"{self.data}-qrels", None)
        return BeirRows(documents, queries, judgements)

    def _splits(self, data: str, part: str | None) -> dict[str, Any]:
        """The rows by split, streamed."""
        revision = self.revision if data == self.data else None
        return dict(self.library.load_dataset(data, part, revision=revision, streaming=True))


def _hub_data(name: str) -> Path:
    library = _library("datasets", "hf", name)
    data, part, split = _parts(name)
    place = cached("hf", f"{data}/{part}" if part else data)
    label = split or _SPLIT
    revision = None if Path(data).is_dir() else _revision(name, data, place, label)
    version = revision[:_SHORT] if revision else _state(Path(data))
    data_set = _HubData(name, data, part, split, revision, library)
    with _naming_errors(name):
        return written_once(place / f"{label}-{version}", f"{name}, revision {version}", data_set.write)


def _parts(name: str) -> tuple[str, str, str]:
    """Data set, configuration and split."""
    rest = name.removeprefix(HUB)
    folder, _, split = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if Path(folder).expanduser().is_dir():
        return str(Path(folder).expanduser().absolute()), "", split
    if not (found := _NAME.fullmatch(rest)):
        raise DataError(f"{name} is no name of a data set; write {HUB}ORG/NAME, {HUB}ORG/NAME/CONFIGURATION:SPLIT")
    return found["data"], found["part"] or "", found["split"] or ""


def _revision(name: str, data: str, place: Path, split: str) -> str:
    """The newest revision; without a network, the newest of those in the cache."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().dataset_info(data).sha or ""
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"{name}: the Hub has no data set {data}, or it is private; correct the name, or log in by `hf auth login`"
        ) from None
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        kept = sorted(place.glob(f"{split}-*"), key=lambda path: path.stat().st_mtime)
        if kept:
            return kept[-1].name.removeprefix(f"{split}-")
        raise MachineError(
            f"{name}: is not in the cache, and the Hub cannot be reached ({first_line(error)}); name a file or a "
            "folder, or read it where there is a network"
        ) from error


def _state(folder: Path) -> str:
    """A digest of the names, sizes and times of a folder's files."""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return short_digest([[str(path), state.st_size, state.st_mtime_ns] for path, state in files])


def _ir_collection(name: str) -> Path:
    library, known = _library("ir_datasets", "ir", name), name.removeprefix(IR)
    try:
        data_set = library.load(known)
    except KeyError:
        raise DataError(f"{name}: ir_datasets {library.__version__} has no collection of this name") from None
    if not data_set.has_docs():
        raise DataError(f"{name}: has no documents; name a part of it that has some")
    split = known.removeprefix(library.docs_parent_id(known)).strip("/").replace("/", "-") or "test"

    def queries() -> Iterator[Row]:
        for query in data_set.queries_iter():
            yield {"_id": query.query_id, "text": query.default_text()}

    def judgements() -> Iterator[Row]:
        for row in data_set.qrels_iter():
            yield dict(zip(JUDGEMENT, (row.query_id, row.doc_id, row.relevance), strict=True))

    def write(folder: Path) -> None:
        write_collection(
            folder / known.replace("/", "-"),
            BeirRows(
                map(_ir_document, data_set.docs_iter()),
                queries() if data_set.has_queries() else (),
                {split: judgements()} if data_set.has_qrels() else {},
            ),
        )

    with _naming_errors(name):
        return written_once(cached("ir", known), name, write)


def _ir_document(document: Any) -> Row:
    text = getattr(document, "text", None)
    if text is None:
        return {"_id": document.doc_id, "title": "", "text": document.default_text()}
    return {"_id": document.doc_id, "title": getattr(document, "title", "") or "", "text": text}


@contextlib.contextmanager
def _naming_errors(name: str) -> Iterator[None]:
    """Raise a DataError for any error of a library, whose files and networks fail in many ways."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{name}: cannot be read ({type(error).__name__}: {first_line(error)})") from error


def _library(package: str, extra: str, name: str) -> Any:
    try:
        return importlib.import_module(package)  # late: it takes seconds, and most data are files
    except ImportError:
        raise MachineError(f"{name}: needs {package}; pip install 'dense_jax[{extra}]'") from None
