"""The command that a finished verb leads to, for the user to copy."""

import shlex
from pathlib import Path

from dense_jax.config import Config
from dense_jax.config.remembered import is_remembered
from dense_jax.train.metrics_files import has_trained
from dense_jax.types import QAExample

_QUERY, _QUESTION = "search 'a query'", "answer 'a question'"


def next_command(verb: str, workdir: Path, config: Config, out: Path | None = None) -> str:
    """The next command with the same workdir; empty where nothing follows, or the workdir remembers no config."""
    following = _following(verb, workdir, config)
    if not following or not is_remembered(workdir):
        return ""
    name, *words = following.split(maxsplit=1)
    flags = shlex.join([f"--workdir={workdir}", *([f"--out={out}"] if out else [])])
    return " ".join(["dense-jax", name, flags, *words])


def _following(verb: str, workdir: Path, config: Config) -> str:
    match verb:
        case "prepare" | "show" if config.steps and not has_trained(workdir):
            return "train"
        case "prepare" | "show" | "train":
            return _first_use(config)
        case "embed":
            return "index"
        case "index":
            return _QUESTION if config.objective.learns_from is QAExample else _QUERY
        case "evaluate":
            return "report"
        case "report":
            return "export"
    return ""


def _first_use(config: Config) -> str:
    """The first verb that uses a trained model."""
    if config.objective.learns_from is QAExample:
        return _QUESTION
    return "evaluate" if config.corpus.held_out or config.evaluate.folder else _QUERY
