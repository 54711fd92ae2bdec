"""Folders of results, one for each set of queries or questions: sets of one name and other content lie apart.

results/NAME/set.json           which set it is: its name, its place and a digest of its content
results/NAME-DIGEST/set.json    the same of a further set of that name
"""

from pathlib import Path
from typing import Any

from dense_jax.io import is_written, read_json, short_digest, write_json

_SET = "set.json"


def claim_folder(results: Path, name: str, place: str, content: Any) -> Path:
    """The folder in `results` for the set `name`; `content`, a JSON value, distinguishes it from other sets.

    `place` is the setting that names the set, for people; empty: the set is the workdir's own.
    """
    about = {"name": name, "place": place, "content": short_digest(content)}
    plain = results / name
    folder = plain if set_of(plain)["content"] in ("", about["content"]) else results / f"{name}-{about['content']}"
    write_json(folder / _SET, about)
    return folder


def set_of(folder: Path) -> dict[str, str]:
    """The name, place and digest of the set whose results `folder` holds. Older folders know their names alone."""
    unknown = {"name": folder.name, "place": "", "content": ""}
    return read_json(folder / _SET, _ResultSet) if is_written(folder / _SET) else unknown
