"""Folders of results, one for each set of queries or questions: sets of the same name may differ in content.

results/NAME/set.json           name, place and content digest of the set
results/NAME-DIGEST/set.json    the same for another set of that name
"""

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from dense_jax.io import is_written, read_json, short_digest, write_json

_SET = "set.json"


class _ResultSet(TypedDict):
    name: str
    place: str
    content: str


def claim_folder(results: Path, name: str, place: str, content: Any) -> Path:
    """Claim and return the folder in `results` for the set `name`; `content`, a JSON value, identifies the set.

    `place` is the setting that names the set; empty for the workdir's own set.
    """
    about = {"name": name, "place": place, "content": short_digest(content)}
    plain = results / name
    folder = plain if set_of(plain)["content"] in ("", about["content"]) else results / f"{name}-{about['content']}"
    write_json(folder / _SET, about)
    return folder


def suffix(folder: Path) -> str:
    """Return the end of the name of `folder` that distinguishes its set from another one of the same name."""
    return folder.name.removeprefix(set_of(folder)["name"])


def set_of(folder: Path) -> dict[str, str]:
    """Return name, place and content digest of the set that `folder` is claimed for; else its name alone."""
    unknown = {"name": folder.name, "place": "", "content": ""}
    return read_json(folder / _SET, _ResultSet) if is_written(folder / _SET) else unknown
