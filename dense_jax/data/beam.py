"""The long parts of a preparation by the workers of an Apache Beam pipeline, with the same result to the last byte.

The calling process reads the sources, because one process must compare all ids, and passes the documents on in bundles.
It also chooses the test set and trains the tokenizer. Workers compare, tokenise, arrange and write. They exchange files
in a folder that all of them reach, so a resumed preparation does not repeat finished work.

    STAGING/KEY/start              the state of an interrupted preparation
                bundles            numbers of documents of the bundles, source by source; written last of the first step
                documents-00000    a bundle
                alike-...          pairs of documents in one bucket of near-duplicates
                arranged-00000     the groups of a bundle
                counts-00000       their numbers of passages
                *.array_record     a finished shard
                written-00000      its entry in the manifest
"""

import json
import pickle
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import xxhash

from dense_jax.config import PrepareConfig
from dense_jax.data.dedup import Pairs, buckets
from dense_jax.data.preparation.bundles import (
    ShardPlan,
    Slice,
    bundles,
    count_groups,
    pack_documents,
    pack_groups,
    plan_shards,
    unpack_documents,
    unpack_groups,
)
from dense_jax.data.preparation.running_text import cut_lines
from dense_jax.data.stores.passage_store import StoreWriter
from dense_jax.data.stores.shards import Entry, Group, RecordFormat, Shard, write_shard
from dense_jax.errors import MachineError
from dense_jax.io import whole_file
from dense_jax.terminal.progress import progress
from dense_jax.types import Document

try:
    import apache_beam as beam  # pyright: ignore[reportMissingImports]  an extra
    from apache_beam.io.filesystem import CompressionTypes  # pyright: ignore[reportMissingImports]
    from apache_beam.io.filesystems import FileSystems  # pyright: ignore[reportMissingImports]
    from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
except ImportError:
    raise MachineError(
        "prepare.runner=beam needs Apache Beam; in an environment of its own, since it holds other packages back, "
        "pip install --constraint constraints-beam.txt 'dense_jax[beam]'"
    ) from None

# A process for each core. (DirectRunner would first try to fetch another runner's program from the network.)
_HERE = "--runner=FnApiRunner --direct_running_mode=multi_processing --direct_num_workers=0"
_BUNDLE = 1 << 23  # characters of the documents that one worker does at a time

_Plain = list[list[tuple[int, ...]]]  # the slices of a shard's texts, as Beam can carry them

Arrange = Callable[[Iterable[Document]], Iterator[Group]]  # can be pickled


def fill_by_beam(
    writer: StoreWriter,
    sources: Sequence[tuple[str, Iterable[Document]]],
    arrange: Arrange,
    settings: PrepareConfig,
    chunk: int,
    finish: Callable[[], None],
) -> None:
    """As `preparation.fill.fill_store`. `sources` are their names and documents; `finish` completes the store.

    Raises:
        MachineError: the pipeline failed; finished work stays, and the same call continues it.
    """
    staging = _staging(settings, writer.folder, {"store": writer.settings})
    start = _started(staging, writer, len(sources))
    left = [islice(documents, done, None) for (_, documents), (done, _) in zip(sources, start.read, strict=True)]
    sizes = _bundled(staging, left)
    staging.dump("arrangement", arrange)
    numbers = [number for number in range(sum(map(len, sizes))) if not staging.has(_file_name("counts", number))]
    _run_pipeline(settings.options, numbers, beam.Map(_arrange_bundle, staging))
    plan = _Plan(staging, start, sizes, writer.shard_size, chunk)
    _run_pipeline(
        settings.options,
        plan.missing(writer.next_shard),
        beam.Map(_write_planned, staging, writer.record_format, chunk),
    )
    for i, (name, _) in enumerate(sources):
        writer.begin(name)
        plan.record(i, writer)
    finish()
    staging.remove()


def similar_pairs_by_beam(
    documents: Iterable[Document], similarity: float, settings: PrepareConfig, root: Path, made_for: dict[str, Any]
) -> Pairs:
    """The result of `similar_pairs` for the texts of `documents`, in any order; `made_for` identifies the documents.

    Raises:
        MachineError: the pipeline failed.
    """
    staging = _staging(settings, root, {"alike": made_for})
    (sizes,) = _bundled(staging, [documents])
    numbered = list(enumerate(np.cumsum([0, *sizes])[:-1].tolist()))
    members = beam.FlatMap(_members, staging, similarity) | beam.GroupByKey()
    _run_pipeline(
        settings.options, numbered, members | beam.FlatMap(_pairs) | beam.io.WriteToText(staging.prefix("alike"))
    )
    pairs = np.array(staging.read_all("alike").split(), np.int64).reshape(-1, 2)
    staging.remove()
    return pairs


@dataclass(frozen=True)
class _Staging:
    """A folder of files that are whole or absent, on a disk or in a bucket."""

    folder: str

    def has(self, name: str) -> bool:
        return FileSystems.exists(self._path(name))

    def read(self, name: str) -> bytes:
        return _read_uncompressed(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write `name`; several workers may do so, also at the same time."""
        if not FileSystems.exists(self.folder):
            FileSystems.mkdirs(self.folder)
        partial = self._path(f"{name}.{uuid4().hex}.partial")
        with FileSystems.create(partial, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(content)
        FileSystems.rename([partial], [self._path(name)])

    def load(self, name: str) -> Any:
        """The value that `dump` wrote."""
        return pickle.loads(self.read(name))

    def dump(self, name: str, value: Any) -> None:
        """Write a value for workers of the same version."""
        self.write(name, pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    def prefix(self, name: str) -> str:
        """The prefix of the files that Beam itself writes under `name`."""
        return self._path(name)

    def read_all(self, name: str) -> bytes:
        """The content of the files that Beam wrote under `name`, in their order."""
        (found,) = FileSystems.match([self._path(name) + "*"])
        return b"".join(_read_uncompressed(path) for path in sorted(file.path for file in found.metadata_list))

    def remove(self) -> None:
        """Remove the folder."""
        FileSystems.delete([self.folder])

    def _path(self, name: str) -> str:
        return FileSystems.join(self.folder, name)


class _Start(NamedTuple):
    """State of a store before the workers began."""

    shards: int
    read: list[tuple[int, int]]  # of each source: documents, and those left out


def _started(staging: _Staging, writer: StoreWriter, sources: int) -> _Start:
    if not staging.has("start"):
        staging.dump("start", _Start(writer.next_shard, [writer.read_of(i) for i in range(sources)]))
    return staging.load("start")


class _Plan:
    """The groups of bundles of each shard."""

    def __init__(self, staging: _Staging, start: _Start, sizes: list[list[int]], shard_size: int, chunk: int) -> None:
        self.staging = staging
        self.start = start
        numbers = iter(range(sum(map(len, sizes))))
        self._bundles = [list(islice(numbers, len(own))) for own in sizes]  # of each source
        self._made = {n: staging.load(_file_name("counts", n)) for n in chain.from_iterable(self._bundles)}
        self._shards = [self._planned(own, shard_size, chunk) for own in self._bundles]
        self._first = [start.shards, *(start.shards + np.cumsum(list(map(len, self._shards)))).tolist()]

    def missing(self, recorded: int) -> list[tuple[int, _Plain]]:
        """Number and texts of each shard that is not written yet and not among those `recorded`."""
        shards = enumerate(chain.from_iterable(self._shards), self.start.shards)
        left = (
            shard for shard in shards if shard[0] >= recorded and not self.staging.has(_file_name("written", shard[0]))
        )
        return [(number, [[tuple(part) for part in text] for text in texts]) for number, texts in left]

    def record(self, source: int, writer: StoreWriter) -> None:
        """Copy the shards of `source`, all of which are written, to the store."""
        for number, texts in enumerate(self._shards[source], self._first[source]):
            if number < writer.next_shard:
                continue
            written: Shard = self.staging.load(_file_name("written", number))
            for name in written.files:
                with whole_file(writer.folder / name) as copy:
                    copy.write_bytes(self.staging.read(name))
            writer.shard(written, *self._count(chain.from_iterable(texts)))
        whole = [Slice(n, 0, len(self._made[n].passages)) for n in self._bundles[source]]
        totals = zip(self.start.read[source], self._count(whole), writer.read_of(source), strict=True)
        documents, left_out = (before + more - now for before, more, now in totals)
        writer.count(documents, left_out)  # those after the last shard

    def _planned(self, own: list[int], shard_size: int, chunk: int) -> list[ShardPlan]:
        shards = plan_shards([self._made[number] for number in own], shard_size, chunk)
        return [[[part._replace(bundle=own[part.bundle]) for part in text] for text in shard] for shard in shards]

    def _count(self, parts: Iterable[Slice]) -> tuple[int, int]:
        """The numbers of documents in `parts` and of those left out."""
        rows = [(self._made[n].documents[start:stop], self._made[n].left_out[start:stop]) for n, start, stop in parts]
        return sum(int(documents.sum()) for documents, _ in rows), sum(int(out.sum()) for _, out in rows)


def _staging(settings: PrepareConfig, folder: Path, made_for: dict[str, Any]) -> _Staging:
    """The folder of the files of one step, named by its settings."""
    key = xxhash.xxh3_128_hexdigest(json.dumps(made_for, sort_keys=True).encode())
    given = settings.staging.rstrip("/")
    return _Staging(f"{given}/{key}" if given else str(folder.absolute() / f"staging-{key}"))


def _bundled(staging: _Staging, sources: Sequence[Iterable[Document]]) -> list[list[int]]:
    """Write the documents of `sources`, if that is not done; return the number of documents of each bundle."""
    if staging.has("bundles"):
        return staging.load("bundles")
    sizes: list[list[int]] = []
    for documents in sources:
        sizes.append([])
        for bundle in bundles(progress(documents, "pass on to the workers", None, "documents"), _BUNDLE):
            staging.write(_file_name("documents", sum(map(len, sizes))), pack_documents(bundle))
            sizes[-1].append(len(bundle))
    staging.dump("bundles", sizes)
    return sizes


def _arrange_bundle(number: int, staging: _Staging) -> None:
    groups = list(_loaded_arrangement(staging)(unpack_documents(staging.read(_file_name("documents", number)))))
    staging.write(_file_name("arranged", number), pack_groups(groups))
    staging.dump(_file_name("counts", number), count_groups(groups))


@lru_cache(maxsize=1)  # it may hold a tokenizer and all titles: loaded once for each worker
def _loaded_arrangement(staging: _Staging) -> Arrange:
    return staging.load("arrangement")


def _write_planned(task: tuple[int, _Plain], staging: _Staging, form: RecordFormat, chunk: int) -> None:
    number, texts = task
    stored = (_entries([Slice(*part) for part in text], staging) for text in texts)
    entries = [entry for text in stored for entry in (cut_lines(text, chunk) if chunk else text)]
    with TemporaryDirectory() as folder:
        written = write_shard(Path(folder), number, entries, form)
        for name in written.files:
            staging.write(name, (Path(folder) / name).read_bytes())
    staging.dump(_file_name("written", number), written)


def _entries(parts: list[Slice], staging: _Staging) -> list[Entry]:
    groups = (
        unpack_groups(staging.read(_file_name("arranged", part.bundle)))[part.start : part.stop] for part in parts
    )
    return [entry for group in chain.from_iterable(groups) for entry in group.entries]


def _members(numbered: tuple[int, int], staging: _Staging, similarity: float) -> Iterator[tuple[bytes, int]]:
    """(bucket, number) for each document of a bundle and each of its buckets."""
    bundle, first = numbered
    of = buckets(similarity)
    for number, document in enumerate(unpack_documents(staging.read(_file_name("documents", bundle))), first):
        yield from ((bucket.to_bytes(8, "big"), number) for bucket in of(document.text))


def _pairs(bucket: tuple[bytes, Iterable[int]]) -> Iterator[str]:
    """The first document of a bucket with each of the others, a line for each."""
    first, *others = sorted(set(bucket[1]))
    return (f"{first} {other}" for other in others)


def _file_name(kind: str, number: int) -> str:
    return f"{kind}-{number:05d}"


def _run_pipeline(options: str, items: Sequence[Any], steps: beam.PTransform) -> None:
    """Run `steps` on `items` with the workers of `options`, and wait for the end."""
    if not items:
        return
    try:
        with beam.Pipeline(options=PipelineOptions(shlex.split(options or _HERE))) as pipeline:
            _ = pipeline | beam.Create(items) | beam.Reshuffle() | steps
    except RuntimeError as error:
        raise MachineError(f"the Beam pipeline failed; the same command continues it:\n{error}") from error


def _read_uncompressed(path: str) -> bytes:
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read()
