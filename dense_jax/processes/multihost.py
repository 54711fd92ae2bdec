"""Multi-host helpers: work on process 0, collectives over Python objects, and errors that reach every process.

An error on one process would leave the others waiting for it. So work that may fail on one, such as reading a file,
runs in `all_or_none` or `on_process_0`, which raise it on every process. A lone process skips all communication.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from dense_jax.arrays import Params
from dense_jax.errors import UserError

T = TypeVar("T")


def is_process_0() -> bool:
    """Return True in the process that writes files and messages for all."""
    return jax.process_index() == 0


def process_share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share of `items`: every n-th of n processes."""
    return items[jax.process_index() :: jax.process_count()]


def all_or_none(work: Callable[[], T]) -> T:
    """Call `work` on every process and return its result; if it fails on one process, raise on all of them.

    Otherwise the other processes would wait for the failed one. `work` must not wait for other processes itself.

    Raises:
        UserError: the error of another process, with its exit status. An error of this process is raised unchanged.
    """
    if jax.process_count() == 1:
        return work()
    result, failed = None, None
    try:
        result = work()
    except Exception as error:
        failed = error
    errors = all_gather_objects(failed and _error_fields(failed))
    if failed is not None:
        raise failed
    kinds = {kind.code: kind for kind in UserError.__subclasses__()}
    for number, error in enumerate(errors):
        if error is not None:
            raise kinds.get(error["code"], UserError)(f"process {number}: {error['text']}")
    return cast(T, result)


def on_process_0(work: Callable[[], T]) -> T:
    """Call `work` on process 0 and return its result, a JSON value, on all processes.

    Raises:
        UserError: `work` failed; raised on all processes.
    """
    return all_gather_objects(all_or_none(lambda: work() if is_process_0() else None))[0]


def all_gather_objects(value: Any) -> list[Any]:
    """Gather a JSON value from each process, in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = all_gather(np.array(len(text), np.int32))
    texts = all_gather(np.pad(text, (0, int(sizes.max()) - len(text))))
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes.tolist(), strict=True)]


def all_gather(array: np.ndarray) -> np.ndarray:
    """Stack the arrays of all processes along a new first axis. They have one shape, and types of at most 32 bits."""
    return array[None] if jax.process_count() == 1 else multihost_utils.process_allgather(array)


def process_0_first(make: Callable[[], T]) -> T:
    """Call `make` on process 0, then on all: it does its work once on the shared disk, and the others find it done."""
    if jax.process_count() > 1:
        all_or_none(lambda: make() if is_process_0() else None)
    return all_or_none(make)


def gather_to_host(params: Params) -> Any:
    """Gather sharded parameters into arrays that this process can place on its own devices."""
    return params if jax.process_count() == 1 else multihost_utils.process_allgather(params, tiled=True)


def barrier(name: str) -> None:
    """Wait until all processes reach the barrier `name`, which appears in JAX's error if one does not."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(value: int) -> int:
    """Return the value of process 0."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_true(value: bool) -> bool:
    """Return True if `value` is true on all processes."""
    return value if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(value)).all())


def _error_fields(error: Exception) -> dict[str, Any]:
    if isinstance(error, UserError):
        return {"code": error.code, "text": str(error)}
    return {"code": 1, "text": f"{type(error).__name__}: {error}"}
