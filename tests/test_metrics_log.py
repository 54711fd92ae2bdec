"""metrics.jsonl: what a run has cost so far, and that a continued run goes on where it left off."""

import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from dense_jax.errors import NonFiniteError
from dense_jax.train.metrics import MetricsLog


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which stands still unless a test moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("dense_jax.train.metrics.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def train(workdir, clock, steps, *, first=0, last=10, every=2):
    """Records steps of eight examples, thirty tokens and half a second each."""
    log = MetricsLog(workdir, first=first, last=last, every=every, batch=8, names="doc{}".format)
    for step in steps:
        clock.now += 0.5
        metrics = {"loss": jnp.float32(step), "gradient_norm": jnp.float32(1), "tokens": jnp.float32(30)}
        log.record(step, metrics, np.arange(8))
    log.close()
    return lines(workdir)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def totals(found):
    return {line["step"]: (line["tokens"], line["seconds"]) for line in found}


def test_every_kth_step_and_the_last_are_written_with_all_tokens_and_seconds_so_far(tmp_path, clock):
    assert totals(train(tmp_path, clock, range(1, 6), last=5)) == {2: (60, 1.0), 4: (120, 2.0), 5: (150, 2.5)}


def test_speeds_are_of_the_steps_since_the_last_line(tmp_path, clock):
    found = train(tmp_path, clock, range(1, 5))
    assert [line["examples_per_second"] for line in found] == [16, 16]
    assert [line["tokens_per_second"] for line in found] == [60, 60]


def test_what_passes_before_the_clock_is_restarted_counts_neither_for_speed_nor_for_seconds(tmp_path, clock):
    log = MetricsLog(tmp_path, first=0, last=1, every=1, batch=8, names=str)
    clock.now += 60.0  # of compilation
    log.restart_clock(0)
    clock.now += 2.0
    log.record(1, {"loss": jnp.ones(()), "gradient_norm": jnp.ones(()), "tokens": jnp.float32(30)}, np.arange(8))
    log.close()
    assert totals(lines(tmp_path)) == {1: (30, 2.0)}
    assert lines(tmp_path)[0]["examples_per_second"] == 4


def test_a_step_before_the_clock_is_restarted_counts_its_tokens_and_no_speed(tmp_path, clock):
    log = MetricsLog(tmp_path, first=0, last=3, every=1, batch=8, names=str)
    clock.now += 60.0  # of compilation
    log.restart_clock(1)  # before its metrics are read, one step late
    metrics = {"loss": jnp.ones(()), "gradient_norm": jnp.ones(()), "tokens": jnp.float32(30)}
    for step in range(1, 4):
        log.record(step, metrics, np.arange(8))
        clock.now += 2.0
    log.close()
    found = lines(tmp_path)
    assert totals(found) == {1: (30, 0.0), 2: (60, 2.0), 3: (90, 4.0)}
    assert [line.get("examples_per_second") for line in found] == [None, 4, 4]


def test_a_continued_run_adds_to_the_totals_of_the_one_before(tmp_path, clock):
    train(tmp_path, clock, range(1, 5))
    clock.now += 1_000.0  # between the two
    assert totals(train(tmp_path, clock, range(5, 9), first=4)) == {
        2: (60, 1.0), 4: (120, 2.0), 6: (180, 3.0), 8: (240, 4.0)
    }  # fmt: skip


def test_steps_that_are_done_again_are_counted_once(tmp_path, clock):
    """Stopped at step 8, but the newest checkpoint is of step 4."""
    train(tmp_path, clock, range(1, 9))
    found = train(tmp_path, clock, range(5, 11), first=4)
    assert totals(found)[10] == (300, 5.0)
    assert [line["step"] for line in found] == [2, 4, 6, 8, 10]


def test_steps_between_the_last_line_and_the_checkpoint_count_as_much_as_those_before(tmp_path, clock):
    """Stopped at step 5, whose checkpoint is saved although its line was not due."""
    train(tmp_path, clock, range(1, 6))
    assert totals(train(tmp_path, clock, [6], first=5))[6] == (180, 3.0)


def test_a_run_that_starts_over_starts_from_nothing(tmp_path, clock):
    train(tmp_path, clock, range(1, 5))
    assert totals(train(tmp_path, clock, [1, 2])) == {2: (60, 1.0)}


def test_a_line_that_was_cut_short_is_done_again(tmp_path, clock):
    train(tmp_path, clock, range(1, 5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert totals(train(tmp_path, clock, [5, 6], first=4)) == {2: (60, 1.0), 4: (120, 2.0), 6: (180, 3.0)}


def test_a_kill_while_a_restart_drops_later_lines_leaves_the_log_as_it_was(tmp_path, clock, monkeypatch):
    train(tmp_path, clock, range(1, 9))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, call, killed)
            patched.setattr(Path, call, killed, raising=False)
            train(tmp_path, clock, [5, 6], first=4)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert totals(train(tmp_path, clock, [5, 6], first=4)) == {2: (60, 1.0), 4: (120, 2.0), 6: (180, 3.0)}


def killed(*_, **__):
    raise KeyboardInterrupt


def test_the_new_log_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, clock, monkeypatch):
    train(tmp_path, clock, range(1, 9))
    done, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(Path, "replace", lambda *paths: (done.append("replace"), replace(*paths))[1])
    train(tmp_path, clock, [5, 6], first=4)
    assert done[:2] == ["fsync", "replace"]


def test_a_line_of_broken_bytes_is_dropped_and_no_other_one(tmp_path, clock):
    train(tmp_path, clock, range(1, 5))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "lo\xff\x00\n')
    assert totals(train(tmp_path, clock, [5, 6], first=4)) == {2: (60, 1.0), 4: (120, 2.0), 6: (180, 3.0)}


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path, clock):
    train(tmp_path, clock, range(1, 5))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert totals(train(tmp_path, clock, [5, 6], first=4)) == {2: (60, 1.0), 4: (120, 2.0), 6: (180, 3.0)}


def test_tensorboard_drops_the_steps_that_are_done_again(tmp_path, clock):
    train(tmp_path, clock, range(1, 9))
    train(tmp_path, clock, range(5, 11), first=4)
    assert shown_by_tensorboard(tmp_path / "tensorboard", "loss") == [2, 4, 6, 8, 10]


def shown_by_tensorboard(folder, name):
    """The steps of a scalar: a session that starts at a step purges what earlier ones have from there on."""
    steps = []
    for path in sorted(folder.iterdir()):
        for event in events(path.read_bytes()):
            if event.HasField("session_log"):
                steps = [step for step in steps if step < event.step]
            steps += [event.step for value in event.summary.value if value.tag == name]
    return steps


def events(data):
    """The events of a file of TFRecords: length, its checksum, event, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_loss_that_is_no_number_is_an_error_that_names_step_and_documents(tmp_path, clock):
    log = MetricsLog(tmp_path, first=0, last=1, every=1, batch=8, names="doc{}".format)
    metrics = {"loss": jnp.float32("nan"), "gradient_norm": jnp.float32("inf"), "tokens": jnp.float32(30)}
    with pytest.raises(NonFiniteError, match="step 1: loss nan and gradient_norm inf; its examples come from doc0, do"):
        log.record(1, metrics, np.arange(8))
    log.close()
    assert lines(tmp_path) == []


def validated(log, clock, step):
    """A validation that takes a minute."""
    with log.paused():
        clock.now += 60.0
    log.add(step, {"validation/nDCG@10": 0.25}, "nDCG@10 0.250  (the best so far)")


def test_what_else_was_found_has_a_line_with_what_the_run_has_cost_and_costs_nothing_itself(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, first=0, last=3, every=3, batch=8, names=str)
    for step in range(1, 4):
        clock.now += 0.5
        log.record(step, {"loss": jnp.ones(()), "gradient_norm": jnp.ones(()), "tokens": jnp.float32(30)}, np.arange(8))
        if step == 2:
            validated(log, clock, step)
    log.close()
    assert totals(lines(tmp_path)) == {2: (60, 1.0), 3: (90, 1.5)}
    assert lines(tmp_path)[0]["validation/nDCG@10"] == 0.25
    assert lines(tmp_path)[1]["examples_per_second"] == 16
    assert "step 2/3  nDCG@10 0.250  (the best so far)" in capsys.readouterr().err


def test_a_run_continues_after_a_line_of_the_state_before_its_first_step(tmp_path, clock):
    log = MetricsLog(tmp_path, first=0, last=10, every=2, batch=8, names=str)
    validated(log, clock, 0)
    log.close()
    assert totals(train(tmp_path, clock, [2, 3, 4], first=1)) == {0: (0, 0.0), 2: (30, 0.5), 4: (90, 1.5)}


def test_a_last_line_that_a_crash_left_without_its_newline_stays_a_line(tmp_path, clock):
    train(tmp_path, clock, range(1, 3), last=4)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().removesuffix("\n"))
    assert sorted(totals(train(tmp_path, clock, range(3, 5), first=2, last=4))) == [2, 4]


def test_tensorboard_reads_what_is_written(tmp_path, clock):
    train(tmp_path, clock, range(1, 5))
    (path,) = (tmp_path / "tensorboard").iterdir()
    written = [(event.step, value) for event in events(path.read_bytes()) for value in event.summary.value]
    found = [(step, value.tag, value.simple_value) for step, value in written]
    assert [(step, value) for step, tag, value in found if tag == "loss"] == [(2, 2.0), (4, 4.0)]
    assert {tag for _, tag, _ in found} == {
        "loss", "gradient_norm", "examples_per_second", "tokens_per_second", "time/data_wait_share",
        "time/checkpoint_seconds",
    }  # fmt: skip
