"""What a training step takes of each chip of TPUs that are not here, in words: by the compiler's own account."""

from collections.abc import Sequence

import jax

from dense_jax import show
from dense_jax.config import Config
from dense_jax.mesh import batch_shards
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
from dense_jax.planning.roofline import Chip, find_chip, roofline

_GIB = 2**30
_LARGEST = "largest batch"  # title of a section
_LINES = 16  # of collectives, before those that send little are summed up by their kind


def plan_report(config: Config, topology: str, words: int) -> str:
    """What a step of `config` with a vocabulary of `words` takes of each chip of `topology`.

    Of a step that does not fit, what the largest half of its batch that does takes is printed before the error.

    Raises:
        ConfigError: there is no such topology, its chips do not share mesh or batch, or a step does not fit into them.
        MachineError: the compiler is not installed.
    """
    chip, chips = find_chip(topology), topology_devices(topology, slice_count(config.mesh))
    config = with_plan_defaults(config, words)
    try:
        step = compile_step(config, chips)
    except TooLargeError as error:
        tries = search_smaller(config, chips, error.sizes)
        print(_plan_of_less(tries, topology, error.sizes), end="\n\n")  # what raises cannot return it
        raise TooLargeError(config.batch, error.sizes, _advice(tries)) from None
    return _told(_sections(step, topology, search_larger(config, chips, step, chip.hbm)))


def _plan_of_less(tries: BatchSearch, topology: str, sizes: str) -> str:
    """Of the largest half of a batch that fits; of a batch of which no half fits, what was tried."""
    title = f"a batch of {tries.config.batch:,} does not fit into a chip of {topology}"
    if not tries.largest:
        return _told({title: f"it takes {sizes}, and no half of it fits", _LARGEST: str(tries)})
    first = {title: f"it takes {sizes}; what follows is of a batch of {tries.largest:,}, the largest half that fits"}
    return _told(first | _sections(tries.steps[tries.largest], topology, tries))


def _advice(tries: BatchSearch) -> str:
    if tries.largest:
        return f"use --batch={tries.largest}, which fits,"
    return "no half of it that mesh and chunk allow fits, so use a smaller"


def _told(sections: dict[str, str]) -> str:
    return "\n\n".join(f"== {title}\n{text}" for title, text in sections.items())


def _sections(step: CompiledStep, topology: str, tries: BatchSearch) -> dict[str, str]:
    """Title -> text, of a step that fits."""
    config, mesh = step.program.config, step.program.mesh
    chip, slices = find_chip(topology), slice_count(config.mesh)
    with jax.set_mesh(mesh):
        attention = show.attention(step.examples, config.batch)
    sections = {
        f"{topology}{f', {slices} slices' if slices > 1 else ''}: {mesh.size} chips {dict(mesh.shape)}": (
            "the TPU compiler's account of a step, none of it measured"
        ),
        "attention": attention,
        "batch": show.batch(step.examples, config),
        "memory of a chip": _memory(step, chip),
        _LARGEST: str(tries),
        "a step takes at least": _times(chip, step_cost(step, config.objective), config.batch),
        "collectives of a step": _sent(step.sent),
    }
    if slices > 1:
        sections["handed to the hosts, for the network between slices, by a chip"] = _sent(host_transfers(step.text))
    return sections


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


def _times(chip: Chip, taken: tuple[float, float, float], batch: int) -> str:
    """Of what `step_cost` says."""
    flops, through, sent = taken
    times = roofline(chip, *taken)
    what = {
        "compute": f"{flops / 1e12:,.3f} model TFLOP at {chip.flops / 1e12:,.0f} TFLOP/s",
        "memory": f"{through / 1e9:,.2f} GB at {chip.bandwidth / 1e9:,.0f} GB/s",
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
