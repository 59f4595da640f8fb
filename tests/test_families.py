"""Families of networks: found by name, imported only on demand, and written by users."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from safetensors.torch import save_file

from bench import checkpoints, zoo
from bench.checkpoints import Family, find_family
from bench.zoo.add import add
from bench.zoo.adm import PRESETS, ADMNet
from bench.zoo.presets import published_family

ROOT = Path(__file__).resolve().parents[1]

# 15 lines of code and a preset: a whole family
MINE = """
from torch import nn

from bench.checkpoints import Output
from bench.checkpoints.card import VPCard
from bench.zoo.base import Converted, Flags, Preset, PublishedFamily


class ToyFlags(Flags):
    size: int

    @property
    def shape(self):
        return 1, self.size, self.size

    def disagreement(self, card):
        return "classes must be 0: a toy is unconditional" if card.classes else ""


class ToyNet(nn.Module):
    def __init__(self, flags):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, timestep, class_labels=None):
        return Output(self.layer(x))


class ToyPreset(Preset):
    flags: ToyFlags

    def converted(self, name, tensors):
        process = VPCard(kind="vp")
        card = self.card(name, "MODULE:Toy", self.flags, process=process, prediction="eps")
        return Converted(card, {key.removeprefix("net."): x for key, x in tensors.items()})


Toy = PublishedFamily(ToyFlags, ToyNet, ToyPreset, {"small": ToyPreset(flags=ToyFlags(size=8))})
other = 3
"""


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a user's module in the working folder, beside a file `toy.safetensors`."""
    name = f"mylab_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MINE.replace("MODULE", name))
    weight = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    save_file({"net.layer.weight": weight, "net.layer.bias": torch.zeros(1)},
              tmp_path / "toy.safetensors")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_users_own_family_from_a_file_to_images(
    mylab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    models = ("--models", tmp_path / "models")
    asked = ("add", "toy.safetensors", "--family", f"{mylab}:Toy", "--name", "toy", *models)
    assert crs(monkeypatch, *asked, "--preset", "smal") == 2
    assert "did you mean small" in capsys.readouterr().err
    assert crs(monkeypatch, *asked, "--preset", "small") == 0
    sampled = ("sample", "toy", "a.npz", "--nfe", 2, "--seeds", "0-2", "--device", "cpu", *models)
    assert crs(monkeypatch, *sampled) == 0
    assert np.load("a.npz")["arr_0"].shape[:3] == (3, 8, 8)
    card = checkpoints.read_card(tmp_path / "models" / "toy")
    assert card.family == f"{mylab}:Toy" and card.network == {"size": 8}
    checkpoints.write_card(tmp_path / "models" / "toy", card.model_copy(update={"classes": 2}))
    assert crs(monkeypatch, *sampled) == 2
    said = capsys.readouterr().err
    assert "toy/card.json is not a valid card: classes must be 0" in said and said.count("\n") == 1


def test_a_family_that_is_not_there_is_named(mylab: str) -> None:
    for name, says in (
        ("admm", "did you mean adm"),
        ("mylab_gone:Toy", "no module 'mylab_gone'"),
        (f"{mylab}:Toi", "did you mean Toy"),
        (f"{mylab}:other", "must be a Family object"),
    ):
        with pytest.raises(ValueError, match=says):
            find_family(name)
    with pytest.raises(ValueError, match="unet2d has no published files"):
        published_family("unet2d")


def test_each_name_of_the_zoo_is_a_module_with_a_family() -> None:
    for name in zoo.FAMILIES:
        assert isinstance(find_family(name), Family) and published_family(name).presets
    files = {path.stem for path in (ROOT / "bench" / "zoo").glob("*.py")}
    assert set(zoo.FAMILIES) <= files


LOADS = """
import sys
from bench import checkpoints
for home in sys.argv[1:]:
    checkpoints.load(home).denoiser()
    print(*sorted(name for name in sys.modules if name.startswith("bench.zoo")))
"""


def test_a_model_imports_its_own_family_alone(tmp_path: Path) -> None:
    flags = PRESETS["lsun-256"].flags.model_copy(
        update={"image_size": 8, "num_channels": 32, "channel_mult": (1, 1),
                "num_head_channels": 16}
    )  # fmt: skip
    torch.save(ADMNet(flags).state_dict(), tmp_path / "tiny.pt")
    preset = PRESETS["lsun-256"].model_copy(update={"flags": flags})
    (tmp_path / "tiny.json").write_text(preset.model_dump_json())
    home = add(tmp_path / "tiny.pt", str(tmp_path / "tiny.json"), "tiny", tmp_path / "models")
    done = subprocess.run(
        [sys.executable, "-c", LOADS, ROOT / "models" / "fmnist-pixel-small", home], cwd=ROOT,
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    of_none, of_adm = (set(line.split()) for line in done.stdout.splitlines())
    assert not of_none
    assert of_adm - {"bench.zoo", "bench.zoo.base", "bench.zoo.layers"} == {"bench.zoo.adm"}
