"""The path of data by name: on this machine, in a bucket, or in the cache of published data sets."""

import importlib.util
import os
from pathlib import Path

from etils import epath

from dense_jax.errors import MachineError
from dense_jax.io import AnyPath
from dense_jax.remote.data_sets import HUB, IR, local_data

_BUCKETS = {"gs://": "gcsfs", "s3://": "s3fs"}  # start of a path -> package that reads it


def located(name: str) -> AnyPath:
    """Return the path of `name`: gs://BUCKET/..., s3://BUCKET/..., a published data set, or a path of this machine.

    Raises:
        DataError: there is no such data set (see `data_sets`).
        MachineError: the package that reads it is missing, or the network.
    """
    if name.startswith((HUB, IR)):
        return local_data(name)
    found = next((start for start in _BUCKETS if name.startswith(start)), None)
    if found is None:
        return Path(name).expanduser()
    if importlib.util.find_spec(_BUCKETS[found]) is None:
        raise MachineError(f"{name}: needs {_BUCKETS[found]}; pip install 'dense_jax[{found[:2]}]'")
    return epath.Path(name)


def absolute(name: str) -> AnyPath:
    """`located`, made absolute, so that the path has a name: `.` and `..` have none."""
    path = located(name)
    return Path(os.path.abspath(path)) if isinstance(path, Path) else path  # noqa: PTH100  links keep their names
