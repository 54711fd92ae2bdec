"""One setting of a config, the rule that its value breaks, and the walk over all settings of a tree."""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from dense_jax.config.places import bucket_problem
from dense_jax.config.rules import Place, Rule


@dataclass(frozen=True)
class Setting:
    """One leaf of a tree of settings."""

    name: str  # in full, such as optimizer.warmup
    hint: Any  # its type, with its notes
    value: Any = None  # None in a tree of classes
    marks: frozenset[str] = frozenset()  # of its field, and of the fields of the classes that it is in
    default: Any = None  # of its field
    owner: type | None = None  # the class that its field is of

    @property
    def field(self) -> str:
        """The name of its field: the last part of its full name."""
        return self.name.rpartition(".")[2]

    @property
    def type(self) -> Any:
        """Its type, without notes."""
        return _without_notes(self.hint)

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
                if isinstance(note, Place) and note.on_disk and (words := bucket_problem(value, self.name)):
                    return words
        return ""

    @property
    def _whole(self) -> bool:
        return int in (self.type, *typing.get_args(self.type))


def settings_of(node: Any, path: str = "", marks: frozenset[str] = frozenset()) -> Iterator[Setting]:
    """The leaves of a tree of settings, in the order of their fields; of a class the fields whose types it knows.

    >>> from dense_jax.config.rules import RESUMABLE, NotNegative
    >>> @dataclass
    ... class Loader:
    ...     workers: NotNegative[int] = dataclasses.field(default=0, metadata=RESUMABLE)
    >>> [(setting.name, *setting.marks) for setting in settings_of(Loader)]
    [('workers', 'resumable')]
    """
    for setting in fields_of(node, path, marks):
        inner = setting.value if dataclasses.is_dataclass(setting.value) else setting.type
        if dataclasses.is_dataclass(inner):
            yield from settings_of(inner, f"{setting.name}.", setting.marks)
        else:
            yield setting


def fields_of(node: Any, path: str = "", marks: frozenset[str] = frozenset()) -> Iterator[Setting]:
    """The fields of one node or of one class: its leaves and the nodes below it."""
    owner = node if isinstance(node, type) else type(node)
    hints = typing.get_type_hints(owner, include_extras=True)
    for field in dataclasses.fields(owner):
        value = None if isinstance(node, type) else getattr(node, field.name)
        yield Setting(
            f"{path}{field.name}", hints[field.name], value, _marks(marks, field.metadata), field.default, owner
        )


def _marks(above: frozenset[str], metadata: Mapping[str, bool]) -> frozenset[str]:
    """Return the marks of a field: those of the node above it, with what its metadata adds or takes away."""
    return above.union(metadata).difference(mark for mark, holds in metadata.items() if not holds)


def _broken(rule: Rule, value: Any, whole: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
        return "is not a whole number" if whole else "is not a number"
    return "" if math.isfinite(value) and rule.allows(value) else rule.words


def _without_notes(hint: Any) -> Any:
    """A type without notes, at any depth."""
    if typing.get_origin(hint) is Annotated:
        return _without_notes(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        return tuple[tuple(arg if arg is ... else _without_notes(arg) for arg in typing.get_args(hint))]  # pyright: ignore
    return hint
