"""Standard streams of every encoding, closed or full; and platforms that are missing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dense_jax.errors import DataError, MachineError
from dense_jax.processes.distributed import explain_missing_platform
from dense_jax.terminal.streams import Unfailing, input_lines, without_native_logs

ROOT = Path(__file__).parent.parent
SAYING = (
    "from dense_jax import __main__ as m; import sys; "
    "m._call = lambda argv, stop: print(argv[0]); sys.argv[1:] = ['\\u017eába']; m.main()"
)


def saying(**settings) -> subprocess.CompletedProcess:
    """A command line whose verb prints one word of letters that not all encodings have."""
    environment = dict(os.environ) | settings.pop("environment", {})
    return subprocess.run([sys.executable, "-c", SAYING], cwd=ROOT, env=environment, check=False, **settings)


@pytest.mark.parametrize(("encoding", "said"), [("ascii", b"\\u017e\\xe1ba\n"), ("latin-1", b"\\u017e\xe1ba\n")])
def test_what_an_encoding_lacks_is_printed_as_an_escape(encoding, said):
    done = saying(environment={"PYTHONIOENCODING": encoding}, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, b"")


def test_a_full_device_ends_in_one_line_and_the_status_of_storage():
    with Path("/dev/full").open("wb") as full:
        done = saying(stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 4
    assert done.stderr.decode().count("\n") == 1
    assert b"No space left on device" in done.stderr


def test_a_reader_who_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = saying(stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_was_closed_before_the_start_is_no_error(closed):
    command = [sys.executable, "-c", SAYING]
    done = subprocess.run(["bash", "-c", f'exec "$@" {closed}<&-', "bash", *command], cwd=ROOT, capture_output=True)
    assert done.returncode == 0


def test_notes_that_cannot_be_written_stop_nothing():
    device = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with Unfailing(device, encoding="utf-8", write_through=True) as full:
        print("epoch 1", file=full, flush=True)


def typed(monkeypatch, data: bytes) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
    return input_lines()


def test_log_lines_of_native_libraries_are_dropped_and_other_lines_are_passed_on(capfd):
    with without_native_logs():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, b"I0000 00:00:1796133821.507474 7021 partitioner.cc:58] Size of sampled dataset: 3000\n")
        os.write(2, b"W0000 00:00:1796133821.522298 7021 gmm_utils.cc:1026] Could not normalize centroid\n")
        os.write(2, b"E0000 00:00:1796133821.522298 7021 gmm_utils.cc:1] an error\nIn truth a note\n")
    os.write(2, b"I0000 after it\n")
    assert capfd.readouterr().err == (
        "E0000 00:00:1796133821.522298 7021 gmm_utils.cc:1] an error\nIn truth a note\nI0000 after it\n"
    )


def test_log_lines_are_dropped_with_a_standard_error_that_is_closed():
    code = "import os; from dense_jax.terminal import streams\nos.close(2)\nwith streams.without_native_logs(): pass"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_queries_are_read_as_utf_8_whatever_the_encoding_of_the_terminal(monkeypatch):
    assert typed(monkeypatch, "\ufeffžába\r\n\n one\u2028two \n".encode()) == ["žába", "one\u2028two"]


def test_a_query_that_is_not_utf_8_is_named_by_its_line(monkeypatch):
    with pytest.raises(DataError, match=r"^standard input, line 2: byte 0xff is not UTF-8; convert it"):
        typed(monkeypatch, b"one\n\xff\n")


@pytest.mark.parametrize("reason", ["Unable to initialize backend 'tpu': no libtpu", "Unknown backend gpu"])
def test_a_platform_that_jax_does_not_find_is_named_with_the_fix(reason):
    with (
        pytest.raises(MachineError, match=rf"^JAX_PLATFORMS=tpu: {reason}; unset JAX_PLATFORMS"),
        explain_missing_platform({"JAX_PLATFORMS": "tpu"}),
    ):
        raise RuntimeError(f"{reason}\nmore")


def test_another_error_of_jax_is_not_taken_for_a_missing_platform():
    with pytest.raises(RuntimeError, match="out of memory"), explain_missing_platform({}):
        raise RuntimeError("out of memory")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "search"])
def test_an_unknown_platform_is_one_line_and_the_status_of_machines(verb):
    code = (
        "import os, sys; from dense_jax import verbs; from dense_jax.config.command_line import Invocation; "
        "import jax; "
        "from dense_jax.processes.distributed import start_distributed; "
        "from pathlib import Path; from dense_jax import __main__; "
        "verbs.VERBS[sys.argv[1]] = verbs._train = lambda *_, **__: start_distributed(os.environ); "
        "verbs.Run = lambda *_, **__: None; "
        "__main__._call = lambda argv, stop: verbs.call(argv[0], Invocation(None, Path('.'), []), stop); "
        "__main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, verb],
        cwd=ROOT,
        env=dict(os.environ) | {"JAX_PLATFORMS": "nosuch"},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dense-jax {verb}: JAX_PLATFORMS=nosuch: Unable to initialize backend 'nosuch'")
    assert done.returncode == 6
