"""Report on a step compiled for a TPU topology: memory, largest batch, least time and collectives of a chip."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from dense_jax.config import Config
from dense_jax.errors import ConfigError
from dense_jax.mesh import batch_shards, make_mesh
from dense_jax.planning.compiled_step import (
    CompiledStep,
    TooLargeError,
    compile_step,
    slice_count,
    step_cost,
    topology_devices,
    with_plan_defaults,
)
from dense_jax.planning.hlo import Collective, HostTransfer, host_transfers, merge_equal, totals_by_kind
from dense_jax.planning.roofline import BUSY, Chip, find_chip, largest_busy_slice, predict_doublings, roofline
from dense_jax.planning.traffic import traffic_by_line, traffic_table
from dense_jax.terminal import show

_GIB = 2**30
_LARGEST = "largest batch"  # title of a section
_LINES = 16  # collectives with a line of their own; the rest is summed by kind


@dataclass(frozen=True)
class BatchSearch:
    """Batch sizes of a config that were compiled, and the outcome for each."""

    config: Config
    chips: Sequence[Any]
    steps: dict[int, CompiledStep]  # batch -> its step, which fits
    refused: dict[int, str]  # batch -> reason why it does not fit

    def fits(self, batch: int) -> bool:
        """Compile a step of `batch`, record the outcome and return True if it fits."""
        try:
            self.steps[batch] = compile_step(replace(self.config, batch=batch), self.chips)
        except TooLargeError as error:
            self.refused[batch] = error.sizes
        except ConfigError as error:  # other batches may break a rule, such as the queue's
            self.refused[batch] = str(error)
        return batch in self.steps

    @property
    def largest(self) -> int:
        """Largest batch that fits; 0: none fits."""
        return max(self.steps, default=0)

    def __str__(self) -> str:
        lines = [f"{batch:>12,}: {self.steps[batch].peak / _GIB:.2f} GiB" for batch in sorted(self.steps)]
        lines += [f"{batch:>12,}: no, {why}" for batch, why in self.refused.items()]
        return "\n".join([f"{self.largest:,}" if self.largest else "none", *lines])


def plan_report(config: Config, topology: str, words: int, *, traffic: bool = False) -> str:
    """Report on a step of `config`, with a vocabulary of `words`, on each chip of `topology`.

    With `traffic`, it ends in a table of the lines of code whose operations move the most bytes.

    If the step does not fit, the batch is halved until it does, and that report is printed before the error.

    Raises:
        ConfigError: the topology is unknown, mesh or batch do not divide over its chips, or the step does not fit.
        MachineError: the compiler is not installed.
    """
    chip, chips = find_chip(topology), topology_devices(topology, slice_count(config.mesh))
    config = with_plan_defaults(config, words)
    try:
        step = compile_step(config, chips)
    except TooLargeError as error:
        tries = search_smaller(config, chips, error.sizes)
        print(_smaller_report(tries, topology, error.sizes), end="\n\n")  # printed, since the error follows
        raise TooLargeError(config.batch, error.sizes, _advice(tries)) from None
    sections = _sections(step, topology, search_larger(config, chips, step, chip.hbm))
    if traffic:
        sections["memory traffic by line of code"] = traffic_table(traffic_by_line(step.text), chip.bandwidth)
    return _format(sections)


def search_larger(config: Config, chips: Sequence[Any], step: CompiledStep, room: float) -> BatchSearch:
    """Search 2, 4, ..., 64 times the batch of `config`, whose `step` fits into `room` bytes.

    A straight line through the memory of the batch and of its double predicts the largest batch, which is compiled and
    halved until it fits.
    """
    tries, double = BatchSearch(config, chips, {config.batch: step}, {}), 2 * config.batch
    if tries.fits(double):
        small, large = ((batch, tries.steps[batch].peak) for batch in (config.batch, double))
        doublings = predict_doublings(small, large, room)
        _until_one_fits(tries, (double * 2**n for n in range(doublings, 0, -1)))
    return tries


def search_smaller(config: Config, chips: Sequence[Any], sizes: str) -> BatchSearch:
    """Halve the batch of `config`, which does not fit by `sizes`, until a step fits or no half is left."""
    tries = BatchSearch(config, chips, {}, {config.batch: sizes})
    unit = config.chunk or batch_shards(make_mesh(config.mesh, chips))
    _until_one_fits(tries, halvings(config.batch, unit))
    return tries


def halvings(batch: int, unit: int) -> Iterator[int]:
    """Yield half of `batch`, half of that and so on, each rounded down to a multiple of `unit`, the smallest.

    >>> list(halvings(96, unit=8))
    [48, 24, 8]
    """
    while batch := batch // 2 // unit * unit:
        yield batch


def _smaller_report(tries: BatchSearch, topology: str, sizes: str) -> str:
    """Report on the largest half of a batch that fits, or on the batches tried if none does."""
    title = f"a batch of {tries.config.batch:,} does not fit into a chip of {topology}"
    if not tries.largest:
        return _format({title: f"it takes {sizes}, and no half of it fits", _LARGEST: str(tries)})
    first = {title: f"it takes {sizes}; what follows is of a batch of {tries.largest:,}, the largest half that fits"}
    return _format(first | _sections(tries.steps[tries.largest], topology, tries))


def _advice(tries: BatchSearch) -> str:
    if tries.largest:
        return f"use --batch={tries.largest}, which fits,"
    return "no half of it that mesh and chunk allow fits, so use a smaller"


def _format(sections: dict[str, str]) -> str:
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections.items())


def _sections(step: CompiledStep, topology: str, tries: BatchSearch) -> dict[str, str]:
    """Title -> text of the sections of the report on a step that fits."""
    config, mesh = step.program.config, step.program.mesh
    chip, slices = find_chip(topology), slice_count(config.mesh)
    with jax.set_mesh(mesh):
        attention, types = show.attention(step.examples, config.batch), show.compute_types(step.examples)
    sections = {
        f"{topology}{f', {slices} slices' if slices > 1 else ''}: {mesh.size} chips {dict(mesh.shape)}": (
            "the TPU compiler's account of a step, none of it measured"
        ),
        "compute type": types,
        "attention": attention,
        "batch": show.batch(step.examples, config),
        "memory of a chip": _memory(step, chip),
        _LARGEST: str(tries),
        "largest slice that this batch keeps busy": _busy(step, topology),
        "a step takes at least": _times(chip, step_cost(step, config.objective), config.batch),
        "collectives of a step": _sent(step.sent),
    }
    if slices > 1:
        sections["transfers of a chip to its host, for the network between slices"] = _sent(host_transfers(step.text))
    return sections


def _busy(step: CompiledStep, topology: str) -> str:
    """Section on the largest slice with BUSY tokens on each chip."""
    tokens, batch = show.room_for_tokens(step.batch), step.program.config.batch
    found = largest_busy_slice(topology.partition(":")[0], tokens, batch)
    here = f"{tokens:,} tokens with padding, {tokens // step.program.mesh.size:,} on a chip of {topology}"
    if found is None:
        return f"none: {here}, and one chip should have {BUSY:,} or more; use a larger --batch"
    name, chips = found
    return f"{name}, with {tokens // chips:,} tokens on a chip and {BUSY:,} or more wanted; {here}"


def _memory(step: CompiledStep, chip: Chip) -> str:
    state = step.program.like
    parts = {"parameters": state.params, "optimizer state": state.optimizer, "carry": state.carry}
    sizes = {name: show.local_bytes(tree) for name, tree in parts.items()}
    sizes["batch"] = show.whole_bytes(step.batch) // batch_shards(step.program.mesh)
    sizes["activations, gradients and other temporaries"] = step.sizes.temp_size_in_bytes
    sizes["the program itself"] = step.sizes.generated_code_size_in_bytes
    lines = [f"{name:48} {size / 2**20:>10,.1f} MiB" for name, size in sizes.items()]
    share = f"{step.peak / chip.hbm:.0%} of {chip.hbm / _GIB:.2f} GiB"
    return "\n".join([*lines, f"{'all, as the compiler laid it out':48} {step.peak / 2**20:>10,.1f} MiB, {share}"])


def _times(chip: Chip, cost: tuple[float, float, float], batch: int) -> str:
    """Section on the roofline of a `step_cost`."""
    flops, traffic, sent = cost
    times = roofline(chip, *cost)
    what = {
        "compute": f"{flops / 1e12:,.3f} model TFLOP at {chip.flops / 1e12:,.0f} TFLOP/s",
        "memory": f"{traffic / 1e9:,.2f} GB at {chip.bandwidth / 1e9:,.0f} GB/s",
        "interconnect": f"{sent / 1e9:,.3f} GB at {chip.links / 1e9:,.0f} GB/s, were the slice a whole torus",
    }
    lines = [f"{name:14} {getattr(times, name) * 1e3:>10,.2f} ms  {text}" for name, text in what.items()]
    rate = f"{batch / times.seconds:,.0f} examples/s, {times.compute / times.seconds:.0%} of the peak"
    return "\n".join([*lines, f"bound by {times.bound}: at most {rate}"])


def _sent(found: Sequence[Collective | HostTransfer]) -> str:
    ordered = merge_equal(found)
    lines = [
        f"{one!s:32} {one.times:>5} x {one.size:>15,} bytes = {one.size * one.times / 1e6:>12,.2f} MB"
        for one in ordered[:_LINES]
    ]
    rest = [
        f"{f'smaller ones, {kind}':32} {count:>5} x {'':21} = {size / 1e6:>12,.2f} MB"
        for kind, (count, size) in totals_by_kind(ordered[_LINES:]).items()
    ]
    return "\n".join([*lines, *rest])


def _until_one_fits(tries: BatchSearch, batches: Iterator[int]) -> None:
    for batch in batches:
        if tries.fits(batch):
            break
