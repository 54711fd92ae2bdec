"""A workdir belongs to one run: what it was trained with is recorded, and another config is refused."""

from pathlib import Path

from dense_jax.agreement import is_first, together
from dense_jax.config import Config
from dense_jax.config_tree import completed, differences, to_dict
from dense_jax.errors import ConfigError
from dense_jax.files import read_json, write_json
from dense_jax.schemas import RunConfig

# Settings that may change when a run continues: they alter neither the parameters nor the order of examples.
FREE_TO_CHANGE = ("answer.", "checkpoint.", "diagnose_every", "embed.", "evaluate.", "index.", "loader.prefetch",
                  "loader.workers", "log_every", "mesh.", "mine.", "neighbours.ahead", "neighbours.keep",
                  "neighbours.max_staleness", "neighbours.patience", "neighbours.stale", "passages.workdir", "prepare.",
                  "probe.", "search.")  # fmt: skip


def check_same_run(config: Config, workdir: Path) -> None:
    """Records `config` in a new workdir; refuses one that was made with another. To be called by all processes.

    A setting that the record lacks, since it is newer, counts as having its default there.

    Raises:
        ConfigError: listing the settings that differ.
    """
    path, ours = workdir / "config.json", to_dict(config)
    if is_first() and not path.exists():
        write_json(path, ours)
    together("config.json is written")
    lines = differences(completed(read_json(path, RunConfig), config), ours)
    changed = [line for line in lines if not line.startswith(FREE_TO_CHANGE)]
    if changed:
        raise ConfigError(
            f"{workdir} was trained with other settings; use another --workdir, or set these back:\n  "
            + "\n  ".join(changed)
        )
