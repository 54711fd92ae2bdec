"""The taggers of a config, and the settings of their spans."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from dense_jax.config import SpansConfig
from dense_jax.data.salient.names import CapitalisedRuns, Gazetteer
from dense_jax.data.salient.patterns import Patterns
from dense_jax.data.salient.taggers import Precomputed, RandomSpans, SpanTagger, Union
from dense_jax.data.sources.open_questions import sound_questions
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest
from dense_jax.remote.paths import located
from dense_jax.terminal.progress import progress
from dense_jax.types import Document

_FILES = ("answers", "precomputed")


def spans_settings(config: SpansConfig) -> dict[str, Any]:
    """The settings that decide the spans of a corpus: the sources in use, with digests in place of paths.

    Raises:
        DataError: a file is absent.
    """
    used = {name: getattr(config, name) for name in config.sources}
    files = {name: digest(_file(config, name)) for name in _FILES if name in used}
    drawn = {"random_mean": config.random_mean, "random_seed": config.random_seed} if config.random else {}
    return used | files | drawn


def make_tagger(config: SpansConfig, documents: Iterable[Document]) -> SpanTagger:
    """All sources of `config` as one. `documents`, the whole corpus, is read for its titles, which stay in memory.

    Spans from a file are compared with all documents first, because an error would otherwise come after hours of work.

    Raises:
        DataError: a file cannot be used, or belongs to another corpus.
    """
    taggers: list[SpanTagger] = []
    taggers += [Patterns()] if config.patterns else []
    taggers += [CapitalisedRuns()] if config.capitals else []
    if config.titles or config.answers:
        titles = _titles(documents) if config.titles else ()
        taggers.append(Gazetteer(chain(titles, _answers(config) if config.answers else ())))
    if config.precomputed:
        taggers.append(precomputed := Precomputed(_file(config, "precomputed")))
        for document in progress(documents, "compare precomputed spans", None, "documents"):
            precomputed(document)
    taggers += [RandomSpans(config.random, config.random_mean, seed=config.random_seed)] if config.random else []
    return Union(tuple(taggers))


def _titles(documents: Iterable[Document]) -> Iterator[str]:
    return (document.title for document in progress(documents, "collect titles", None, "documents"))


def _answers(config: SpansConfig) -> Iterator[str]:
    path = _file(config, "answers")
    for question in sound_questions(path):
        if question.patterns:
            raise DataError(
                f"spans.answers: {path}: the answers of {question.text[:60]!r} are regular expressions, not names; "
                "name a file whose answers are texts"
            )
        yield from question.answers


def _file(config: SpansConfig, name: str) -> AnyPath:
    path = located(getattr(config, name))
    if not path.is_file():
        raise DataError(f"spans.{name}: {path}: no such file")
    return path
