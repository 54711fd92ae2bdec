"""Files are whole or absent, damage is named, and a disk that refuses is said plainly."""

import subprocess
import sys

import pytest

from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import (
    digest,
    digests,
    read_json,
    text_lines,
    verify,
    whole_file,
    writable,
    write_json,
    write_strings,
)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert read_json(path) == {"old": 1}


@pytest.mark.parametrize("strings", [[], ["a"], ["a", 'b"\\\n', "\u2028é"]])
def test_a_list_of_strings_is_written_one_by_one_as_json_writes_all(tmp_path, strings):
    write_json(tmp_path / "all.json", strings)
    write_strings(tmp_path / "each.json", iter(strings))
    assert (tmp_path / "each.json").read_bytes() == (tmp_path / "all.json").read_bytes()


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match=r"a\.json: damaged"):
        read_json(tmp_path / "a.json")


def test_a_git_lfs_pointer_in_the_place_of_json_is_named_with_its_cure(tmp_path):
    (tmp_path / "a.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(
        StorageError, match=r"a\.json: a Git LFS pointer, not the file itself; fetch it by `git lfs pull`"
    ):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\n\r\nb\n", ["a", "", "b"]),
        ("a\u2028b\x85\n\x0bc", ["a\u2028b\x85", "\x0bc"]),
    ],
)
def test_lines_end_at_a_newline_only(text, lines, tmp_path):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert text_lines(tmp_path / "a.txt") == lines


def test_a_changed_byte_changes_the_digest_and_is_found(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    known = digests(tmp_path)
    assert known == {"a.bin": digest(path)}
    path.write_bytes(b"abd")
    with pytest.raises(StorageError, match=r"a\.bin: digest .* is not the recorded"):
        verify(tmp_path, known)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"a\.bin: missing"):
        verify(tmp_path, {"a.bin": "0"})


def test_a_workdir_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/runs is not writable \(Not a directory\); name another folder"):
        writable(tmp_path / "file" / "runs")


def test_a_disk_that_takes_no_more_is_an_error_that_says_what_to_do(tmp_path):
    """A limit on the size of files stands in for a full disk: the system refuses the write in the same place."""
    program = f"""
import resource
from pathlib import Path
from dense_jax.errors import StorageError
from dense_jax.io import write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_json(Path({str(tmp_path)!r}) / "big.json", "x" * 100_000)
except StorageError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "big.json: the disk is full; free some space and start again, finished parts stay" in said
    assert not (tmp_path / "big.json").exists()
