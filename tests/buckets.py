"""A folder in the place of the network's file system."""

from etils import epath
from fsspec.implementations.local import LocalFileSystem

from dense_jax import io


def bucket_in(folder, monkeypatch):
    """The folder, in `folder`, that s3://bucket is from now on."""

    class Bucket(LocalFileSystem):
        protocol = "s3"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return str(path).replace("s3:/", str(folder), 1).rstrip("/")

        def glob(self, path, **settings):
            return [found.removeprefix(f"{folder}/") for found in super().glob(path, **settings)]

    monkeypatch.setitem(io._BUCKETS, "s3://", "fsspec")
    monkeypatch.setattr(epath.backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
    return folder / "bucket"
