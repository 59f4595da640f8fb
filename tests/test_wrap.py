"""`bench.wrap`: a network in Python is a model, in Python and on the command line."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from console import crs
from torch import Tensor, nn

import bench
from bench import checkpoints, schedules
from bench.checkpoints import Models
from bench.process import VE, VP
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import Karras
from bench.types import Experiment, On

SMALL = "fmnist-pixel-small"
MODULE = """
import torch
from torch import nn
import bench
from bench.process import VP

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, timestep):
        return self.layer(x)

net = Net()
model = bench.wrap(net, process=VP("linear"), prediction="eps", shape=(1, 8, 8))

def made():
    return model

def broken():
    raise KeyError("weights.pt")

def experiment(models):
    return bench.Experiment(
        name="mine", title="Mine", model="wraplab:made", lines={"karras": bench.schedules.Karras()},
        samplers=(bench.samplers.DDIM(),), blocks=(bench.Block("1", range(8), (2,)),),
        scoring=bench.Scoring(metrics=("fd",)),
    )
"""


class Same(nn.Module):
    """Predicts 0, so that E[x0|x] = x of eps."""

    def __init__(self, gives: Any = torch.zeros_like) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.gives = gives

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Any:
        return self.gives(x)


def wrapped(net: nn.Module | None = None, **changes: Any) -> checkpoints.Checkpoint:
    about = {"process": VP("linear"), "prediction": "eps", "shape": (1, 4, 4), **changes}
    return bench.wrap(net or Same(), **about)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `wraplab.py`."""
    (tmp_path / "wraplab.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CRS_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delitem(sys.modules, "wraplab", raising=False)
    return tmp_path


def test_a_shipped_network_wrapped_gives_the_same_images() -> None:
    shipped = bench.load(SMALL)
    made = bench.wrap(shipped.net, process=shipped.process, prediction="v", shape=(1, 28, 28))
    ask = {"schedule": Karras(), "nfe": 4, "seeds": range(3)}
    want = bench.sample(shipped, sampler=DPMpp2M(), **ask)
    assert torch.equal(bench.sample(made, sampler=DPMpp2M(), **ask), want)
    assert made.digest != shipped.digest


def test_a_bare_folder_of_diffusers(tmp_path: Path) -> None:
    shipped = bench.load(SMALL)
    shipped.net.save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="scheduler_config.json is missing"):
        bench.load(tmp_path / "unet")
    made = bench.wrap(tmp_path / "unet", process=shipped.process, prediction="v")
    assert made.name == "unet" and made.shape == (1, 28, 28)
    ask = {"sampler": DDIM(), "schedule": Karras(), "nfe": 3, "seeds": range(2)}
    assert torch.equal(bench.sample(made, **ask), bench.sample(shipped, **ask))
    with pytest.raises(ValueError, match="config.json is missing"):
        bench.wrap(tmp_path, process=VP("linear"), prediction="v")


@pytest.mark.parametrize("process", [VP("linear"), VP("cosine", 100, 0.1, 5.0), VE(0.01, 50)])
def test_the_card_has_the_process(process: Any) -> None:
    assert wrapped(process=process).card.process.build() == process


def test_what_the_network_is_given() -> None:
    """x as the process scales it, its timestep, and labels if it has classes."""
    seen: list[tuple[Tensor, ...]] = []

    class Watching(Same):
        def forward(self, *given: Tensor) -> tuple[Tensor, None]:
            seen.append(given)
            return torch.zeros_like(given[0]), None

    x, process = torch.ones(2, 1, 4, 4), VP("linear")
    model = wrapped(Watching(), classes=3, clip=False)
    x0 = model.denoiser(torch.tensor([2, 0]))(x, 3.0)
    assert torch.equal(x0, x)  # eps = 0
    given, timestep, labels = seen[-1]
    assert given[0, 0, 0, 0].item() == pytest.approx(10**-0.5)
    assert timestep[0].item() == pytest.approx(float(process.timestep(torch.tensor(3.0))))
    assert labels[:2].tolist() == [2, 0]
    wrapped(Watching(), process=VE()).denoiser()(x, 3.0)
    assert len(seen[-1]) == 2 and seen[-1][1][0].item() == pytest.approx(0.25 * 1.0986123)


def test_digest_is_that_of_the_weights() -> None:
    first, other = Same(), Same()
    assert wrapped(first).digest == wrapped(other).digest
    with torch.no_grad():
        other.weight[0] = 2
    digests = {one.digest for one in (
        wrapped(first), wrapped(other), wrapped(first, version=2), wrapped(first, clip=False),
        wrapped(first, prediction="v"), wrapped(first, shape=(1, 4, 5)),
        wrapped(first, process=VP("cosine")),
    )}  # fmt: skip
    assert len(digests) == 7


def test_the_network_is_copied() -> None:
    net = Same().double().train()
    model = wrapped(net)
    half = checkpoints.placed(model, "cpu", "bfloat16")
    assert net.training and net.weight.dtype == torch.float64 and net.weight.requires_grad
    assert half.dtype == half.net.net.weight.dtype == torch.bfloat16
    assert model.net.net.weight.dtype == torch.float32 and half.digest == model.digest
    assert checkpoints.placed(model, "cpu", "float32") is model


@pytest.mark.parametrize(("changes", "said"), [
    ({"net": "nowhere"}, "config.json is missing"),
    ({"net": Same(lambda x: x[:, :, :2])}, r"must give \[1, 1, 4, 4\], not \[1, 1, 2, 4\]"),
    ({"net": Same(lambda x: x @ torch.ones(3, 3))}, "raised RuntimeError"),
    ({"net": Same(lambda x: None)}, "raised AttributeError"),
    ({"process": "linear"}, "process must be a bench.process.VP or VE"),
    ({"prediction": "noise"}, "prediction"),
    ({"null_class": True}, "null_class needs classes"),
    ({"shape": None}, r"needs shape=\(channels, height, width\)"),
    ({"net": object()}, "torch.nn.Module or a folder"),
])  # fmt: skip
def test_what_does_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrapped(**changes)


def test_names_of_objects(folder: Path) -> None:
    assert bench.load("wraplab:model").digest == bench.load("wraplab:made").digest
    assert bench.load("wraplab:model", dtype="bfloat16").dtype == torch.bfloat16
    for name, said in [
        ("wraplab:net", "is a Net, which is no model: make one with bench.wrap"),
        ("wraplab:broken", r"wraplab:broken raised KeyError: 'weights.pt' \(wraplab.py, line"),
        ("wraplab:modle", "did you mean model"),
        ("nolab:model", "no module 'nolab'"),
    ]:
        with pytest.raises(ValueError, match=said):
            bench.load(name)
    with pytest.raises(ValueError, match="it has no folder"):
        Models().folder("wraplab:model")


def test_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--schedule", "ConstantRate(v_x)", "--nfe", 3)
    cpu = ("--device", "cpu")
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    np.savez(folder / "data.npz", images.permute(0, 2, 3, 1).numpy())
    model = "wraplab:model"
    assert crs(monkeypatch, "sample", model, "out", "--nfe", 2, "--seeds", "0-3", *cpu) == 0
    assert len(list((folder / "out").glob("*.png"))) == 4
    assert crs(monkeypatch, "measure", model, "--measure", "DataPrediction", "--levels", 6,
               "--images", 16, "--data", "data.npz", *cpu) == 0  # fmt: skip
    assert (folder / "data/models/wraplab.model/measures/v_x.json").is_file()
    assert crs(monkeypatch, "schedule", model, *rate, "--format", "diffusers") == 0
    assert '"timesteps": [999' in capsys.readouterr().out
    assert crs(monkeypatch, "sample", model, "more", *rate, "--seeds", "0-1", *cpu) == 0


def test_experiment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.report.figures.write", lambda *_: [])
    ask = ("run", "wraplab:experiment", "--device", "cpu")
    assert crs(monkeypatch, *ask) == 0
    table = (folder / "results/mine/table.md").read_text()
    assert "wraplab:made" in table and "karras" in table
    capsys.readouterr()
    record = next((folder / "results/mine/records").glob("*.json"))
    before = record.stat().st_mtime_ns
    assert crs(monkeypatch, *ask) == 0 and record.stat().st_mtime_ns == before


def test_an_experiment_takes_names() -> None:
    about: dict[str, Any] = {"name": "x", "title": "", "samplers": (DDIM(),), "blocks": ()}
    with pytest.raises(ValueError, match="be a name, not a Checkpoint; write module:name"):
        Experiment(model=wrapped(), lines={"a": schedules.Native()}, **about)  # type: ignore
    with pytest.raises(ValueError, match="model must be a name"):
        Experiment(model="a", lines={"a": On(wrapped(), Karras())}, **about)  # type: ignore
