"""Tables of docs/topology.md: memory, time and collectives of a training step on each chip of a TPU slice.

    python benchmarks/topology.py                                all published configs, each on a slice for its batch
    python benchmarks/topology.py configs/ict.py --topology v4:4x4x8 v6e:16x16 --largest
    python benchmarks/topology.py configs/ict.py --mesh.fsdp=16 --chunk=64

The TPU compiler (pip install 'dense_jax[tpu]') compiles the step, BERT-base in three minutes, and nothing is run: no
figure is a speed. `dense-jax show --topology` says more of one config, docs/topology.md where each figure comes from. A
row goes to standard error as soon as it is known; at the end all are a Markdown table, and one JSON line each.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import arguments
import jax
import report
from machine import provenance, set_up

from dense_jax.__main__ import COMPILER_ONLY
from dense_jax.config import command_line
from dense_jax.planning.compiled_step import (
    CompiledStep,
    TooLargeError,
    compile_step,
    slice_count,
    step_cost,
    topology_devices,
    with_plan_defaults,
)
from dense_jax.planning.hlo import totals_by_kind
from dense_jax.planning.roofline import Chip, find_chip, roofline
from dense_jax.planning.topology import BatchSearch, search_larger, search_smaller

WORDS = 30_522  # BERT's vocabulary
SLICES = {  # over which the published batch spreads without leaving a chip next to nothing
    "configs/mlm.py": "v5e:16x16",
    "configs/ict.py": "v5e:16x16",
    "configs/condenser.py": "v5e:16x16",
    "configs/cocondenser.py": "v5e:16x16",
    "configs/contriever.py": "v5e:16x16",
    "configs/retromae.py": "v5e:4x4",
    "configs/realm.py": "v5e:16x16",
    "configs/orqa.py": "v5e:1x1",  # one question at a time
    "configs/finetune_dpr.py": "v5e:2x4",
    "configs/finetune_cocondenser.py:round1": "v5e:2x4",
    "configs/finetune_contriever.py": "v5e:8x8",
    "configs/mvr.py": "v5e:2x4",
}


def main() -> None:
    parser = _parser()
    asked, settings = parser.parse_known_args()
    if unknown := [word for word in settings if not word.startswith("--")]:
        parser.error(f"unknown: {' '.join(unknown)}; settings are --key=value")
    if other := [name for name in asked.configs if name not in SLICES and not asked.topologies]:
        parser.error(f"{other[0]} is none of {', '.join(SLICES)}; say for which --topology")
    os.environ.update(COMPILER_ONLY)
    jax.config.update("jax_platforms", "cpu")  # imported before, so it no longer reads its variable
    here = set_up(0, "float32")
    cases = [(name, one) for name in asked.configs or SLICES for one in asked.topologies or [SLICES[name]]]
    rows = report.kept(_row(*case, settings, asked.largest) for case in cases)
    report.publish("A training step on TPUs that are not here", rows, vars(asked) | provenance(here))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter)
    made.add_argument("configs", nargs="*", help="such as configs/ict.py; none: all published ones")
    made.add_argument(
        "--topology", dest="topologies", nargs="+", help="such as v5e:16x16; none: a slice for the published batch"
    )
    made.add_argument(
        "--largest",
        action="store_true",
        help="look for the largest batch too: three times as long, or until a half fits of a batch that does not",
    )
    return made


def _row(name: str, topology: str, settings: list[str], largest: bool) -> report.Row:
    config = with_plan_defaults(command_line.parse([f"--config={name}", "--workdir=.", *settings]).config, WORDS)
    chip, chips = find_chip(topology), topology_devices(topology, slice_count(config.mesh))
    row = {"config": Path(name).name, "batch": config.batch, "topology": topology}
    try:
        step = compile_step(config, chips)
    except TooLargeError as error:
        row |= {"all": f"too large: {error.sizes}"}
        return row | (_largest(search_smaller(config, chips, error.sizes)) if largest else {})
    return row | _figures(step, chip) | (_largest(search_larger(config, chips, step, chip.hbm)) if largest else {})


def _figures(step: CompiledStep, chip: Chip) -> dict[str, Any]:
    times = roofline(chip, *step_cost(step, step.program.config.objective))
    return {
        "MB of state and batch": step.sizes.argument_size_in_bytes / 1e6,
        "MB of temporaries": step.sizes.temp_size_in_bytes / 1e6,
        "all": f"{step.peak / 1e6:,.0f} MB, {step.peak / chip.hbm:.0%}",
        "compute ms": 1e3 * times.compute,
        "memory ms": 1e3 * times.memory,
        "interconnect ms": 1e3 * times.interconnect,
        "bound by": times.bound,
        "collectives": ", ".join(
            f"{n} {kind} {size / 1e6:,.0f} MB" for kind, (n, size) in totals_by_kind(step.sent).items()
        ),
    }


def _largest(tries: BatchSearch) -> dict[str, str]:
    return {"largest batch": f"{tries.largest:,}" if tries.largest else "no half of it fits"}


if __name__ == "__main__":
    arguments.run(main)
