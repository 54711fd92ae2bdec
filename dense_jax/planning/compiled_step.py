"""Ahead-of-time compilation of a training step for TPUs that need not be attached.

Nothing is run and no corpus is needed: synthetic examples have the same shapes.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from jax.experimental import topologies

from dense_jax.arrays import Batch
from dense_jax.config import Config, MeshConfig, Order
from dense_jax.config.tree import with_vocabulary
from dense_jax.data.pipeline import Examples, check_rows
from dense_jax.errors import ConfigError, MachineError, first_line
from dense_jax.mesh import batch_shards
from dense_jax.models.transformer import model_configs
from dense_jax.planning.hlo import Collective, collectives, memory_traffic
from dense_jax.planning.roofline import find_chip
from dense_jax.planning.synthetic import SyntheticPassages, synthetic_vocabulary
from dense_jax.terminal import show
from dense_jax.train.flops import model_flops
from dense_jax.train.loop import Program, make_program

_SIZES = re.compile(r"(?:required for [^()]*\(|Used )([\d.]+[KMGT])\)? (?:exceeds available HBM \(|of )([\d.]+[KMGT])")


class TooLargeError(ConfigError):
    """The step does not fit into the memory of a chip; `sizes` names the memory it needs and the memory of a chip."""

    def __init__(self, batch: int, sizes: str, advice: str = "use a smaller --batch,") -> None:
        super().__init__(
            f"a step with batch={batch} takes more memory than a chip has, {sizes}; {advice} --chunk, "
            "dtype=bfloat16 or remat=true of the model, --mesh.fsdp, or more chips"
        )
        self.sizes = sizes


@dataclass(frozen=True)
class CompiledStep:
    """Compiled step with its program, examples, batch shapes, memory statistics and HLO text."""

    program: Program
    examples: Examples
    batch: Batch  # shapes of a global batch
    sizes: Any  # the compiler's CompiledMemoryStats of a chip
    flops: float  # of a chip, by the compiler: all arithmetic, with the body of a loop counted once
    text: str  # HLO

    @cached_property
    def sent(self) -> list[Collective]:
        """Collectives of a chip within its slice."""
        return collectives(self.text, self.program.mesh.size)

    @property
    def peak(self) -> int:
        """Peak bytes of a chip's memory: arguments, results that share no buffer with them, temporaries, program."""
        s = self.sizes
        results = s.output_size_in_bytes - s.alias_size_in_bytes
        return s.argument_size_in_bytes + results + s.temp_size_in_bytes + s.generated_code_size_in_bytes


def compile_step(config: Config, chips: Sequence[Any]) -> CompiledStep:
    """Compile the step of `config`, whose vocabulary size is set, for `chips`.

    Raises:
        ConfigError: mesh or batch do not divide over the chips.
        TooLargeError: the step does not fit into a chip.
    """
    program = make_program(config, chips)
    examples, batch = abstract_batch(config)
    check_rows(batch, config.batch, batch_shards(program.mesh))
    print(f"compiling for a batch of {config.batch:,}: minutes", file=sys.stderr)
    try:
        with jax.set_mesh(program.mesh):
            compiled = program.step.lower(program.like, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLargeError(config.batch, parse_sizes(str(error))) from None
    flops = (compiled.cost_analysis() or {}).get("flops", 0.0)
    return CompiledStep(program, examples, batch, compiled.memory_analysis(), flops, compiled.as_text() or "")


def step_cost(step: CompiledStep, objective: Any) -> tuple[float, float, float]:
    """Cost of a step for a chip: model FLOPs, bytes of memory traffic, bytes sent within its slice."""
    state = step.program.like
    flops = model_flops(objective, state.params, state.carry, step.batch) / step.program.mesh.size
    return flops, float(memory_traffic(step.text)), float(sum(one.sent for one in step.sent))


def topology_devices(topology: str, slices: int = 1) -> Sequence[Any]:
    """Device descriptions of all chips of `slices` slices of `topology`.

    Raises:
        ConfigError: the topology is unknown.
        MachineError: the compiler is not installed.
    """
    settings: dict[str, Any] = {**find_chip(topology).devices, **({"num_slices": slices} if slices > 1 else {})}
    if set(topology.partition(":")[2].split("x")) == {"1"}:  # one chip; hosts have four by default
        settings["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **settings)
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"topology={topology} is unknown to the TPU compiler ({first_line(error)}); name the chips along "
            "each axis, 1x1 and 2x2 to 16x16 of v5e and v6e, 2x2x1, 4x4x4 and so on of v4 and v5p"
        ) from None
    except RuntimeError as error:
        raise MachineError(
            f"no TPU compiler ({first_line(error)}); install it by pip install 'dense_jax[tpu]', or name a libtpu.so "
            "in TPU_LIBRARY_PATH"
        ) from None
    return found.devices


def slice_count(mesh: MeshConfig) -> int:
    """Number of slices of a mesh; -1 stands for one."""
    return max(mesh.dcn, 1)


def with_plan_defaults(config: Config, words: int) -> Config:
    """Return `config` with a vocabulary of `words` and enough steps for its checks; their number does not matter."""
    steps = max(config.steps, config.optimizer.warmup + 1)
    return replace(config, objective=with_vocabulary(config.objective, words), tokens=0, steps=steps)


def abstract_batch(config: Config) -> tuple[Examples, Batch]:
    """Synthetic examples, and the shapes of a batch of them."""
    objective = config.objective
    words = synthetic_vocabulary(max(bert.vocab_size for bert in model_configs(objective)), objective.prompts())
    loader = replace(config.loader, order=Order.SHUFFLE)  # other orders read the texts
    passages, size = SyntheticPassages(config), config.batch
    examples = Examples(passages, objective, words, loader, config.seed, length=size, batch=size, searched=passages)
    return examples, show.batch_like(examples, config.batch)


def parse_sizes(error: str) -> str:
    """Extract the memory that a step needs and that a chip has from the compiler's error.

    >>> parse_sizes("RESOURCE_EXHAUSTED: the total memory required for HLO (6.0G) exceeds available HBM (5.7G).")
    '6.0G of 5.7G'
    """
    found = _SIZES.search(error)
    return f"{found[1]} of {found[2]}" if found else error.partition("\n")[0]
