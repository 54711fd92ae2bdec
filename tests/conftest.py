"""Strictness for the whole suite: eight CPU devices, exact matmuls, checked shapes, warnings that fail."""

import gc
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests compile much and compute little: these flags divide the time of a compilation by three. Without fused
# multiply-adds (no AVX2), rounding does not depend on which operations XLA puts into one kernel.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_max_isa=AVX",
    )
)
# Programs that an earlier run or another process compiled are read back: half of the time is compilation.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest
from jaxtyping import install_import_hook

# Tracing makes many short-lived objects, and the collector would go through all of JAX for them again and again.
gc.set_threshold(50_000, 20, 20)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption(
        "--no-type-checks",
        action="store_true",
        help="do not compare arguments and results with their annotations, which takes a third of the time",
    )


def pytest_configure(config):
    if not config.getoption("--no-type-checks"):
        install_import_hook("dense_jax", "beartype.beartype")  # before anything imports the package


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # modules and test items stay


@pytest.fixture
def x64():
    """Float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def read_by_transformers():
    """The tokenizer that transformers makes of a folder; its import takes seconds."""
    from transformers import AutoTokenizer

    return lambda folder: AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="session")
def together():
    """Two or four processes that are started once: `together(2).do(task, folder)`."""
    from tests.processes import Processes

    started = {}

    def processes(count):
        if count not in started:
            started[count] = Processes(count)
        return started[count]

    yield processes
    assert [one for running in started.values() for one in running.end() if one.status] == []


@pytest.fixture
def shared_programs(monkeypatch):
    """Runs with the same steps share one program, which is traced and compiled once."""
    from tests.programs import shared_program

    monkeypatch.setattr("dense_jax.train.loop.make_program", shared_program)
