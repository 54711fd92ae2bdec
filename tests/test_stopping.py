"""SIGTERM ends a stage with status 75, whatever it is at; how it goes on is in test_end_to_end.py."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dense_jax.errors import Stopped
from dense_jax.stopping import stopping_on_sigterm

ROOT = Path(__file__).parent.parent
# The second lock of a mutex that is held waits for ever, and no signal wakes it. One that comes before changes nothing.
DEAF = """
import ctypes
from dense_jax.errors import Stopped
from dense_jax.stopping import stopping_on_sigterm
mutex = ctypes.create_string_buffer(64)
with stopping_on_sigterm():
    while True:
        try:
            print(flush=True)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
        except Stopped:
            pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_stage_that_hears_no_signal_is_ended(signals):
    running = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    running.stdout.readline()
    for _ in range(signals):
        running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=200)
    assert running.returncode == Stopped.code
    assert said == "dense-jax: stopped; finished parts are kept, start the same command to continue\n"


def test_sigterm_raises_what_has_status_75_and_afterwards_it_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="start the same command to continue"), stopping_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
