"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from bench import names, schedules
from bench.process import VP

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_six_lines_print_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    code = next(block for block in BLOCKS if "bench.load" in block)
    exec(code.replace("range(64)", "range(8)"), {})
    assert {"fd", "precision", "recall"} <= set(eval(capsys.readouterr().out))


def test_a_schedule_in_a_module_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(block for block in BLOCKS if "class Quadratic" in block)
    (tmp_path / "mylab.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    process = VP("linear")
    grid = names.build("mylab:Quadratic(power=3)", schedules)(10, process)
    assert grid.shape == (11,) and grid.dtype == torch.float64
    assert (grid.diff() < 0).all() and grid[-1] == 0
    assert float(grid[0]) == pytest.approx(process.sigma_max)
