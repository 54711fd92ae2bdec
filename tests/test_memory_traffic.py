"""Bytes between a chip and its memory, with numbers that can be checked by hand."""

import pytest

from dense_jax.planning.hlo import memory_traffic

TEXT = """HloModule step

%inside (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%a)
}

%body (c: f32[8]) -> f32[8] {
  %c = f32[8]{0:T(8)} parameter(0)
  ROOT %f = f32[8]{0:T(8)} fusion(%c), kind=kLoop, calls=%inside
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(8)} parameter(0)
  %y = f32[8]{0:T(8)S(1)} constant(0)
LINE
}
"""


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("%r = f32[8]{0:T(8)} fusion(%x, %x), kind=kLoop, calls=%inside", 32 + 64),  # written, read twice
        ("%r = f32[8]{0:T(8)S(1)} fusion(%x, %y), kind=kLoop, calls=%inside", 32),  # the rest stays on the chip
        ("%r = (f32[8]{0:T(8)S(1)}, f32[8]{0:T(8)}, u32[]{:S(2)}) copy-start(%x)", 32),  # to the chip
        ("%r = ((f32[8]{0:T(8)}), f32[2]{0:T(8)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2]}", 8),
        ("%r = f32[8]{0:T(8)S(1)} copy-done(%x)", 0),
        ("%r = f32[4,2]{1,0:T(8)} bitcast(%x)", 0),
        ('%r = f32[8]{0} while(%x), body=%body, backend_config={"known_trip_count":{"n":"12"}}', 12 * 64),
    ],
)
def test_traffic_counts_hbm_reads_and_writes(line, size):
    assert memory_traffic(TEXT.replace("LINE", f"  {line}")) == size
