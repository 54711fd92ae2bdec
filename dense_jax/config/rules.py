"""Rules and marks of single settings, written at their fields: `batch: Positive[int]`, `also: tuple[DataPath, ...]`.

A rule between several settings is a `__post_init__` of the class that has them. Both are checked by
`config.tree.checked`, which knows the full name of each setting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Rule:
    """A range of finite numbers."""

    words: str  # completes "setting=value ..."
    allows: Callable[[float], bool]


@dataclass(frozen=True)
class Place:
    """A name of a file or folder: a leading `~` is the home folder."""

    on_disk: bool  # never in a bucket
    is_model: bool = False  # of this machine, or of the Hugging Face Hub


def at_least(least: float | int) -> Rule:
    """The numbers from `least` on."""
    return Rule(f"must be at least {least}", lambda value: value >= least)


Positive = Annotated[N, Rule("must be positive", lambda value: value > 0)]
NotNegative = Annotated[N, Rule("must not be negative", lambda value: value >= 0)]
Share = Annotated[N, Rule("is not between 0 and 1", lambda value: 0 <= value <= 1)]
ShareAbove0 = Annotated[N, Rule("must lie above 0 and up to 1", lambda value: 0 < value <= 1)]
ShareBelow1 = Annotated[N, Rule("must lie in [0, 1)", lambda value: 0 <= value < 1)]
ShareInside = Annotated[N, Rule("is not between 0 and 1", lambda value: 0 < value < 1)]
Seed = Annotated[int, Rule("must lie in [0, 2**32)", lambda value: 0 <= value < 2**32)]
Length = Annotated[int, Rule("leaves no room for a token between [CLS] and [SEP]; use 3 or more", lambda n: n > 2)]
MeshAxis = Annotated[int, Rule("must be positive, or -1 for all devices that are left", lambda n: n == -1 or n > 0)]

# Marks of settings: the metadata of their fields. A setting without a mark is part of a run's identity (same_run.py).
RESUMABLE = {"resumable": True}  # alters neither the parameters nor the order of examples: may change at any time
IDENTITY = {"resumable": False}  # part of a run's identity in a node that is marked resumable
AT_SEARCH = {"at_search": True}  # alters training examples, and is read at search time: may change after training
PRIVATE = {"private": True}  # never published

DataPath = Annotated[str, Place(on_disk=False)]  # data to read, from a disk or a bucket
DiskPath = Annotated[str, Place(on_disk=True)]  # workdirs, and what verbs wrote
ModelPath = Annotated[str, Place(on_disk=True, is_model=True)]  # a folder, or hf://ORG/NAME[@REVISION]
