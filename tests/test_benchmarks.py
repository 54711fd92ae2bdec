"""The benchmarks: what they count, how they time, and what they refuse. Nothing here asserts a time."""

import doctest
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dense_jax.errors import ConfigError, MachineError
from dense_jax.models.bert import BertConfig, bert
from dense_jax.train.flops import peak_flops

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its files import each other by their plain names, being scripts

import arguments  # noqa: E402
import data  # noqa: E402
import encode  # noqa: E402
import flops  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
import timing  # noqa: E402
import train  # noqa: E402

BASE = bert("base", vocab_size=30_522)
CPU = machine.Machine("cpu", "a processor", 1, 2, None, "float32")


@pytest.mark.parametrize("module", ["arguments", "encode", "flops", "report", "tasks", "timing"])
def test_the_examples_in_docstrings_hold(module):
    found = doctest.testmod(importlib.import_module(module), raise_on_error=True)
    assert found.attempted > 0


# FLOPs


@pytest.mark.parametrize(("length", "expected"), [(128, 545.4), (256, 559.5), (512, 587.9)])
def test_mlm_of_bert_base_takes_the_published_megaflops_for_each_token(length, expected):
    tokens = 100 * length
    step = flops.mlm_step(BASE, rows=100, length=length, masked=round(0.15 * tokens))
    assert round(step / tokens / 1e6, 1) == expected


@pytest.mark.parametrize(
    ("rows", "query", "passage", "teraflops"), [(1024, 32, 128, 85), (4096, 64, 256, 700), (4096, 64, 288, 774)]
)
def test_a_dual_encoder_step_of_bert_base_takes_the_published_teraflops(rows, query, passage, teraflops):
    assert round(flops.dual_encoder_step(BASE, rows, query, passage, 768) / 1e12) == teraflops


def test_a_feed_forward_network_of_another_width_is_counted_as_it_is():
    narrow = BertConfig(layers=1, width=2, heads=1, feed_forward=3)
    assert flops.layer(narrow, length=5) == 2 * (4 * 2 * 2 + 2 * 2 * 3) + 4 * 5 * 2 == 96


@pytest.mark.parametrize(
    ("device", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
    ],
)
def test_a_device_has_the_peak_of_its_datasheet(device, teraflops):
    assert peak_flops(device) == teraflops * 1e12


@pytest.mark.parametrize("device", ["cpu", "NVIDIA GeForce RTX 4090"])
def test_a_device_without_a_known_peak_has_none(device):
    assert peak_flops(device) is None


# Timing


class Clock:
    """Time that passes in steps only."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return 2 * self.now  # two threads at work


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def ticking(name, clock, seconds, calls):
    def step(i):
        clock.now += seconds
        calls.append((name, i))
        return f"{name}{i}"

    return timing.Program(name, step, lambda: None)


def test_programs_take_turns_and_every_other_turn_goes_backwards(clock):
    calls = []
    timing.interleaved([ticking("a", clock, 1, calls), ticking("b", clock, 1, calls)], turns=3, warm_up=1)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]


def test_each_turn_gives_wall_and_cpu_seconds_per_step(clock):
    (found,) = timing.interleaved([ticking("a", clock, 0.5, [])], turns=2, warm_up=1)
    assert found.wall.tolist() == [0.5, 0.5]
    assert found.cpu.tolist() == [1.0, 1.0]


def test_short_steps_are_taken_in_a_row_until_a_quarter_of_a_second_is_full(clock):
    calls = []
    (found,) = timing.interleaved([ticking("a", clock, 1 / 8, calls)], turns=2, warm_up=1)
    assert len(calls) == 1 + 2 * 2
    assert found.wall.tolist() == [1 / 8, 1 / 8]


def test_after_its_time_no_turn_begins_but_the_first_two(clock):
    turns = [
        len(timing.interleaved([ticking("a", clock, 1, [])], turns=9, warm_up=1, until=clock.now + seconds)[0].wall)
        for seconds in (0, 4.5, 99)
    ]
    assert turns == [2, 4, 9]  # the warm-up took a second


def test_seconds_are_counted_from_the_start_and_none_are_no_limit(monkeypatch, clock):
    monkeypatch.setattr(arguments, "time", clock)
    clock.now = 5.0
    assert (arguments.deadline(3), arguments.deadline(0)) == (8.0, float("inf"))


def test_warm_up_is_not_in_the_timings_but_its_results_are_kept(clock):
    (found,) = timing.interleaved([ticking("a", clock, 1, [])], turns=2, warm_up=3)
    assert found.outputs == ["a0", "a1", "a2"]
    assert len(found.wall) == 2


def timed(wall) -> timing.Timing:
    return timing.Timing(first=9.0, outputs=[], wall=np.array(wall), cpu=2 * np.array(wall))


def test_drift_is_the_change_between_the_halves():
    assert timed([1.0, 1.0, 3.0, 3.0]).drift == pytest.approx(2 / 2)


def test_the_interval_of_a_ratio_holds_the_ratio_and_ignores_noise_that_hits_both():
    busy = np.array([1.0, 5.0, 1.0, 2.0, 1.5, 1.0])
    assert timing.ratio(2 * busy, busy) == (2.0, 2.0, 2.0)
    noisy = timing.ratio(2 * busy, busy[::-1])
    assert noisy.low < noisy.value < noisy.high


# Rows


def test_a_row_relates_model_flops_to_datasheet_and_measured_product():
    peaks = machine.Peaks(matmul=7e14, datasheet=989e12)
    row = report.speed("x", timed([0.5, 0.5]), timed([0.25, 0.25]), tokens=100, flops=98.9e12, peaks=peaks)
    assert row["tokens/s"] == 200
    assert row["TFLOP/s"] == pytest.approx(197.8)
    assert row["MFU"] == pytest.approx(0.2)
    assert row["of matmul"] == pytest.approx(197.8 / 700)
    assert row["time / ours"].value == row["CPU / ours"].value == 2


def test_a_device_without_a_datasheet_peak_has_no_mfu():
    peaks = machine.Peaks(matmul=1e11, datasheet=None)
    row = report.speed("x", timed([1.0, 1.0]), timed([1.0, 1.0]), tokens=1, flops=1e10, peaks=peaks)
    assert "MFU" not in row
    assert row["of matmul"] == pytest.approx(0.1)


def test_the_measured_product_of_matrices_takes_turns_with_the_programs(clock, monkeypatch):
    calls = []
    monkeypatch.setattr(machine, "_matmul", lambda side, dtype: ticking("matmul", clock, 2, calls))
    (found,), peaks = machine.measure([ticking("a", clock, 1, calls)], CPU, turns=2, warm_up=1)
    assert [name for name, _ in calls] == ["a", "matmul", "a", "matmul", "matmul", "a"]
    assert found.wall.tolist() == [1, 1]
    assert peaks == (2 * 2048**3 / 2, None)


def test_every_row_is_printed_with_commit_versions_device_date_and_command(capsys):
    report.publish("title", [{"program": "a", "ms": 1.0}, {"program": "b", "ms": 2.0}], machine.provenance(CPU))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["program"] for line in lines] == ["a", "b"]
    for line in lines:
        assert all(line[key] for key in ("commit", "versions", "machine", "date", "command"))
        assert line["machine"]["device"] == "a processor"


# What is refused


def test_programs_with_different_losses_are_no_comparison():
    with pytest.raises(
        MachineError, match=r"step 1: ours has loss 2\.000000, torch 2\.100000; they differ by more than 0\.01"
    ):
        train.check_same_losses(["ours", "torch"], [[1.0, 2.0], [1.0, 2.1]], 0.01)
    with pytest.raises(MachineError, match="torch nan"):
        train.check_same_losses(["ours", "torch"], [[1.0], [float("nan")]], 0.01)


def test_programs_with_different_cosines_are_no_comparison():
    with pytest.raises(MachineError, match=r"cosines of torch differ by 0\.2 from those of ours, more than 0\.1"):
        encode.check_same_cosines(["ours", "torch"], [0.0, 0.2], 0.1)


def test_a_pipeline_that_would_keep_the_trainer_waiting_is_an_error():
    data.check_fast_enough(3.0)
    with pytest.raises(MachineError, match=r"only 2\.90 times as fast as training.*use more --loader\.workers"):
        data.check_fast_enough(2.9)


def test_more_threads_than_cores_are_refused():
    with pytest.raises(ConfigError, match=r"--threads=9999 is more than the \d+ cores of this process; use 0 for all"):
        machine.set_up(9999, "auto")


@pytest.mark.slow
def test_a_peer_that_would_run_on_other_devices_is_refused():
    import peers  # here: it imports PyTorch

    with pytest.raises(MachineError, match=r"PyTorch would run on 1 x cpu, JAX runs on 8 x cpu; use --peer=none"):
        peers.set_up(replace(CPU, count=8))


def test_too_few_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        arguments.parser("").parse_args(["--steps=1"])
    assert "argument --steps: 1 is less than 2" in capsys.readouterr().err


def test_without_pytorch_there_are_no_peers_and_a_note_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert arguments.peer_kinds("both") == []
    assert "torch is not installed: our own rows only; `pip install torch` for the others" in capsys.readouterr().err


def test_rows_are_told_one_by_one_so_that_a_failure_loses_none(capsys):
    def rows():
        yield {"config": "ict"}
        raise ValueError

    with pytest.raises(ValueError):
        report.kept(rows())
    assert capsys.readouterr().err == '{"config": "ict"}\n'
    assert report.kept([{"config": "mlm"}]) == [{"config": "mlm"}]
