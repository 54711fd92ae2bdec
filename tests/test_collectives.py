"""What is read from the text of a compiled program, with numbers that can be checked by hand."""

import pytest

from dense_jax.planning.hlo import Collective, HostTransfer, collectives, host_transfers, merge_equal, totals_by_kind

PLAIN = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8,2]) -> f32[8,2] {
  %x = f32[8,2]{1,0:T(8,128)} parameter(0)
LINES
}
"""


def found(lines, chips=8):
    return collectives(PLAIN.replace("LINES", lines), chips)


@pytest.mark.parametrize(
    ("line", "kind", "size", "group"),
    [
        ("%r = f32[8,2]{1,0} all-reduce(%x), channel_id=1, replica_groups={}, to_apply=%add", "all-reduce", 64, 8),
        ("%r = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce(%x, %y), replica_groups={{0,1},{2,3}}", "all-reduce", 48, 2),
        ("%r = bf16[16,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), replica_groups=[2,4]<=[8]", "all-gather", 128, 4),
        ("%r = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}", "all-gather", 32, 4),
        ("%r = f32[2]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, to_apply=%add", "reduce-scatter", 32, 4),
        ("%r = s8[6]{0} all-to-all(%x), replica_groups={{0,1,2}}", "all-to-all", 6, 3),
        (
            "%r = (f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)",
            "collective-permute",
            16,
            8,
        ),
        (
            "%r = f32[4] all-gather(%x), replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([2,4]) {'a','c'}",
            "all-gather",
            16,
            8,
        ),
    ],
)
def test_a_collective_has_its_kind_its_bytes_and_its_group(line, kind, size, group):
    assert found(f"  {line}") == [Collective(kind, size, group)]


def test_the_end_of_a_collective_is_not_another_one():
    start = "  %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), channel_id=3, replica_groups={{0,1,2,3}}"
    assert len(found(f"{start}\n  %d = f32[8]{{0}} all-gather-done(%s)")) == 1


def test_pieces_that_share_a_channel_are_one_collective():
    piece = "  %p = f32[8]{0} all-gather(%x), channel_id=7, replica_groups={{0,1}}"
    other = "  %q = f32[8]{0} all-gather(%x), channel_id=8, replica_groups={{0,1}}"
    assert totals_by_kind(found(f"{piece}\n{piece}\n{other}")) == {"all-gather": (2, 64)}


def test_collectives_alike_are_told_once_with_how_often_they_run_and_the_most_bytes_of_a_step_first():
    once, often = Collective("all-reduce", 100, 4), Collective("all-gather", 10, 4, times=6)
    other_group, other_size = often._replace(group=2), often._replace(size=9)
    assert merge_equal([other_size, other_group, often, once, often]) == [
        often._replace(times=12),  # 120 bytes
        once,
        other_group,  # 60
        other_size,
    ]
    assert merge_equal([HostTransfer("all-reduce", 8, 1), HostTransfer("all-reduce", 8, 2)]) == [
        HostTransfer("all-reduce", 8, 3)
    ]


LOOP = """HloModule step

%body (c: f32[4]) -> f32[4] {
  %r = f32[4]{0} all-reduce(%c), channel_id=1, replica_groups={{0,1}}
}

%condition (c: f32[4]) -> pred[] {
  ROOT %p = pred[] constant(true)
}

%unused (c: f32[4]) -> f32[4] {
  %r = f32[4]{0} all-reduce(%c), channel_id=2, replica_groups={{0,1}}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  ROOT %w = f32[4]{0} while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"}}
}
"""


def test_what_is_in_a_loop_counts_as_often_as_it_runs_and_what_is_never_called_does_not():
    assert collectives(LOOP, 2) == [Collective("all-reduce", 16, 2, times=12)]


SCATTER = """HloModule step

%all-reduce-scatter.1 (x: f32[8]) -> f32[2] {
  %r = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %s = f32[2]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={2}
}

ENTRY %main (x: f32[8]) -> f32[2] {
  ROOT %f = f32[2]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_sum_of_which_each_chip_keeps_its_part_is_a_reduce_scatter():
    (one,) = collectives(SCATTER, 4)
    assert one == Collective("reduce-scatter", 32, 4)
    assert one.sent == 24  # three quarters of 32 bytes leave a chip; of an all-reduce it would be twice as much


def test_reduce_scatters_of_tpus_share_a_channel_and_all_count():
    header, first, entry = SCATTER.split("\n\n")
    second = first.replace("scatter.1", "scatter.2")
    call = "  %f2 = f32[2]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2\n  ROOT"
    both = "\n\n".join([header, first, second, entry.replace("  ROOT", call)])
    assert [one.kind for one in collectives(both, 4)] == ["reduce-scatter"] * 2


def test_what_goes_between_slices_is_what_chips_hand_to_their_hosts():
    sent = (
        "  %send.1 = (f32[4,8]{1,0:T(8,128)}, u32[], token[]) send(%x, %after), channel_id=5, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.52_0",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    received = sent.replace("%send.1", "%recv.1").replace("send(%x, %after)", "recv(%after)").replace("[4,8]", "[8,8]")
    other = "  %send.2 = (f32[4,8]{1,0}, u32[], token[]) send(%x, %after), channel_id=6, is_host_transfer=true"
    text = PLAIN.replace("LINES", f"{sent}\n{received}\n{other}")
    assert host_transfers(text) == [HostTransfer("all-reduce", 128, 1)]
    assert totals_by_kind(host_transfers(text)) == {"all-reduce": (1, 128)}
    assert host_transfers(PLAIN) == []
