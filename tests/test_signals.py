"""SIGTERM ends a stage with status 75 and Ctrl-C with 130, in any call; test_end_to_end.py continues after them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.errors import Stopped
from dense_jax.processes.signals import StopSignals, _watch, stop_on_signals

ROOT = Path(__file__).parent.parent
# The second lock of a mutex that is held waits for ever, and no signal wakes it. One that comes before changes nothing.
DEAF = """
import ctypes
from dense_jax.errors import Stopped
from dense_jax.processes.signals import stop_on_signals
mutex = ctypes.create_string_buffer(64)
with stop_on_signals():
    while True:
        try:
            print(flush=True)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
        except Stopped:
            pass
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_stage_that_hears_no_signal_is_ended(signals, number, status):
    running = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    running.stdout.readline()
    for _ in range(signals):
        running.send_signal(number)
    _, said = running.communicate(timeout=200)
    assert running.returncode == status
    assert said == "dense-jax: stopped; finished parts are kept, start the same command to continue\n"


def test_sigterm_raises_what_has_status_75_and_afterwards_it_is_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Stopped, match="start the same command to continue"), stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.set_wakeup_fd(-1) == -1


def test_another_signal_is_neither_ctrl_c_nor_counted_as_one():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with stop_on_signals() as stop:
            for _ in range(2):
                signal.raise_signal(signal.SIGALRM)
                time.sleep(0.2)
        assert not stop.interrupted and not stop.came
    finally:
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_raises_what_has_status_130():
    with pytest.raises(Stopped) as error, stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    assert error.value.code == 130


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stage_that_saves_first_is_not_interrupted_and_may_take_longer_than_the_grace(monkeypatch, number, status):
    monkeypatch.setattr("dense_jax.processes.signals.GRACE", 0.1)
    monkeypatch.setattr("dense_jax.processes.signals._RESEND", 0.1)
    with stop_on_signals() as stop:
        stop.deferred = True
        assert not stop.came
        os.kill(os.getpid(), number)
        time.sleep(1)
        assert stop.came and not stop.raised
        assert stop.code == status


def test_ctrl_c_comes_as_sigterm_to_a_stage_that_handles_that_by_itself_and_a_second_one_ends_it():
    code = """
import signal, time
from dense_jax.processes.signals import stop_on_signals
with stop_on_signals():
    signal.signal(signal.SIGTERM, lambda *_: print("saving", flush=True))
    print(flush=True)
    time.sleep(120)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "saving\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=200) == 130


def test_processes_that_a_stage_starts_get_no_ctrl_c():
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with stop_on_signals():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.slow
def test_workers_of_multiprocessing_get_no_ctrl_c_either():
    code = """
import signal
from dense_jax.data.pipeline import start_resource_tracker
from dense_jax.processes.signals import stop_on_signals
with stop_on_signals():
    start_resource_tracker()
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
start_resource_tracker()
print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False"]


def test_an_error_that_a_library_makes_of_the_signal_is_no_traceback(monkeypatch, capsys):
    def importing(argv, stop):
        stop.at_once = False
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise ImportError("half of a package") from error

    monkeypatch.setattr("dense_jax.__main__._call", importing)
    assert run(["train"]) == 75
    assert capsys.readouterr().err == (
        "dense-jax train: stopped; finished parts are kept, start the same command to continue\n"
    )


INTERRUPTED_IMPORT = """
import os, signal, sys, time
from dense_jax.__main__ import run

class Interrupting:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

sys.meta_path.insert(0, Interrupting())
sys.exit(run(["search", "--config=ict:tiny", "--workdir=w", "query"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["tyro", "numpy.lib", "jax.numpy", "dense_jax.verbs"])
def test_ctrl_c_while_a_module_is_imported_is_one_line(module):
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, module]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.stderr == "dense-jax: stopped; finished parts are kept, start the same command to continue\n"
    assert done.returncode == 130


class OneSignal(socket.socket):
    """Receives SIGTERM once, at 0 seconds; after that every wait for another signal takes its timeout."""

    now, timeout, received = 0.0, 0.0, False

    def settimeout(self, seconds):
        self.timeout = seconds

    def recv(self, *arguments):
        if self.received:
            self.now += self.timeout
            raise TimeoutError
        self.received = True
        return bytes([signal.SIGTERM])


def test_a_stage_that_hears_no_signal_is_given_five_seconds(monkeypatch):
    monkeypatch.setattr("os._exit", sys.exit)
    with OneSignal() as signals, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr("time.monotonic", lambda: signals.now)
        _watch(signals, StopSignals(raised=True), threading.get_ident())
    assert ended.value.code == Stopped.code
    assert 5.0 < signals.now <= 6.0
