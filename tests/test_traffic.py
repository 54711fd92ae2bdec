"""Memory traffic by line of code, with numbers that can be checked by hand."""

import doctest
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import dense_jax
from dense_jax.models.layers import Gelu, gelu
from dense_jax.planning import traffic
from dense_jax.planning.hlo import memory_traffic
from dense_jax.planning.traffic import COMPILER, Traffic, traffic_by_line, traffic_table

PACKAGE = Path(dense_jax.__file__).parent
TEXT = f"""HloModule step

FileNames
1 "/elsewhere/run.py"
2 "{PACKAGE}/models/layers.py"
3 "/elsewhere/jax/numpy.py"

FunctionNames
1 "main"
2 "multiply"
3 "matmul"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=9}}
2 {{file_name_id=2 function_name_id=2 line=42 end_line=43 column=1 end_column=9}}
3 {{file_name_id=3 function_name_id=3 line=99 end_line=99 column=1 end_column=9}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=2}}
3 {{file_location_id=3 parent_frame_id=3}}

%inside (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  ROOT %n = f32[8]{{0}} negate(%a)
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0:T(8)}} parameter(0)
  %start = (f32[8]{{0:T(8)S(1)}}, f32[8]{{0:T(8)}}, u32[]{{:S(2)}}) copy-start(%x)
  %done = f32[8]{{0:T(8)S(1)}} copy-done(%start)
  %y = f32[8]{{0:T(8)}} fusion(%done), kind=kLoop, calls=%inside, metadata={{op_name="jit(step)/jvp(Bert)/up/dot" stack_frame_id=3}}
  %w = f32[8]{{0:T(8)}} fusion(%y), kind=kLoop, calls=%inside, metadata={{op_name="jit(step)/transpose(jvp(Bert))/up/dot" stack_frame_id=3}}
  ROOT %z = f32[8]{{0:T(8)}} fusion(%w), kind=kLoop, calls=%inside, metadata={{op_name="jit(step)/mul" stack_frame_id=1}}
}}
"""  # noqa: E501


def test_an_operation_counts_for_the_innermost_line_of_the_package_and_a_prefetch_for_its_user():
    assert traffic_by_line(TEXT) == [
        Traffic("models/layers.py:42", "fusion backward up/dot", 64, 1),
        Traffic(COMPILER, "fusion mul", 64, 1),
        Traffic("models/layers.py:42", "copy up/dot", 32, 1),  # read, to stay on the chip
        Traffic("models/layers.py:42", "fusion up/dot", 32, 1),
    ]


def test_the_lines_together_move_what_the_step_moves():
    assert sum(one.size for one in traffic_by_line(TEXT)) == memory_traffic(TEXT) == 192


def test_the_table_lists_the_largest_line_first_and_sums_up_the_rest(monkeypatch):
    monkeypatch.setattr(traffic, "_LINES", 1)
    table = traffic_table(traffic_by_line(TEXT), bandwidth=1e3).splitlines()
    assert [line.split()[1:] for line in table[1:]] == [
        ["128.000", "66.7%", "models/layers.py:42"],
        ["64.000", "33.3%", "1", "fusion", "backward", "up/dot"],
        ["32.000", "16.7%", "1", "copy", "up/dot"],
        ["32.000", "16.7%", "1", "fusion", "up/dot"],
        ["64.000", "33.3%", "1", "other", "lines"],
    ]


def test_a_program_that_jax_compiles_names_its_lines():
    text = jax.jit(lambda x: gelu(x, Gelu.ERF)).lower(jnp.ones((8, 8))).compile().as_text()
    assert {one.source.partition(":")[0] for one in traffic_by_line(text)} == {"models/layers.py"}


@pytest.mark.parametrize("module", [traffic])
def test_the_examples_in_docstrings_hold(module):
    assert doctest.testmod(module, raise_on_error=True).attempted > 0
