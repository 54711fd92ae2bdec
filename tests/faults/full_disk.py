"""Disks that are really full: a small one of memory where root may mount it, a limit on the size of files elsewhere."""

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest


@contextlib.contextmanager
def largest_file(count: int) -> Iterator[None]:
    """The block can write no file of more than `count` bytes, and JAX does not try to cache what it compiles."""
    before, least = resource.getrlimit(resource.RLIMIT_FSIZE), jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


@contextlib.contextmanager
def mounted(folder: Path, count: int) -> Iterator[Path]:
    """A disk of `count` bytes at `folder`; the test is skipped where it cannot be mounted."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={count}", "none", folder], capture_output=True)
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def make_read_only(disk: Path) -> None:
    """Mounts a disk of `mounted` again, so that nothing below it can be written, by root neither."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


def enlarge(disk: Path, count: int) -> None:
    """Gives a disk of `mounted` room for `count` bytes."""
    subprocess.run(["mount", "-o", f"remount,size={count}", disk], check=True)
