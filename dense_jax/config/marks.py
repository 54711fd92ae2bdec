"""Marks of settings: the metadata of their dataclass fields.

    workers: int = field(default=0, metadata=RESUMABLE)
    workdir: str = field(default="", metadata=PATH | RESUMABLE)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=RESUMABLE)  # all of its settings

`train/same_run.py` and `config_tree.py` read them. A setting without a mark belongs to the identity of a run.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

RESUMABLE = {"resumable": True}  # alters neither the parameters nor the order of examples: may change at any time
AT_SEARCH = {"at_search": True}  # alters training examples, and is read at search time: may change after training
PATH = {"path": True}  # names a file or folder: compared by its content, and published without its parents
PRIVATE = {"private": True}  # never published

Marks = frozenset[str]


def marks_of(node: Any, path: str = "", inherited: Marks = frozenset()) -> Iterator[tuple[str, Marks]]:
    """The dotted name and the marks of every setting of a tree of dataclasses, or of the defaults of its class.

    >>> @dataclasses.dataclass
    ... class Loader:
    ...     workers: int = dataclasses.field(default=0, metadata=RESUMABLE | PATH)
    >>> [(name, sorted(marks)) for name, marks in marks_of(Loader)]
    [('workers', ['path', 'resumable'])]
    """
    for field in dataclasses.fields(node):
        name, marks = f"{path}{field.name}", inherited.union(field.metadata)
        value = field.default_factory if isinstance(node, type) else getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from marks_of(value, f"{name}.", marks)
        else:
            yield name, marks
