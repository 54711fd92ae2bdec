"""Names of files and folders among the settings: on this machine, in a bucket, or of data that need no path."""

import os
from typing import Any

from dense_jax.remote.data_sets import HUB, IR

INSTALLED = "installed"  # the corpus that is the documentation of the installed packages
_BUCKETS = ("gs://", "s3://")
_ELSEWHERE = ("tfds:", HUB, IR, *_BUCKETS)  # how the names of data begin that are no paths of this machine


def expanded(value: Any) -> Any:
    """A place, or several, with the home folder in place of a leading `~`."""
    home = os.path.expanduser  # Path.expanduser would make "." of "", and s3:/ of s3://
    return tuple(map(home, value)) if isinstance(value, tuple) else home(value)


def is_on_this_machine(place: str) -> bool:
    """True for the name of a file or folder; False for data of another kind, in a bucket, and for no name at all."""
    return bool(place) and place != INSTALLED and not place.startswith(_ELSEWHERE)


def in_full(value: Any) -> Any:
    """A place, or several, with the absolute path of what is on this machine."""
    if isinstance(value, tuple):
        return tuple(map(in_full, value))
    return os.path.abspath(expanded(value)) if is_on_this_machine(value) else value  # noqa: PTH100  links keep their names


def bucket_problem(name: str, setting: str) -> str:
    """The problem with a `setting` of a model or a workdir whose `name` is in a bucket; empty for any other name."""
    if not name.startswith(_BUCKETS):
        return ""
    return (
        f"{setting}={name} is in a bucket, where data can be, but no model or workdir; mount the bucket and name the "
        "mounted folder"
    )
