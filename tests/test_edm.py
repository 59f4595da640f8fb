"""EDM's networks against their description, from a file of theirs to samples."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from edm_oracle import FLAGS, SONG, denoised, described, published
from safetensors.torch import load_file, save_file
from torch import Tensor

import bench
from bench import checkpoints
from bench.samplers import Heun
from bench.schedules import Karras
from bench.zoo import adm
from bench.zoo.add import add
from bench.zoo.edm import PRESETS, EDMFlags, EDMNet


def added(tmp_path: Path, kind: str, weights: dict[str, Tensor], classes: int = 0) -> Path:
    """The model folder of a converted file."""
    flags = FLAGS[kind] | ({"label_dim": classes} if classes else {})
    (tmp_path / "small.json").write_text(json.dumps({"flags": flags}))
    save_file(weights, tmp_path / "small.safetensors")
    return add(
        tmp_path / "small.safetensors", str(tmp_path / "small.json"), kind, tmp_path / "models",
        "edm",
    )  # fmt: skip


def close(found: Tensor, want: Tensor, relative: float = 1e-5) -> None:
    assert (found - want).abs().max() <= relative * want.abs().max()


@pytest.mark.parametrize("classes", [0, 5], ids=["unconditional", "classes"])
@pytest.mark.parametrize("kind", FLAGS)
def test_a_file_becomes_the_denoiser_described(kind: str, classes: int, tmp_path: Path) -> None:
    weights = published(kind, classes)
    model = checkpoints.load(added(tmp_path, kind, weights, classes))
    assert model.shape == (3, 16, 16) and model.classes == classes
    assert (model.process.sigma_min, model.process.sigma_max) == (0.002, 80)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 16, 16, generator=generator)
    labels = torch.tensor([3, 0, 4]) if classes else None
    noise = torch.tensor([-1.5, 0.2, 1.09])
    with torch.no_grad():
        given = () if labels is None else (labels,)
        found = model.net(x, noise, *given).sample
    want = described(weights, kind, x.double(), noise.double(), labels)
    assert found.dtype == torch.float32 and 0.1 < want.std() < 10
    close(found, want)
    for sigma in (0.01, 0.7, 80.0):
        at = torch.randn(3, 3, 16, 16, generator=generator) * (sigma**2 + 0.25) ** 0.5
        close(model.denoiser(labels)(at, sigma), denoised(weights, kind, at, sigma, labels))


def test_the_comparison_sees_labels_noise_and_filters() -> None:
    weights, x = published("ncsnpp", 5), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    noise, labels = torch.tensor([0.1, 0.3]).double(), torch.tensor([1, 2])
    want = described(weights, "ncsnpp", x, noise, labels)
    flipped = {**weights, "model.map_noise.freqs": weights["model.map_noise.freqs"].flip(0)}
    beside = "model.enc.4x4_aux_residual.weight"
    for other in (
        described(weights, "ncsnpp", x, noise, labels.flip(0)),
        described(weights, "ncsnpp", x, noise.flip(0), labels),
        described(flipped, "ncsnpp", x, noise, labels),
        described({**weights, beside: weights[beside] * 1.1}, "ncsnpp", x, noise, labels),
    ):
        assert (other - want).abs().max() > 1e-3


@pytest.mark.parametrize("kind", FLAGS)
def test_it_is_sampled(kind: str, tmp_path: Path) -> None:
    home = added(tmp_path, kind, published(kind, 5), 5)
    card = checkpoints.read_card(home)
    assert (card.family, card.prediction, card.clip, card.null_class) == (
        "edm",
        "edm",
        False,
        False,
    )
    model = checkpoints.load(home)
    images = bench.sample(model, Heun(), Karras(), 3, range(3), batch=2)
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.uint8
    assert torch.equal(images, bench.sample(model, Heun(), Karras(), 3, range(3), batch=3))
    assert bench.sample(model, Heun(), Karras(), 2, range(1), batch=1).shape == (1, 3, 16, 16)
    stored = load_file(home / "model.safetensors")
    loaded = model.net.state_dict()
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(loaded[key], value) for key, value in stored.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("model.map_augment.weight"), "; 1 missing: model.map_augment.weight$"),
        (lambda w: w.update({"model.ema": torch.zeros(1)}), "; 1 extra: model.ema$"),
        (
            lambda w: w.update({"model.map_noise.freqs": torch.zeros(16)}),
            r"; 1 mis-shaped: model.map_noise.freqs \[16\] for \[32\]$",
        ),
        (lambda w: w.pop("model.enc.8x8_down.skip.resample_filter"), "1 missing: .*skip.resample"),
    ],
)
def test_other_keys_and_shapes_are_listed(change, says: str, tmp_path: Path) -> None:
    weights = published("ncsnpp")
    change(weights)
    with pytest.raises(ValueError, match=says):
        added(tmp_path, "ncsnpp", weights)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("kind", FLAGS)
def test_half_is_all_but_the_embeddings(kind: str, tmp_path: Path) -> None:
    home = added(tmp_path, kind, published(kind, 5), 5)
    x, labels = torch.randn(2, 3, 16, 16), torch.tensor([1, 4])
    want = checkpoints.load(home).denoiser(labels)(x, 1.0)
    half = checkpoints.load(home, dtype="bfloat16")
    for key, value in half.net.state_dict().items():
        embeds = re.search(r"map_|affine", key) is not None
        assert value.dtype == (torch.float32 if embeds else torch.bfloat16), key
    found = half.denoiser(labels)(x, 1.0)
    assert found.dtype == torch.float32
    close(found, want, 0.1)


# A stand-in for NVlabs' own environment: a module that the pickle imports and that leaves a trace
THEIRS = """
import os, pathlib, torch
pathlib.Path(os.environ["RAN"]).touch()
class EDMPrecond(torch.nn.Module):
    def __init__(self, **init_kwargs):
        super().__init__()
        self.init_kwargs, self.sigma_data = init_kwargs, 0.5
        self.model = torch.nn.Module()
class VPPrecond(EDMPrecond):
    pass
"""


def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> Path:
    """A pickle as theirs, of the small DDPM++."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    import theirs

    arguments = FLAGS["ddpmpp"] | {"dropout": 0.13, "use_fp16": False, "img_channels": 3}
    net = getattr(theirs, named)(**arguments)
    for key, value in published("ddpmpp").items():
        home, parts = net, key.split(".")
        for part in parts[:-1]:
            if not hasattr(home, part):
                home.add_module(part, torch.nn.Module())
            home = getattr(home, part)
        home.register_buffer(parts[-1], value)
    path = tmp_path / "network snapshot.pkl"
    path.write_bytes(pickle.dumps({"ema": net}))
    (tmp_path / "ran").unlink()
    return path


def refusal(path: Path, preset: str, models: Path) -> str:
    """The command in the error."""
    with pytest.raises(ValueError, match="refused: reading it would run its code") as error:
        add(path, preset, "m", models, "edm")
    said = str(error.value)
    assert "\n" not in said and not models.exists()
    return said.partition("environment: ")[2].rpartition(" ; then add the .safetensors")[0]


def run_by_the_shell(command: str) -> subprocess.CompletedProcess:
    """With this Python."""
    line = command.replace("python -c", f"{sys.executable} -c", 1)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


def test_a_pickle_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pickled(tmp_path, monkeypatch, "EDMPrecond")
    command = refusal(path, "edm-cifar10-uncond-vp", tmp_path / "models")
    assert not (tmp_path / "ran").exists()
    done = run_by_the_shell(command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()
    made, flags = path.with_suffix(".safetensors"), path.with_suffix(".json")
    home = add(made, str(flags), "m", tmp_path / "models", "edm")
    x = torch.randn(1, 3, 16, 16)
    close(checkpoints.load(home).denoiser()(x, 0.5),
          denoised(published("ddpmpp"), "ddpmpp", x, 0.5, None))  # fmt: skip


def test_other_preconditionings_are_not_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pickled(tmp_path, monkeypatch, "VPPrecond")
    done = run_by_the_shell(refusal(path, "edm-cifar10-uncond-vp", tmp_path / "models"))
    assert done.returncode and "other preconditioning" in done.stderr
    assert not path.with_suffix(".safetensors").exists()


# millions; of ImageNet 64 the network is ADM's, whose own presets are held to the published size
SIZES = {"cifar10": (55.7, 56.4), "ffhq": (61.8, 62.8), "afhqv2": (61.8, 62.8)}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name: str) -> None:
    chosen = PRESETS[name]
    card = chosen.converted(name, {}).card
    assert (
        card.classes
        == chosen.flags.label_dim
        == ("cond" in name.split("-")) * 10 + (name == "edm-imagenet-64") * 1000
    )
    assert chosen.address.endswith(".pkl") and chosen.licence == "CC BY-NC-SA 4.0"
    assert 1 < chosen.fid < 3 and "NFE" in chosen.fid_source
    with torch.device("meta"):
        net = EDMNet(chosen.flags)
        other = adm.ADMNet(adm.PRESETS["imagenet-64"].flags)
    count = sum(value.numel() for value in net.parameters())
    if name == "edm-imagenet-64":  # ADM also says variances: three more outputs
        assert count + 3 * (9 * 192 + 1) == sum(value.numel() for value in other.parameters())
    else:
        assert round(count / 1e6, 1) == SIZES[name.split("-")[1]][name.endswith("-ve")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"img_resolution": 18}, "cannot be halved"),
        ({"model_channels": 34}, "groups of the norms"),
        ({"resample_filter": (1, 2, 1)}, "even number of taps"),
        ({"encoder_type": "skip"}, "encoder_type"),
        ({"use_fp16": True}, "use_fp16"),
        ({"model_type": "DhariwalUNet", "augment_dim": 0, "embedding_type": "fourier"}, "alone"),
        ({"model_type": "DhariwalUNet", "channel_mult": (1, 1, 1)}, "heads of 64"),
        ({"model_type": "DiT"}, "model_type"),
    ],
)
def test_flags_that_make_no_network_are_named(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EDMFlags.model_validate(SONG | change)


def test_labels_are_for_networks_with_classes() -> None:
    x, noise = torch.zeros(1, 3, 16, 16), torch.zeros(1)
    for labels, classes in ((torch.tensor([0]), 0), (None, 5)):
        net = EDMNet(EDMFlags.model_validate(SONG | {"label_dim": classes}))
        with pytest.raises(ValueError, match="label_dim"):
            net(x, noise, labels)
