"""Artifacts: folders that one stage fills and later stages read.

    FOLDER/claim.json      written first: the settings that everything else is made with
           ...             files, each whole or absent, so that an interrupted stage continues
           manifest.json   written last: the claim, the stage's figures, and a digest of each file

A folder without a manifest is unfinished. The same settings continue it, other settings are refused. A file that
differs from its digest is named in an error with the command that makes the folder again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from dense_jax import io
from dense_jax.config.tree import differences
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import Digests, Settings, digest, is_written, read_json, write_json
from dense_jax.processes.multihost import all_gather_objects, all_or_none, process_share

CLAIM, MANIFEST = "claim.json", "manifest.json"


class Claim(TypedDict):
    """Content of claim.json, and the first part of a manifest."""

    settings: Settings


class Manifest(Claim):
    """Content of manifest.json that all artifacts share."""

    files: Digests


def is_finished(folder: Path) -> bool:
    """Return whether `folder` has its manifest."""
    return is_written(folder / MANIFEST)


def read_claim(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a finished folder, the claim of an unfinished one, or None."""
    for name in (MANIFEST, CLAIM):
        if is_written(folder / name):
            return read_json(folder / name, Claim)
    return None


def claim(folder: Path, settings: Settings, notes: Settings | None = None) -> None:
    """Claim `folder` for JSON `settings`, before its first file; `notes` are copied into its manifest.

    Raises:
        ConfigError: the folder is claimed with other settings; lists the differences.
    """
    check_settings(folder, settings)
    if not is_written(folder / CLAIM):
        write_json(folder / CLAIM, {"settings": settings} | ({} if notes is None else {"notes": notes}))


def check_settings(folder: Path, settings: Settings) -> None:
    """
    Raises:
        ConfigError: `folder` is claimed with other settings; lists the differences.
    """
    if found := read_claim(folder):
        refuse_changes(folder, found["settings"], settings)


def refuse_changes(path: Path, before: Settings, settings: Settings) -> None:
    """
    Raises:
        ConfigError: `path` was made with settings `before`, which differ from `settings`; lists the differences.
    """
    if changes := "\n  ".join(differences(content_of(before), content_of(settings))):
        raise ConfigError(
            f"{path} was made with other settings:\n  {changes}\n"
            "use these settings again, or another --workdir, or remove it"
        )


def content_of(settings: Settings) -> Settings:
    """Return `settings` without the name of each file whose digest they hold: a renamed file has the same content.

    >>> content_of({"source": {"name": "old.jsonl", "digest": "5f"}})
    {'source': {'digest': '5f'}}
    """
    if "also" in settings:  # the names are prefixes of the document ids
        return settings
    kept = {key: value for key, value in settings.items() if not (key == "name" and "digest" in settings)}
    return {key: content_of(value) if isinstance(value, dict) else value for key, value in kept.items()}


def finish(folder: Path, figures: Mapping[str, Any], files: Digests) -> None:
    """Write the manifest of a claimed folder: the claim, the stage's `figures` and the digests of its `files`."""
    write_json(folder / MANIFEST, {**read_json(folder / CLAIM, Claim), **figures, "files": files})


def read_manifest(folder: Path, kind: Any, what: str, verb: str) -> dict[str, Any]:
    """Return the manifest of a folder of `what`, of the type `kind`; `dense-jax VERB` makes the folder.

    Raises:
        StorageError: the folder is unfinished, or its manifest is damaged.
    """
    if not is_finished(folder):
        raise StorageError(f"{folder}: holds no finished {what} ({MANIFEST} is missing); run `dense-jax {verb}`")
    return read_json(folder / MANIFEST, kind)


def verify_files(folder: Path, files: Digests, verb: str = "") -> None:
    """Compare `files` of `folder` with their digests. The error names the fix, `dense-jax VERB`, if there is one.

    Raises:
        StorageError: names the first file that is missing or changed.
    """
    try:
        io.verify(folder, files)
    except StorageError as error:
        fix = f"; remove {folder} and run `dense-jax {verb}` again" if verb else ""
        raise StorageError(f"{error}{fix}") from None


def verify_together(folder: Path, files: Digests, verb: str = "") -> None:
    """`verify_files` by all processes, each a share of the files: a corpus's vectors take minutes to read.

    Raises:
        StorageError: on all processes.
    """
    all_or_none(lambda: verify_files(folder, dict(process_share(list(files.items()))), verb))


def digests_together(folder: Path, names: Sequence[str]) -> Digests:
    """Return the digest of each file, in the order of `names`, computed by all processes in shares.

    Raises:
        OSError: a file cannot be read.
    """
    own = all_or_none(lambda: {name: digest(folder / name) for name in process_share(names)})
    found = {name: known for part in all_gather_objects(own) for name, known in part.items()}
    return {name: found[name] for name in names}
