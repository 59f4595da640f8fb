"""All seven parts of one's own, from one module, through the command line; nothing is edited."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from safetensors.torch import save_file
from test_families import MINE as FAMILY

from bench import store

ROOT = Path(__file__).resolve().parents[1]

PARTS = """
from dataclasses import dataclass

import numpy as np
import torch

import bench
from bench import measures
from bench.schedules import ConstantRate


@dataclass(frozen=True)
class Halves(bench.Schedule):
    "Each level is a share of the one before."

    share: float = 0.5

    def __call__(self, steps, process):
        grid = process.sigma_max * self.share ** torch.arange(steps, dtype=torch.float64)
        return torch.cat([grid, torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class Euler(bench.Sampler):
    "The first-order step."

    def __call__(self, denoise, x, grid, noise):
        for sigma, then in zip(grid.tolist(), grid.tolist()[1:]):
            x0 = denoise(x, sigma)
            x = x0 + (x - x0) * (then / sigma)
        return x


@dataclass(frozen=True)
class Steady(bench.Measure):
    "A rate that is the same in log sigma."

    needs_images = False
    whole_range = True
    name = "steady"

    def __call__(self, model, images, sigmas):
        return bench.Rate("any", sigmas, 1 / sigmas)


@dataclass(frozen=True)
class Rows(bench.Extractor):
    "The mean of each row of pixels."

    name = "rows"
    digest = "1"

    def __call__(self, images):
        return images.float().mean((1, 3))


@dataclass(frozen=True)
class Shift(bench.Metric):
    "Distance of the means."

    name = "shift"

    def __call__(self, *, fake, real):
        return bench.Score(float((fake.mean - real.mean).norm()))


def trial(models):
    rate = measures.find(models.homes("toy"), "steady")
    return bench.Experiment(
        name="trial", title="trial", model="toy", samplers=(Euler(),),
        lines={"halves": Halves(), "CRS(steady)": ConstantRate(rate)},
        blocks=(bench.Block("1", range(12), (2, 3)),),
        scoring=bench.Scoring("LAB:Rows", "real.rows.npz", ("fd", "LAB:Shift"), batch=4, shard=5),
    )


@dataclass(frozen=True)
class Nothing:
    "It derives from no base class."

    name = digest = "nothing"
    layers = ("features",)
    needs_images = whole_range = needs_real = False

    def __call__(self, *what, **more):
        return torch.ones(5)
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of the user's own with all seven parts, in the folder they work in."""
    name = f"mylab_{abs(hash(request.node.name))}"
    code = FAMILY.replace("MODULE", name) + PARTS.replace("LAB", name)
    (tmp_path / f"{name}.py").write_text(code)
    draw = torch.Generator().manual_seed(0)
    save_file({"net.layer.weight": 0.1 * torch.randn(1, 1, 3, 3, generator=draw),
               "net.layer.bias": torch.zeros(1)}, tmp_path / "toy.safetensors")  # fmt: skip
    real = torch.randint(0, 256, (60, 8, 8, 3), generator=draw)
    np.savez(tmp_path / "real.npz", arr_0=real.to(torch.uint8).numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("CRS_BENCH_DATA", str(tmp_path / "data"))
    return name


def test_seven_parts_of_ones_own(
    lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def do(*words: object) -> str:
        capsys.readouterr()
        assert crs(monkeypatch, *words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    cpu, models = ("--device", "cpu"), ("--models", "models")
    do("add", "toy.safetensors", "--family", f"{lab}:Toy", "--preset", "small", "--name", "toy",
       *models)  # fmt: skip
    do("measure", "toy", "--measure", f"{lab}:Steady", "--levels", 9, *models, *cpu)
    rate = store.read_json(Path("models/toy/measures/steady.json"))
    assert rate["name"] == "steady" and len(rate["v"]) == 9
    assert rate["provenance"]["measure"]["class"] == f"{lab}:Steady"
    halves = f"{lab}:Halves(share=0.25)"
    grid = json.loads(do("schedule", "toy", "--schedule", halves, "--nfe", 3, "--json", *models))
    assert grid["sigma"][1] == pytest.approx(grid["sigma"][0] / 4) and grid["sigma"][-1] == 0
    do("schedule", "toy", "--schedule", "ConstantRate(steady)", "--nfe", 3, *models)
    how = ("--schedule", halves, "--sampler", f"{lab}:Euler", "--nfe", 3, "--seeds", "0-19")
    do("sample", "toy", "fake.npz", *how, *models, *cpu)
    assert np.load("fake.npz")["arr_0"].shape == (20, 8, 8, 1)
    rows = ("--features", f"{lab}:Rows")
    do("reference", "real.rows.npz", "--images", "real.npz", *rows, *cpu)
    asked = ("--metrics", f"fd,{lab}:Shift", "--json")
    said = json.loads(do("score", "fake.npz", "real.rows.npz", *rows, *asked, *cpu))
    assert said["shift"] > 0 and said["fd"] > 0
    assert said["protocol"]["shift"]["metric"]["class"] == f"{lab}:Shift"
    do("run", f"{lab}:trial", "--results", "results", *models, *cpu)
    text = Path("results/trial/table.md").read_text()
    assert "## FD (rows), toy" in text and "## shift, toy" in text
    records = store.load_records(Path("results/trial"))
    assert {one["cell"]["sampler"]["class"] for one in records.values()} == {f"{lab}:Euler"}
    labels = {one["cell"]["label"].partition("(")[0] for one in records.values()}
    assert labels == {"Halves", "ConstantRate"}
    assert all(one["nfe"] in (2, 3) for one in records.values())
    before = text, len(records)
    do("run", f"{lab}:trial", "--results", "results", *models, *cpu)  # nothing is run again
    assert before == (Path("results/trial/table.md").read_text(),
                      len(store.load_records(Path("results/trial"))))  # fmt: skip


def test_a_part_that_does_not_derive_from_its_base_is_refused(
    lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = ("--models", ROOT / "models", "--device", "cpu")
    model, part = "oracle-gaussian", f"{lab}:Nothing"
    (tmp_path / "more.py").write_text(
        f"import bench\nfrom {lab} import Nothing\nfrom bench import samplers, schedules\n"
        "def of(lines, each, **scoring):\n"
        "    return bench.Experiment('x', 'x', 'oracle-gaussian', lines, each,\n"
        "                            (bench.Block('1', range(4), (2,)),),\n"
        "                            scoring=bench.Scoring(**scoring))\n"
        "def line(_): return of({'a': Nothing()}, (samplers.DDIM(),))\n"
        "def walk(_): return of({'a': schedules.Karras()}, (Nothing(),))\n"
        "def look(_): return of({'a': schedules.Karras()}, (samplers.DDIM(),),\n"
        f"                       features='{part}')\n"
        "def judge(_): return of({'a': schedules.Karras()}, (samplers.DDIM(),),\n"
        f"                        metrics=('{part}',))\n"
        "def number(_): return 42\n"
        "six = 6\n"
    )
    metric = ("--features", "flatten", "--metrics", part, "--device", "cpu")
    score = ("score", "real.npz", "real.npz")
    for words, base in (
        (("sample", model, "out", "--schedule", part, *shipped), "bench.Schedule"),
        (("schedule", model, "--schedule", part, *shipped[:2]), "bench.Schedule"),
        (("sample", model, "out", "--sampler", part, *shipped), "bench.Sampler"),
        (("measure", model, "--measure", part, *shipped), "bench.Measure"),
        ((*score, *metric), "bench.Metric"),
        ((*score, "--features", part, "--device", "cpu"), "bench.Extractor"),
        (("reference", "r.npz", "--images", "real.npz", "--features", part), "bench.Extractor"),
        (("add", "toy.safetensors", "--family", part, "--name", "toy"), "a Family object"),
        (("run", "more:line", *shipped), "bench.Schedule"),
        (("run", "more:walk", *shipped), "bench.Sampler"),
        (("run", "more:look", *shipped), "bench.Extractor"),
        (("run", "more:judge", *shipped), "bench.Metric"),
        (("run", "more:number", *shipped), "bench.Experiment"),
        (("run", "more:six", *shipped), "bench.Experiment"),
    ):
        capsys.readouterr()
        assert crs(monkeypatch, *words) == 2, words
        said = capsys.readouterr().err
        assert base in said and said.count("\n") == 1, (words, said)
    assert not (tmp_path / "out").exists() and not (tmp_path / "r.npz").exists()
    assert not list(tmp_path.glob("results/*/*")) or not list(tmp_path.glob("results/*/records/*"))


def test_the_package_was_not_touched() -> None:
    """Parts are found by `module:Name`: no list of the package names those of a user."""
    done = subprocess.run(
        ["git", "grep", "-lE", "mylab_|Halves", "--", "bench"], cwd=ROOT, capture_output=True
    )
    assert not done.stdout
