"""The workers of an Apache Beam pipeline, and the files that pass between its steps, on a disk or in a bucket."""

import pickle
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dense_jax.errors import MachineError

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


@dataclass(frozen=True)
class Staging:
    """A folder of files that are whole or absent."""

    folder: str

    def has(self, name: str) -> bool:
        return FileSystems.exists(self._path(name))

    def read(self, name: str) -> bytes:
        return _content(self._path(name))

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
        return b"".join(_content(path) for path in sorted(file.path for file in found.metadata_list))

    def remove(self) -> None:
        """Remove the folder."""
        FileSystems.delete([self.folder])

    def _path(self, name: str) -> str:
        return FileSystems.join(self.folder, name)


def run(options: str, items: Sequence[Any], steps: beam.PTransform) -> None:
    """Run `steps` on `items` with the workers of `options`, and wait for the end.

    Raises:
        MachineError: the pipeline failed.
    """
    if not items:
        return
    try:
        with beam.Pipeline(options=PipelineOptions(shlex.split(options or _HERE))) as pipeline:
            _ = pipeline | beam.Create(items) | beam.Reshuffle() | steps
    except RuntimeError as error:
        raise MachineError(f"the Beam pipeline failed; the same command continues it:\n{error}") from error


def _content(path: str) -> bytes:
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read()
