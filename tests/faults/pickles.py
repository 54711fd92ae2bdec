"""A file that runs code where it is unpickled: it makes a canary."""

import pickle
from pathlib import Path


class _Touches:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def write_pickle(path: Path) -> Path:
    """Replaces `path` by such a pickle, and returns the canary."""
    canary = path.parent / "canary"
    path.write_bytes(pickle.dumps(_Touches(canary)))
    return canary
