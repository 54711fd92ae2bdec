"""What a run reports of its own speed: MFU, waiting, saving, and a trace."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from dense_jax.config import Config, profiled_steps
from dense_jax.errors import ConfigError
from dense_jax.models.attention import Attention
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype
from dense_jax.objectives.mlm import MLM
from dense_jax.planning.compiled_step import abstract_batch
from dense_jax.train.flops import model_flops, peak_of_run
from dense_jax.train.loop import make_program
from dense_jax.train.step_times import CHECKPOINTS, DATA, StepTimes
from tests.programs import train_workdir
from tests.toys import VOCABULARY, BagOfTokens, MemoryStore


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which stands still unless a test moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("dense_jax.train.step_times.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_mfu_is_the_least_time_of_the_steps_over_their_time(clock):
    found = StepTimes(seconds_at_peak=0.1).figures(steps=10, seconds=4.0)
    assert found["time/mfu"] == pytest.approx(10 * 0.1 / 4.0)


def test_waiting_and_saving_are_those_since_the_last_line(clock):
    times = StepTimes()
    for seconds in (1.0, 0.0):
        with times.spent(DATA):
            clock.now += seconds
        with times.spent(CHECKPOINTS):
            clock.now += 2 * seconds
        assert times.figures(1, 4.0) == {"time/data_wait_share": seconds / 4, "time/checkpoint_seconds": 2 * seconds}


def test_the_summary_gives_each_share_of_the_whole_time(clock):
    times = StepTimes(seconds_at_peak=0.5)
    clock.now += 40.0  # of compilation
    for what, seconds in ((DATA, 10.0), (CHECKPOINTS, 5.0)):
        with times.spent(what):
            clock.now += seconds
    clock.now += 45.0
    times.figures(steps=60, seconds=60.0)
    assert times.summary() == (
        "60 steps after the first in 1m40s: 45.0% useful steps, 10.0% waiting for data, 5.0% saving checkpoints, "
        "40.0% compiling, validating and the rest; MFU 50.0%"
    )


def test_a_pause_inside_of_waiting_is_no_waiting(clock):
    times = StepTimes()
    with times.spent(DATA):
        clock.now += 1.0
        clock.now += 50.0  # an index is made
        times.exclude(50.0)
    assert times.figures(1, 4.0)["time/data_wait_share"] == 1 / 4


@pytest.mark.slow
def test_the_products_of_a_fused_attention_count_and_what_is_computed_again_does_not():
    bert = BertConfig(2, 16, 2, 32, vocab_size=300, positions=256, attention_dropout=0.0)
    config = Config(MLM(Encoder(bert), passage_length=128), steps=1, batch=8)
    program, batch = make_program(config), abstract_batch(config)[1]

    def flops(**settings):
        method = MLM(Encoder(replace(bert, **settings)), passage_length=128)
        return model_flops(method, program.like.params, program.like.carry, batch)

    assert flops(attention=Attention.CUDNN, dtype=Dtype.BFLOAT16) == flops(remat=True) == flops()


def test_the_peak_of_a_cpu_is_measured():
    assert (peak_of_run() or 0.0) > 1e8


@pytest.mark.parametrize("profile", ["20", "20:0", "a:b", "-1:2"])
def test_steps_to_profile_are_a_start_and_a_number(profile):
    with pytest.raises(ConfigError, match=rf"profile={profile} is not START:STEPS, such as --profile=20:5"):
        profiled_steps(profile)


@pytest.mark.slow
def test_a_run_traces_the_named_steps_and_reports_its_times(tmp_path, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    train_workdir(
        Config(BagOfTokens(), steps=4, batch=8, log_every=1, profile="2:1"), MemoryStore(), VOCABULARY, tmp_path
    )
    assert calls == [tmp_path / "profile", "stop"]
    said = capsys.readouterr().err
    assert "data wait" in said
    assert "MFU" in said
    assert "3 steps after the first in " in said
