"""Strictness for the whole suite: eight CPU devices, exact matmuls, checked shapes, warnings that fail."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # tests compile much and compute little

from jaxtyping import install_import_hook

install_import_hook("dense_jax", "beartype.beartype")  # before anything imports the package

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Float64 for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
