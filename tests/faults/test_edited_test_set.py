"""A held-out test set that somebody edited is refused wherever figures or training text come from it."""

import json
import shutil
from dataclasses import replace

import pytest

from dense_jax.config import EvaluateConfig, PassagesConfig, ValidationConfig
from dense_jax.data.preparation.prepare import prepare
from dense_jax.errors import StorageError
from dense_jax.workdir import Workdir
from tests.sources import config as small_config
from tests.sources import rows, write


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source" / "rows.jsonl", rows(30))


def edit_query(folder):
    lines = (folder / "queries.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"text": "an easier question"})
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")


def drop_judgement(folder):
    path = folder / "qrels" / "test.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def remove_corpus(folder):
    (folder / "corpus.jsonl").unlink()


@pytest.mark.parametrize("edit", [edit_query, drop_judgement, remove_corpus])
def test_an_edited_test_set_is_refused_until_it_is_restored(source, tmp_path, edit):
    config, workdir = small_config(source, held_out=4), tmp_path / "work"
    prepare(config, workdir)
    shutil.copytree(workdir / "test", tmp_path / "copy")
    edit(workdir / "test")
    config = replace(config, validation=ValidationConfig(every=1))
    uses = {
        "evaluate": lambda: Workdir(workdir, config).test_folder,
        "validation": lambda: Workdir(workdir, config).sample(),
        "prepare": lambda: prepare(replace(config, passages=PassagesConfig(length=40)), workdir),
    }
    for use in uses.values():
        with pytest.raises(StorageError, match=r"work/test/.*(has changed since|missing)(.|\n)*evaluate\.folder"):
            use()
    shutil.rmtree(workdir / "test")
    shutil.copytree(tmp_path / "copy", workdir / "test")
    assert Workdir(workdir, config).test_folder == workdir / "test"
    uses["prepare"]()


def test_a_test_set_of_ones_own_may_be_edited(source, tmp_path):
    config, workdir = small_config(source, held_out=4), tmp_path / "work"
    prepare(config, workdir)
    shutil.copytree(workdir / "test", tmp_path / "own")
    edit_query(tmp_path / "own")
    config = replace(config, evaluate=EvaluateConfig(folder=str(tmp_path / "own")))
    assert Workdir(workdir, config).test_folder == tmp_path / "own"


def test_a_moved_workdir_keeps_its_test_set(source, tmp_path):
    config = small_config(source, held_out=4)
    prepare(config, tmp_path / "work")
    shutil.move(tmp_path / "work", tmp_path / "moved")
    assert Workdir(tmp_path / "moved", config).test_folder.is_dir()
