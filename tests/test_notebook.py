"""examples/quickstart.ipynb: kept without outputs, and run by a kernel with small settings."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
pytestmark = pytest.mark.filterwarnings("default")  # of Jupyter's packages


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_kept_without_outputs(notebook):
    import nbformat

    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_cell_of_the_notebook_runs_and_shows_its_result(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    from tests.faults.command_line import SMALL, write_corpus

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = {**SMALL, "corpus.source": str(write_corpus(tmp_path / "documents.jsonl")), "corpus.held_out": 10}
    (cell,) = (cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", ()))
    cell.source = f"SETTINGS = {settings!r}\nWORKDIR = {str(tmp_path / 'run')!r}"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html", "text/markdown"} <= kinds
    text = "".join(output.text for output in shown if output.get("name") == "stdout")
    assert "examples, " in text and "number " in text and "vectors" in text
    assert (tmp_path / "run" / "export" / "modules.json").is_file()
