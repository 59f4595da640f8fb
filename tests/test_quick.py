"""The two experiments of a first run: `quick` and, in colour, `quick-colour`."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import checkpoints, experiments, plan, store
from bench.cli.experiments import experiments_here
from bench.report.frame import Results
from bench.report.samples import samples
from bench.run import run
from bench.types import Experiment

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"


@pytest.fixture
def colour() -> Experiment:
    return experiments.quick_colour(checkpoints.Models(MODELS))


def test_the_colour_plan_is_small_and_uses_the_rates_of_its_models(
    colour: Experiment, tmp_path: Path
) -> None:
    assert experiments_here()["quick-colour"] is experiments.quick_colour
    bench = plan.open_bench(colour, tmp_path, MODELS)
    cells = plan.scored(bench, {}, {})
    assert len(cells) == 12 and sum(len(one.cell.seeds) * one.cell.nfe for one in cells) < 15_000
    (reference,) = bench.judge.real.values()
    assert (reference.n, len(reference.bank)) == (50_000, colour.scoring.bank)
    for line, model in (("CRS(v_x, xi=0.5)", "cifar-latent"),
                        ("CRS-trained, CRS(v_x, xi=0.5)", "cifar-latent-crs")):  # fmt: skip
        (rate,) = colour.on(line).schedule.measured
        assert colour.on(line).model == model
        assert (rate.name, rate.provenance["model"]) == ("v_x", model)
        digest = checkpoints.identity(checkpoints.read_card(MODELS / model))
        assert rate.provenance["model_digest"] == digest


def test_a_colour_run_shows_colour_and_no_real_images(
    colour: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.report.figures.write", lambda *_: [])  # other tests draw them
    blocks = tuple(replace(one, seeds=range(5), nfes=(3,)) for one in colour.blocks)
    run(replace(colour, blocks=blocks, samplers=colour.samplers[:1]), tmp_path, MODELS)
    folder = tmp_path / "quick-colour"
    assert not (folder / "real.png").exists()
    results = Results(store.load_plan(folder), store.load_records(folder))
    ((model, n),) = results.groups()
    drawn = samples(results, model, n, folder)
    assert drawn and len([axes for axes in drawn.axes if axes.get_ylabel()]) == 3
    strips = sorted((folder / "records").glob("*.png"))
    shown = [np.asarray(axes.images[0].get_array()) for axes in drawn.axes]
    assert len(strips) == len(shown) == 3
    for pixels in (*shown, *(np.asarray(Image.open(path)) for path in strips)):
        assert pixels.shape == (32, 5 * 32, 3)
        assert np.ptp(pixels.astype(int), axis=2).max() > 20  # channels that differ: not grey
    assert "cifar10-q75" in (folder / "table.md").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """reproduce.sh beside an environment that is up to date, whose crs-bench prints its arguments.

    It fails if the experiment is that of the variable FAILS.
    """
    shutil.copy(ROOT / "reproduce.sh", tmp_path)
    programs = {
        "python": '[ "$*" = "-c " ] || echo "$0"',
        "crs-bench": 'echo "$@"; [ "$2" != "${FAILS:-}" ]',
    }
    for name, text in programs.items():
        path = tmp_path / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / ".venv" / "crs-bench.stamp").write_text(f"{path.parent / 'python'}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "fails", "ran"),
    [
        ("", "", ["run quick", "run quick-colour"]),
        ("", "quick", ["run quick"]),
        ("quick", "", ["run quick"]),
        ("quick-colour --images 8", "", ["run quick-colour --images 8"]),
        ("setup", "", []),
    ],
)
def test_reproduce_runs_both_or_the_one_that_is_asked_for(
    asked: str, fails: str, ran: list[str], checkout: Path
) -> None:
    here = {"PYTHON": str(checkout / ".venv" / "bin" / "python"), "FAILS": fails}
    done = subprocess.run(["bash", checkout / "reproduce.sh", *asked.split()], text=True,
                          env=os.environ | here, capture_output=True)  # fmt: skip
    assert (done.stdout.splitlines(), done.returncode) == (ran, int(bool(fails))), done.stderr


def test_git_ignores_what_a_first_run_writes() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {f"results/{name}/" for name in ("quick", "quick-colour")} <= set(ignored)
