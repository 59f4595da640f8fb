"""What the README shows works as it stands there."""

import re
import shlex
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cli, names, schedules
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


def shell_lines(first: str) -> list[list[str]]:
    """Words of each command of the README's shell block that starts with `first`."""
    text = (ROOT / "README.md").read_text()
    block = re.search(rf"```\n({re.escape(first)}.*?)```", text, re.DOTALL)
    assert block, first
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


def test_the_method_in_five_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure of one's own, from measuring to a table, with fewer images and steps."""
    code = next(block for block in BLOCKS if "class Edges" in block)
    (tmp_path / "mylab.py").write_text(code.replace("range(200), (5, 10)", "range(8), (2,)"))
    shutil.copytree(ROOT / "models" / "fmnist-pixel-small", tmp_path / "models/fmnist-pixel-small")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 28, 28), dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mylab", raising=False)
    less = {"--images": "8", "--levels": "6", "--nfe": "3", "--batch": "4"}
    for words in shell_lines("crs-bench measure fmnist-pixel-small"):
        words = [less.get(words[i - 1], word) if i else word for i, word in enumerate(words)]
        if words[0] == "train":
            at = words.index("--minutes")
            words[at : at + 2] = ["--steps", "2"]
        words += ["--models", "models"]
        words += ["--data", "."] if words[0] in ("measure", "train") else []
        words += ["--seeds", "0-3"] if words[0] == "sample" else []
        monkeypatch.setattr(sys, "argv", ["crs-bench", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, words
    table = (tmp_path / "results" / "compare" / "table.md").read_text()
    for line in ("native", "CRS(v_edges, xi=0.5)", "trained under v_edges, native"):
        assert re.search(rf"\| {re.escape(line)} \| \**[0-9.]+", table), line
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
