"""Work, memory and collectives of a training step on 1, 2, 4 and 8 simulated devices.

    python benchmarks/scaling.py                                 all configs, `:tiny`: minutes on two CPU cores
    python benchmarks/scaling.py configs/ict.py:tiny --fsdp      parameters split over the devices
    python benchmarks/scaling.py configs/mlm.py:tiny --devices 1 8

The batch stays the same, so each device should have its share of the work, and only what must be sent is sent. The step
is compiled and not run: nothing here is a speed. A row goes to standard error once it is known; at the end all are a
Markdown table, and one JSON line each. README.md in this folder explains the columns.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import arguments
import jax
import report
from machine import provenance, set_up

from dense_jax.config import Config, command_line
from dense_jax.planning.compiled_step import compile_step, with_plan_defaults
from dense_jax.planning.hlo import collectives, totals_by_kind

CONFIGS = Path(__file__).parents[1] / "configs"
WORDS = 8_192  # of the vocabulary: that of the tiny configs


def main() -> None:
    asked = _parser().parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(asked.counts))
    here = set_up(0, "float32")
    names = asked.configs or [f"{path}:tiny" for path in sorted(CONFIGS.glob("[!_]*.py")) if path.stem != "pretrained"]
    rows = report.kept(row for name in names for row in _rows(name, asked.counts, asked.fsdp))
    report.publish("A training step on simulated devices", rows, vars(asked) | provenance(here))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter)
    made.add_argument("configs", nargs="*", help="such as configs/ict.py:tiny; none: all")
    made.add_argument("--devices", dest="counts", type=arguments.at_least(1), nargs="+", default=[1, 2, 4, 8])
    made.add_argument("--fsdp", action="store_true", help="split the parameters over all devices, not the batch alone")
    return made


def _rows(name: str, counts: Sequence[int], fsdp: bool) -> Iterator[report.Row]:
    config = with_plan_defaults(command_line.parse([f"--config={name}", "--workdir=."]).config, WORDS)
    label = Path(name.partition(":")[0]).stem
    yield from ({"config": label, **_row(config, count, fsdp)} for count in counts)


def _row(config: Config, count: int, fsdp: bool) -> dict[str, Any]:
    mesh = replace(config.mesh, data=1 if fsdp else -1, fsdp=-1 if fsdp else 1)
    step = compile_step(replace(config, mesh=mesh), jax.devices()[:count])
    sent, sizes = collectives(step.text, count), step.sizes
    return {
        "devices": count,
        "GFLOP": step.flops / 1e9,
        "MB sent": sum(one.sent for one in sent) / 1e6,
        "MB of state and batch": sizes.argument_size_in_bytes / 1e6,
        "MB of temporaries": sizes.temp_size_in_bytes / 1e6,
        "collectives": ", ".join(f"{times} {kind}" for kind, (times, _) in totals_by_kind(sent).items()),
    }


if __name__ == "__main__":
    arguments.run(main)
