"""A process that trains a toy and is killed by SIGKILL at a given point: FOLDER KEEP POINT STEP.

POINT says when, in the save of STEP: `writing` (its folder is there, without its marker), `committed` (the marker is
there, its digests are not) or `sealed` (its digests are there, and older steps are not deleted yet).
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax

from dense_jax.config import CheckpointConfig, Config, OptimizerConfig
from dense_jax.train.checkpoint_files import CheckpointFiles
from tests.programs import train_workdir
from tests.toys import VOCABULARY, BagOfTokens, MemoryStore

STEPS, EVERY = 20, 5


def toy(keep: int = 3, steps: int = STEPS, **settings) -> Config:
    every = CheckpointConfig(every=EVERY, keep=keep)
    return Config(BagOfTokens(), steps, 8, log_every=1, optimizer=OptimizerConfig(0.1), checkpoint=every, **settings)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(step: int) -> None:
    """Dies once Orbax, on a thread of its own, has made the folder, long before it has written all of it."""
    begin = CheckpointFiles.begin

    def begun(self: CheckpointFiles, found: int) -> bool:
        was_taken = begin(self, found)
        if found == step:
            threading.Thread(target=_die_once_there, args=(self.path(step),), daemon=True).start()
        return was_taken

    CheckpointFiles.begin = begun


def _die_once_there(path: Path) -> None:
    while not path.is_dir():
        time.sleep(0)
    die()


def die_before(method: str, step: int) -> None:
    call = getattr(CheckpointFiles, method)

    def called(self: CheckpointFiles, found) -> None:
        if found == step or (method == "delete_all_but" and step in self.steps()):
            die()
        call(self, found)

    setattr(CheckpointFiles, method, called)


def main(folder: str, keep: str, point: str, step: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)  # as in tests/conftest.py, for results that are equal to the last bit
    jax.config.update("jax_default_matmul_precision", "highest")
    if point == "writing":
        die_while_writing(int(step))
    else:
        die_before({"committed": "seal", "sealed": "delete_all_but"}[point], int(step))
    train_workdir(toy(int(keep)), MemoryStore(), VOCABULARY, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
