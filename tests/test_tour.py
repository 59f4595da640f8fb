"""The notebook of the documentation runs from its first cell to its last, as it stands there."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from bench.cli.docs import pages

PATH = Path(__file__).resolve().parents[1] / "bench" / "docs" / "tour.ipynb"


@pytest.fixture
def tour() -> nbformat.NotebookNode:
    """The notebook, checked against the format."""
    found = nbformat.read(PATH, as_version=4)
    nbformat.validate(found)
    return found


def test_the_notebook_runs(
    tour: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code cells in one namespace, in order, without a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRS_BENCH_DATA", str(tmp_path / "data"))
    scope: dict[str, object] = {"__name__": "__main__"}
    for at, cell in enumerate(tour.cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"tour.ipynb, cell {at}", "exec"), scope)
    plt.close("all")
    table = (tmp_path / "results" / "tour" / "table.md").read_text(encoding="utf-8")
    for line in ("native", "Karras", "CRS"):
        assert re.search(rf"\| {line} +\| +\**[0-9.]+", table), line


def test_the_notebook_ships_without_outputs(tour: nbformat.NotebookNode) -> None:
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_the_notebook_is_a_page(tour: nbformat.NotebookNode) -> None:
    text = pages()["tour"]
    assert text.startswith("# Tour\n")
    for cell in tour.cells:
        code = cell.cell_type == "code"
        assert (f"```python\n{cell.source}\n```" if code else cell.source) in text
