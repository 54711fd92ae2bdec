"""The wheel, installed alone into an environment of its own, and run from an empty folder."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.faults.command_line import ROOT, SMALL, write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "dense_jax")


def succeeds(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources, since a build leaves files among them."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", target)
    succeeds(sys.executable, "-m", "pip", "wheel", *offline, sources, cwd=sources)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory) -> Path:
    """`dense-jax` of an environment that has the wheel, and sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    succeeds(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    succeeds(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return folder / "bin" / "dense-jax"


def test_the_wheel_holds_the_licence_the_configs_and_the_templates_of_the_pages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    metadata = zipfile.ZipFile(wheel).read("dense_jax-0.1.0.dist-info/METADATA").decode()
    assert "dense_jax/configs/ict.py" in names
    assert {f"dense_jax/report/{name}.html" for name in ("base", "run", "comparison")} <= set(names)
    assert "dense_jax-0.1.0.dist-info/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0\n" in metadata and "\n# dense_jax\n" in metadata


def test_the_verbs_of_the_demo_run_from_an_empty_folder(program, tmp_path):
    corpus, folder = write_corpus(tmp_path / "documents.jsonl"), tmp_path / "empty"
    folder.mkdir()
    settings = {**SMALL, "corpus.source": corpus, "corpus.held_out": 10}
    small = [f"--{key}={value}" for key, value in settings.items()]
    succeeds(program, "prepare", "--config=ict:tiny", "--workdir=w", *small, cwd=folder)
    for verb in ("show", "train", "embed", "index", "evaluate", "export", "report"):
        succeeds(program, verb, "--workdir=w", cwd=folder)
    assert "   1  " in succeeds(program, "search", "--workdir=w", "a river and a bridge", cwd=folder)
    assert (folder / "w" / "export" / "modules.json").is_file()
    report = (folder / "w" / "report.html").read_text()
    assert "after training" in report and "<svg" in report and "Gains" in report
    assert "after training" in (folder / "w" / "results" / "test-test" / "table.md").read_text()
