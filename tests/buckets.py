"""A folder in the place of the network's file system."""

import io

from etils import epath
from fsspec.implementations.local import LocalFileSystem

from dense_jax.remote import paths


class BucketFile(io.RawIOBase):
    """A file as the network's file systems open it: it reads no line up to a length."""

    def __init__(self, file):
        self.file = file

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        return self.file.readinto(buffer)

    def seek(self, place, whence=0):
        return self.file.seek(place, whence)

    def tell(self):
        return self.file.tell()

    def readline(self):
        return super().readline()

    def close(self):
        self.file.close()
        super().close()


def bucket_in(folder, monkeypatch):
    """The folder, in `folder`, that s3://bucket is from now on."""

    class Bucket(LocalFileSystem):
        protocol = "s3"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return str(path).replace("s3:/", str(folder), 1).rstrip("/")

        def open(self, path, mode="rb", **settings):
            found = super().open(path, mode, **settings)
            return BucketFile(found) if mode == "rb" else found

        def glob(self, path, **settings):
            return [found.removeprefix(f"{folder}/") for found in super().glob(path, **settings)]

    monkeypatch.setitem(paths._BUCKETS, "s3://", "fsspec")
    monkeypatch.setattr(epath.backend.fsspec_backend, "_get_filesystem", lambda name: Bucket())
    return folder / "bucket"
