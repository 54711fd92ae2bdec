"""The identity of a run: the settings that it began with and the digests of its data, in WORKDIR/config.json.

The marks of `config/rules.py` say which settings may change later. Paths are compared by the content behind them, so a
workdir or a corpus may move. A record without a checkpoint belongs to a run that never began, and is ignored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict

from dense_jax.config import Config
from dense_jax.config.settings import Setting, settings_of
from dense_jax.config.tree import Difference, changed, completed, rebuilt, to_dict
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.io import Count, Settings, read_json, write_json
from dense_jax.mesh import platform
from dense_jax.processes.multihost import barrier, is_process_0, on_process_0
from dense_jax.train.checkpoint import has_checkpoint

FILE = "config.json"
DIGESTS = "digests"  # the only key of the record that is no setting


class _Recorded(TypedDict):
    batch: NotRequired[Count]
    objective: NotRequired[Settings]
    passages: NotRequired[Settings]
    digests: NotRequired[Settings]  # of the data at the start of the run; no setting


class RunConfig(_Recorded):
    """Content of config.json."""

    seed: NotRequired[int]
    steps: NotRequired[Count]


class FinishedConfig(_Recorded):
    """Content of config.json that reports and later runs need."""

    seed: int
    steps: Count


class Named(NamedTuple):
    """A path among the settings."""

    data: str  # the key of `Data.digests` that it decides
    digest: Callable[[], Any]  # of what the path names now, a JSON value


@dataclass(frozen=True)
class Data:
    """The data of a run by content.

    `digests` (JSON values) belong to the run. `paths` has settings, such as corpus.source, whose path may have changed.
    """

    digests: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, Named] = field(default_factory=dict)


NO_DATA = Data()
_OTHER_CONTENT = " (its content is not what this run began with)"


def recorded(workdir: Path) -> dict[str, Any] | None:
    """The record of a run, its config in the form of `config.tree.to_dict`; None before the first checkpoint."""
    path = workdir / FILE
    return read_json(path, RunConfig) if path.is_file() and has_checkpoint(workdir / "checkpoints") else None


def record(config: Config, workdir: Path, data: Data) -> None:
    """Write the record of a new run, just before its first checkpoint. All processes call it.

    A compute type `auto` is recorded as the type that it stands for: a run goes on with the type that it began with.
    """
    if is_process_0():
        write_json(workdir / FILE, to_dict(_with_compute_types(config)) | {DIGESTS: dict(data.digests)})
    barrier("config.json is written")


def check_continues(config: Config, workdir: Path, data: Data) -> None:
    """Check that training may continue from the checkpoints of `workdir`, if it has any. All processes call it.

    Raises:
        ConfigError: listing the settings and the data that differ.
        DataError: the same, where data alone differ.
        StorageError: checkpoints are present without their config.json.
    """
    _check_identity(config, workdir, data, may_change={"resumable"})


def check_same_parameters(config: Config, workdir: Path, data: Data) -> None:
    """Check that `config` is that of the run of `workdir`, except for settings of search. All processes call it.

    Raises:
        ConfigError: listing the settings that differ.
        DataError: naming the data that differ.
        StorageError: the record of a trained run is missing.
    """
    _check_identity(config, workdir, data, may_change={"resumable", "at_search"})


def _check_identity(config: Config, workdir: Path, data: Data, may_change: set[str]) -> None:
    """Compare with the record; a newer setting, which the record lacks, counts as its default."""
    on_process_0(lambda: _check_recorded(workdir))
    if (theirs := on_process_0(lambda: recorded(workdir))) is None:
        return
    digests = theirs.pop(DIGESTS, {})
    known = {setting.name: setting for setting in settings_of(config)}
    lines = [
        line
        for line in changed(completed(theirs, config), to_dict(_with_compute_types(config)))
        if not (line.name in known and may_change & known[line.name].marks)
        and not (digests and _is_path(line, known) and _same_content(line, digests, data))
    ]
    contents = [*_changed_data(config, digests, data)]
    if lines or contents:
        of_data = [bool(digests) and _is_path(line, known) for line in lines]
        shown = [f"{line}{_OTHER_CONTENT if is_path else ''}" for line, is_path in zip(lines, of_data, strict=True)]
        raise _identity_error(workdir, shown + contents, of_data_alone=all(of_data))


def _with_compute_types(config: Config) -> Config:
    """`config` with each compute type `auto` replaced by the one of the devices."""
    return rebuilt(config, lambda each: each.value.on(platform()) if each.field == "dtype" else each.value)


def _identity_error(workdir: Path, lines: list[str], *, of_data_alone: bool) -> ConfigError | DataError:
    shown = "\n  ".join(lines)
    if of_data_alone:
        return DataError(f"{workdir} was trained on other data; use another --workdir, or put this back:\n  {shown}")
    return ConfigError(
        f"{workdir} was trained with other settings; use another --workdir, or set these back:\n  {shown}"
    )


def _check_recorded(workdir: Path) -> None:
    if not (workdir / FILE).is_file() and has_checkpoint(workdir / "checkpoints"):
        raise StorageError(
            f"{workdir / FILE} is missing: it has the settings that {workdir / 'checkpoints'} was trained with; copy "
            "it from the workdir that the checkpoints are of, or start over by `dense-jax train --restart`"
        )


def _is_path(line: Difference, known: Mapping[str, Setting]) -> bool:
    return line.name in known and known[line.name].place is not None


def _same_content(line: Difference, digests: Mapping[str, Any], data: Data) -> bool:
    """True if a changed path leads to the content that the run began with.

    Paths of the passages alone are not read: the digest of the passages is compared.
    """
    named = data.paths.get(line.name)
    if named is None:
        return line.name.startswith(("corpus.", "spans."))
    return digests.get(named.data) == named.digest()


def _changed_data(config: Config, digests: Mapping[str, Any], data: Data) -> Iterator[str]:
    questions, sources = config.corpus.questions, ", ".join(config.corpus.sources)
    learned = f"corpus.questions={questions}" if questions else f"what is prepared of corpus.source={sources}"
    names = {"passages": learned, "tokenizer": "the tokenizer of the workdir"}
    for key, ours in data.digests.items():
        if key in digests and digests[key] != ours:
            yield f"{names.get(key, key)}: its content is not what this run began with"
