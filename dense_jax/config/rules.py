"""Rules and marks of single settings, written at their fields: `batch: Positive[int]`, `also: tuple[DataPath, ...]`.

A rule between several settings is a `__post_init__` of the class that has them. Both are checked by
`config.tree.checked`, which knows the full name of each setting.
"""

import dataclasses
import math
import os
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from dense_jax.errors import ConfigError
from dense_jax.io import check_on_disk

N = TypeVar("N", int, float)
INSTALLED = "installed"  # the corpus that is the documentation of the installed packages
_ELSEWHERE = ("tfds:", "gs://", "s3://")  # how the names of data begin that are no paths of this machine


@dataclass(frozen=True)
class Rule:
    """A range of finite numbers."""

    words: str  # completes "setting=value ..."
    allows: Callable[[float], bool]


@dataclass(frozen=True)
class Place:
    """A name of a file or folder: a leading `~` is the home folder."""

    on_disk: bool  # never in a bucket


def at_least(least: float | int) -> Rule:
    return Rule(f"must be at least {least}", lambda value: value >= least)


Finite = Annotated[N, Rule("must be a finite number", lambda value: True)]
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
AT_SEARCH = {"at_search": True}  # alters training examples, and is read at search time: may change after training
PRIVATE = {"private": True}  # never published

DataPath = Annotated[str, Place(on_disk=False)]  # data to read, from a disk or a bucket
DiskPath = Annotated[str, Place(on_disk=True)]  # models and workdirs


@dataclass(frozen=True)
class Setting:
    """One leaf of a tree of settings."""

    name: str  # in full, such as optimizer.warmup
    hint: Any  # its type, with its notes
    value: Any = None  # None in a tree of classes
    marks: frozenset[str] = frozenset()  # of its field, and of the fields of the classes that it is in
    default: Any = None  # of its field

    @property
    def field(self) -> str:
        """The name of its field: the last part of its full name."""
        return self.name.rpartition(".")[2]

    @property
    def type(self) -> Any:
        """Its type, without notes."""
        return _bare(self.hint)

    @property
    def notes(self) -> tuple[Any, ...]:
        """Its rules and its kind of place: those of the elements, if it is a tuple."""
        hint = self.hint
        if typing.get_origin(hint) is tuple:
            hint = typing.get_args(hint)[0]
        return getattr(hint, "__metadata__", ())

    @property
    def place(self) -> Place | None:
        return next((note for note in self.notes if isinstance(note, Place)), None)

    def problem(self) -> str:
        """The rule that its value breaks, as `setting=value must ...`; empty: none."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        for value in values:
            for note in self.notes:
                if isinstance(note, Rule) and (words := _broken(note, value, self._whole)):
                    return f"{self.name}={value} {words}"
                if isinstance(note, Place) and note.on_disk and (words := _in_bucket(value, self.name)):
                    return words
        return ""

    @property
    def _whole(self) -> bool:
        return int in (self.type, *typing.get_args(self.type))


def settings(node: Any, path: str = "", marks: frozenset[str] = frozenset()) -> Iterator[Setting]:
    """The leaves of a tree of settings, in the order of their fields; of a class the fields whose types it knows.

    >>> @dataclass
    ... class Loader:
    ...     workers: NotNegative[int] = dataclasses.field(default=0, metadata=RESUMABLE)
    >>> [(setting.name, *setting.marks) for setting in settings(Loader)]
    [('workers', 'resumable')]
    """
    for setting in fields_of(node, path, marks):
        inner = setting.value if dataclasses.is_dataclass(setting.value) else setting.type
        if dataclasses.is_dataclass(inner):
            yield from settings(inner, f"{setting.name}.", setting.marks)
        else:
            yield setting


def fields_of(node: Any, path: str = "", marks: frozenset[str] = frozenset()) -> Iterator[Setting]:
    """The fields of one node or of one class: its leaves and the nodes below it."""
    owner = node if isinstance(node, type) else type(node)
    hints = typing.get_type_hints(owner, include_extras=True)
    for field in dataclasses.fields(owner):
        value = None if isinstance(node, type) else getattr(node, field.name)
        yield Setting(f"{path}{field.name}", hints[field.name], value, marks.union(field.metadata), field.default)


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


def _broken(rule: Rule, value: Any, whole: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
        return "is not a whole number" if whole else "is not a number"
    return "" if math.isfinite(value) and rule.allows(value) else rule.words


def _in_bucket(value: str, name: str) -> str:
    try:
        check_on_disk(value, name)
    except ConfigError as error:
        return str(error)
    return ""


def _bare(hint: Any) -> Any:
    """A type without notes, at any depth."""
    if typing.get_origin(hint) is Annotated:
        return _bare(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        return tuple[tuple(arg if arg is ... else _bare(arg) for arg in typing.get_args(hint))]  # pyright: ignore
    return hint
