"""Pre-training of dense text retrievers: `Run`, a workdir and its stages, `load_config`, and `average` of models.

>>> import dense_jax
>>> dense_jax.load_config("ict:tiny", {"batch": 64}).config.batch
64
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dense_jax.averages import average
    from dense_jax.config.overrides import load_config
    from dense_jax.run import Run

__all__ = ["Run", "average", "load_config"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: JAX takes seconds, which the command line's mistakes need not wait for."""
    if name == "Run":
        from dense_jax.run import Run

        return Run
    if name == "load_config":
        from dense_jax.config.overrides import load_config

        return load_config
    if name == "average":
        from dense_jax.averages import average

        return average
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
