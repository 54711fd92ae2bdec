"""The largest batch whose step fits into a chip, found by compiling few of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dense_jax.config import Config
from dense_jax.errors import ConfigError
from dense_jax.mesh import batch_shards, make_mesh
from dense_jax.planning.compiled_step import CompiledStep, TooLargeError, compile_step
from dense_jax.planning.roofline import predict_doublings

_GIB = 2**30


@dataclass(frozen=True)
class Tries:
    """What came of the batches of a config that were compiled."""

    config: Config
    chips: Sequence[Any]
    steps: dict[int, CompiledStep]  # batch -> its step, which fits
    refused: dict[int, str]  # batch -> why it does not

    def fits(self, batch: int) -> bool:
        """Compiles one more."""
        try:
            self.steps[batch] = compile_step(replace(self.config, batch=batch), self.chips)
        except TooLargeError as error:
            self.refused[batch] = error.sizes
        except ConfigError as error:  # of a rule that other batches break, such as a queue's
            self.refused[batch] = str(error)
        return batch in self.steps

    @property
    def largest(self) -> int:
        """That fits; 0: none."""
        return max(self.steps, default=0)

    def __str__(self) -> str:
        lines = [f"{batch:>12,}: {self.steps[batch].peak / _GIB:.2f} GiB" for batch in sorted(self.steps)]
        lines += [f"{batch:>12,}: no, {why}" for batch, why in self.refused.items()]
        return "\n".join([f"{self.largest:,}" if self.largest else "none", *lines])


def doubled(config: Config, chips: Sequence[Any], step: CompiledStep, room: float) -> Tries:
    """1, 2, 4, ..., 64 times the batch of `config`, whose `step` fits into `room` bytes.

    How memory grows is taken from the batch and its double. What follows from it is compiled, and halved until it fits.
    """
    tries, double = Tries(config, chips, {config.batch: step}, {}), 2 * config.batch
    if tries.fits(double):
        small, large = ((batch, tries.steps[batch].peak) for batch in (config.batch, double))
        doublings = predict_doublings(small, large, room)
        _until_one_fits(tries, (double * 2**n for n in range(doublings, 0, -1)))
    return tries


def halved(config: Config, chips: Sequence[Any], sizes: str) -> Tries:
    """Halves of the batch of `config`, which does not fit by `sizes`: down to the first that does, if there is one."""
    tries = Tries(config, chips, {}, {config.batch: sizes})
    unit = config.chunk or batch_shards(make_mesh(config.mesh, chips))
    _until_one_fits(tries, halves(config.batch, unit))
    return tries


def halves(batch: int, unit: int) -> Iterator[int]:
    """Half of `batch`, half of that and so on, each rounded down to a multiple of `unit`, which is the least.

    >>> list(halves(96, unit=8))
    [48, 24, 8]
    """
    while batch := batch // 2 // unit * unit:
        yield batch


def _until_one_fits(tries: Tries, batches: Iterator[int]) -> None:
    for batch in batches:
        if tries.fits(batch):
            break
