"""Where documents come from, and what a row must be to become one.

A row needs an id (or gets its number where no row has one) and a text. A text may also be a list of paragraphs, or of
sections with `heading` and `text`, joined by blank lines. Every other row becomes a `Reject` with file, line and
reason.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.demo_corpus import installed_rows, installed_versions
from dense_jax.data.sources.document_files import open_tfds
from dense_jax.data.sources.documents import DocumentRow, tfds_rows
from dense_jax.data.sources.fields import as_id, check_configured, document_fields, numbering_note
from dense_jax.data.sources.lines import has_surrogate
from dense_jax.data.sources.queries import JudgedQuery
from dense_jax.data.sources.rejects import RowError
from dense_jax.data.sources.source_files import FORMS, Judged, open_path
from dense_jax.errors import ConfigError, DataError, require
from dense_jax.io import located
from dense_jax.types import Document, Reject

INSTALLED = "installed"
EMPTY = "text and title are empty"  # the reason why a row is no document
_TFDS = "tfds:"
_WHITE_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Source:
    """A `Corpus` of the rows that one source gives."""

    name: str  # the same wherever the source lies
    place: str  # what stands before a row's number in messages
    rows: Callable[[], Iterable[DocumentRow | Reject]]  # all rows at each call
    identify: Callable[[], dict[str, Any]]
    config: CorpusConfig
    prefix: str = ""  # of the ids of its documents
    judged: Judged | None = None  # its training queries, if it has any
    left_out: frozenset[str] = frozenset()  # ids of documents that count as read, and are not given
    note: str = ""  # a sentence for the user about how it is read

    def __iter__(self) -> Iterator[Document | Reject]:
        """
        Raises:
            DataError: there is no row at all.
        """
        first_seen: dict[str, int] = {}
        found = rejected = 0
        for row in self.rows():
            result = row if isinstance(row, Reject) else self._document(row, first_seen)
            found += isinstance(result, Document)
            rejected += isinstance(result, Reject)
            if isinstance(result, Reject) or result.id not in self.left_out:
                yield result
            if found == self.config.limit > 0:
                return
        if not found + rejected:
            raise DataError(f"corpus source {self.config.source}: holds no document; name {FORMS}")

    def queries(self) -> Iterator[JudgedQuery | Reject]:
        """The training queries that the source has itself, about its documents by their ids without the prefix.

        Raises:
            DataError: it has none.
        """
        if self.judged is None:
            raise DataError(
                f"corpus source {self.config.source}: has documents but no training queries; name files of queries "
                "about them in corpus.queries, or as source a BEIR or MS MARCO folder, or a file of queries with texts "
                "(Tevatron, DPR, SQuAD, pairs and tuples)"
            )
        return self.judged()

    def fingerprint(self) -> dict[str, Any]:
        """What tells this source's content from another's, wherever it lies: JSON values."""
        return {"name": self.name, **self.identify()}

    def _document(self, row: DocumentRow, first_seen: dict[str, int]) -> Document | Reject:
        try:
            document = _checked(row, self.config.max_characters)
            if (first := first_seen.setdefault(document.id, row.number)) != row.number:
                raise RowError(f"has the id {document.id!r} of {self.place}:{first}")
        except RowError as error:
            return Reject(row.where or f"{self.place}:{row.number}", str(error))
        return replace(document, id=self.prefix + document.id)


@dataclass(frozen=True)
class CheckedCorpus:
    """A `Corpus` of all rows of its sources, one source after the other."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return ", ".join(source.name for source in self.sources)

    def __iter__(self) -> Iterator[Document | Reject]:
        return chain.from_iterable(self.sources)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this content from another's, wherever it lies: JSON values."""
        first, *others = (source.fingerprint() for source in self.sources)
        return first | ({"also": {str(i): other for i, other in enumerate(others, start=1)}} if others else {})

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the documents that are read and not given."""
        return self.sources[0].left_out

    def without(self, ids: frozenset[str]) -> "CheckedCorpus":
        """The same corpus without some of its documents."""
        return CheckedCorpus(tuple(replace(source, left_out=ids) for source in self.sources))


def open_corpus(config: CorpusConfig, *, asked: bool = False) -> CheckedCorpus:
    """The corpus of `config.source` and `config.also`; `asked` for its training queries, or for its documents only.

    If queries are asked for and not in `config.queries`, a TSV file without a header holds them, and the fingerprint
    of a folder depends on them.

    Where there are several sources, each one's name stands before the ids of its documents: `news.jsonl/17`.

    Raises:
        ConfigError: there is no source, or two have the same name.
        DataError: there is no such file, folder or data set, or its form is unknown.
    """
    own = asked and not config.queries
    sources = [_open_source(replace(config, source=source, also=()), own) for source in config.sources]
    if len(sources) == 1:
        return CheckedCorpus(tuple(sources))
    names = [_WHITE_SPACE.sub("_", source.name) for source in sources]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(
            f"corpus.source and corpus.also name two sources that are called {twice[0]}; rename one of them, since the "
            "name stands before the ids of its documents"
        )
    return CheckedCorpus(tuple(replace(source, prefix=f"{name}/") for name, source in zip(names, sources, strict=True)))


def _open_source(config: CorpusConfig, asked: bool) -> Source:
    require(
        bool(config.source),
        f"no corpus.source; name your documents by --corpus.source=FILE: {FORMS}",
    )
    if config.source == INSTALLED:
        return Source(INSTALLED, INSTALLED, _Kept(installed_rows()).all, installed_versions, config)
    if config.source.startswith(_TFDS):
        return _open_tfds_source(config)
    path = located(config.source)
    if not path.exists():
        raise DataError(f"corpus source {config.source}: no such file or folder; name {FORMS}")
    found = open_path(path, config, asked)
    name = path.name
    return Source(name, str(found.place), found.rows, found.identify, config, judged=found.judged, note=found.note)


class _Kept:
    """Rows that take long to find, found once."""

    def __init__(self, rows: Iterator[DocumentRow]) -> None:
        self.rows = rows
        self.kept: list[DocumentRow] = []

    def all(self) -> Iterator[DocumentRow]:
        yield from self.kept
        for row in self.rows:
            self.kept.append(row)
            yield row


def _open_tfds_source(config: CorpusConfig) -> Source:
    name = config.source.removeprefix(_TFDS)
    source = open_tfds(name, config.split)
    label = f"{source.dataset_info.full_name}[{config.split}]"
    names = tuple(source.dataset_info.features)
    check_configured(f"corpus source tfds:{name}", names, config)
    fields = document_fields(names, config)
    note = numbering_note(label, names) if fields.numbered else ""
    rows = partial(tfds_rows, source, fields, label)
    identify = partial(dict, examples=len(source), fields=fields.named())
    return Source(label, label, rows, identify, config, note=note)


def _checked(row: DocumentRow, max_characters: int) -> Document:
    """`row` as a document.

    Raises:
        RowError: an id, title or text that cannot be used.
    """
    title = "" if row.title is None else row.title
    if not isinstance(title, str):
        raise RowError(f"the title is {title!r:.60}, not a string")
    text = "" if row.text is None and not title.strip() else _joined(row.text)
    if not text.strip() and not title.strip():
        raise RowError(EMPTY)
    if len(text) + len(title) > max_characters:
        raise RowError(f"{len(text) + len(title):,} characters, more than corpus.max_characters={max_characters:,}")
    _check_characters("title", title)
    _check_characters("text", text)
    if row.id is None:
        raise RowError("has no id, which other rows have; give it one")
    identifier = as_id(row.id, "the id")
    _check_characters("id", identifier)
    return Document(identifier, title, text)


def _check_characters(name: str, value: str) -> None:
    if "\0" in value:
        raise RowError(f"the {name} holds a NUL character")
    if has_surrogate(value):
        raise RowError(f"the {name} holds a lone surrogate, which is no character")


def _joined(text: Any) -> str:
    """A text as one string: itself, or its paragraphs or sections one after the other."""
    if isinstance(text, str):
        return text
    if not isinstance(text, list):
        raise RowError(f"the text is {text!r:.60}, not a string")
    return "\n\n".join(map(_section, text))


def _section(section: Any) -> str:
    """A paragraph, or a heading and its text: as one, since a sentence of one word is no query to learn from."""
    parts = [section.get("heading") or "", section.get("text")] if isinstance(section, dict) else [section]
    if not all(isinstance(part, str) for part in parts):
        raise RowError(f"the text's part {section!r:.60} is neither a string nor a section with a text")
    return "\n".join(part for part in parts if part)
