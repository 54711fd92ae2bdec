"""Files that several processes read in shares, each every n-th of them: a corpus's vectors take minutes to read."""

from collections.abc import Sequence
from pathlib import Path

from dense_jax.io import digest, verify
from dense_jax.multihost import all_gather_objects, all_or_none, process_share


def digests_together(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Name -> digest of each file, in the order of `names`, on all processes.

    Raises:
        OSError: a file cannot be read.
    """
    own = all_or_none(lambda: {name: digest(folder / name) for name in process_share(names)})
    found = {name: known for part in all_gather_objects(own) for name, known in part.items()}
    return {name: found[name] for name in names}


def verify_together(folder: Path, expected: dict[str, str]) -> None:
    """Checks every file of `expected` against its digest.

    Raises:
        StorageError: on all processes, naming a file that is missing or changed.
    """
    all_or_none(lambda: verify(folder, dict(process_share(list(expected.items())))))
