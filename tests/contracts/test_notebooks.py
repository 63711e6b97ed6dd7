"""The notebooks of the documentation run, from the first cell to the last, and show little."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
#: Run by IPython before the first cell: a notebook's `import timm` works also where torchvision
#: does not fit the installed torch, and the progress bars of its libraries need no ipywidgets.
START = """
import warnings
from criticalmass.extraction.models.optional_imports import import_torchvision
warnings.filterwarnings("ignore", message="IProgress not found")
import_torchvision()
"""
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    return importlib.import_module("nbformat").read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_of_ten_cells() -> None:
    assert len(code_cells(read(FOLDER / "live-model.ipynb"))) == 10


# The kernel's own warnings are not of this package.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_little(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = importlib.import_module("nbclient")
    stored = read(path)
    assert path.stat().st_size < 60_000
    assert all(cell.execution_count for cell in code_cells(stored))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "start.py").write_text(START)
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    notebook = read(path)
    client.NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    for before, after in zip(code_cells(stored), code_cells(notebook), strict=True):
        assert [output.output_type for output in before.outputs] == [
            output.output_type for output in after.outputs
        ]
        # A task has one output, which is replaced as it advances.
        assert len(after.outputs) <= 6
        for output in after.outputs:
            assert output.get("name") != "stderr"
            for kind, content in output.get("data", {}).items():
                assert len(str(content)) < (45_000 if kind == "image/png" else 20_000)
