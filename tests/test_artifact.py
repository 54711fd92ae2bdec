"""Folders that are claimed, filled and finished: what is refused, and how damage is named."""

import pytest

from dense_jax import artifact
from dense_jax.artifact import (
    Manifest,
    check_settings,
    claim,
    finish,
    is_finished,
    read_claim,
    read_manifest,
    verify_files,
)
from dense_jax.errors import ConfigError, StorageError
from dense_jax.io import digests, write_json


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "made"
    claim(folder, {"length": 9}, {"rejected": 1})
    (folder / "a.txt").write_text("some text")
    finish(folder, {"count": 1}, digests(folder, "*.txt"))
    return folder


def test_a_folder_is_claimed_before_it_is_finished(tmp_path):
    assert read_claim(tmp_path) is None
    claim(tmp_path, {"length": 9})
    assert read_claim(tmp_path) == {"settings": {"length": 9}}
    assert not is_finished(tmp_path)


def test_the_manifest_holds_the_claim_the_figures_and_the_digests(finished):
    found = read_manifest(finished, Manifest, "texts", "prepare")
    assert found == {
        "settings": {"length": 9}, "notes": {"rejected": 1}, "count": 1, "files": digests(finished, "a.txt"),
    }  # fmt: skip
    assert is_finished(finished)


def test_an_unfinished_folder_names_the_command_that_finishes_it(tmp_path):
    claim(tmp_path, {})
    with pytest.raises(
        StorageError, match=r"holds no finished texts \(manifest.json is missing\); run `dense-jax prep"
    ):
        read_manifest(tmp_path, Manifest, "texts", "prepare")


def test_the_same_settings_continue_a_folder_and_keep_its_claim(tmp_path):
    claim(tmp_path, {"length": 9}, {"rejected": 1})
    claim(tmp_path, {"length": 9})
    assert read_claim(tmp_path) == {"settings": {"length": 9}, "notes": {"rejected": 1}}


@pytest.mark.parametrize("is_done", [True, False], ids=["finished", "unfinished"])
def test_other_settings_are_refused_with_each_difference(finished, is_done):
    if not is_done:
        (finished / "manifest.json").unlink()
    check_settings(finished, {"length": 9})
    message = r"made was made with other settings:\n  length: 9 -> 8\n  seed: None -> 1\nuse these settings again"
    with pytest.raises(ConfigError, match=message):
        claim(finished, {"length": 8, "seed": 1})


def test_a_renamed_file_of_the_same_content_is_no_other_setting(tmp_path):
    claim(tmp_path, {"source": {"name": "a", "digest": "1"}})
    check_settings(tmp_path, {"source": {"name": "b", "digest": "1"}})
    with pytest.raises(ConfigError, match=r"source\.digest: 1 -> 2"):
        check_settings(tmp_path, {"source": {"name": "a", "digest": "2"}})


def test_a_changed_file_is_named_with_the_command_that_makes_the_folder_again(finished):
    files = read_manifest(finished, Manifest, "texts", "prepare")["files"]
    verify_files(finished, files, "prepare")
    (finished / "a.txt").write_text("other text")
    with pytest.raises(StorageError, match=r"a\.txt: digest .* changed .*; remove .*made and run `dense-jax prepare`"):
        verify_files(finished, files, "prepare")
    (finished / "a.txt").unlink()
    with pytest.raises(StorageError, match=r"a\.txt: missing; remove .*made and run `dense-jax prepare` again"):
        artifact.verify_together(finished, files, "prepare")


def test_a_claim_that_a_power_cut_emptied_is_written_again(tmp_path):
    claim(tmp_path, {"length": 9})
    (tmp_path / "claim.json").write_bytes(b"")
    claim(tmp_path, {"length": 8})
    assert read_claim(tmp_path) == {"settings": {"length": 8}}


def test_a_claim_of_another_shape_is_named(tmp_path):
    write_json(tmp_path / "claim.json", {"settings": 3})
    with pytest.raises(StorageError, match=r"claim\.json: damaged \(settings"):
        claim(tmp_path, {})
