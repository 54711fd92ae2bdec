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
    """Whether this is the process that writes and says what is the same for all."""
    return jax.process_index() == 0


def process_share(items: Sequence[T]) -> Sequence[T]:
    """Those that this process sees to: every n-th where there are n processes."""
    return items[jax.process_index() :: jax.process_count()]


def all_or_none(work: Callable[[], T]) -> T:
    """What `work` gives. If it fails on one process it fails on all, so that none waits for one that is gone.

    `work` must not wait for other processes itself.

    Raises:
        UserError: another process's, with its exit status. An error of this process is raised as it is.
    """
    if jax.process_count() == 1:
        return work()
    result, failed = None, None
    try:
        result = work()
    except Exception as error:
        failed = error
    said = all_gather_objects(failed and _said(failed))
    if failed is not None:
        raise failed
    kinds = {kind.code: kind for kind in UserError.__subclasses__()}
    for number, error in enumerate(said):
        if error is not None:
            raise kinds.get(error["code"], UserError)(f"process {number}: {error['text']}")
    return cast(T, result)


def on_process_0(work: Callable[[], T]) -> T:
    """What `work` gives, a JSON value, which the first process does for all.

    Raises:
        UserError: on all processes, if it fails.
    """
    return all_gather_objects(all_or_none(lambda: work() if is_process_0() else None))[0]


def all_gather_objects(value: Any) -> list[Any]:
    """The JSON value that each process has, in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = all_gather(np.array(len(text), np.int32))
    texts = all_gather(np.pad(text, (0, int(sizes.max()) - len(text))))
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes.tolist(), strict=True)]


def all_gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, which are of one shape and of 32 bits or less, along a new first axis."""
    return array[None] if jax.process_count() == 1 else multihost_utils.process_allgather(array)


def process_0_first(make: Callable[[], T]) -> T:
    """What `make` gives, which does its work once on the disk that all processes share: on the first one."""
    if jax.process_count() > 1:
        all_or_none(lambda: make() if is_process_0() else None)
    return all_or_none(make)


def gather_to_host(params: Params) -> Any:
    """Parameters that this process can place on its own devices."""
    return params if jax.process_count() == 1 else multihost_utils.process_allgather(params, tiled=True)


def barrier(what: str) -> None:
    """Waits until all processes are here; `what` they have in common is named if they are not."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def broadcast(value: int) -> int:
    """The first process's."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_true(value: bool) -> bool:
    """Whether it is true of all processes."""
    return value if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.bool_(value)).all())


def _said(error: Exception) -> dict[str, Any]:
    if isinstance(error, UserError):
        return {"code": error.code, "text": str(error)}
    return {"code": 1, "text": f"{type(error).__name__}: {error}"}
