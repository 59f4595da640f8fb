"""An autoencoder and a latent model, trained from the command line, resumed, and used."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs

import bench
from bench import checkpoints


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixty blots of 28 x 28, as IDX files hold them."""
    y, x = np.mgrid[:28, :28]
    centres = np.random.default_rng(0).uniform(8, 20, (60, 2))
    blots = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 20) * 255 for a, b in centres]
    raw = struct.pack(">iiii", 0x803, 60, 28, 28) + np.stack(blots).astype(np.uint8).tobytes()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(raw)
    return folder


TINY = ("--channels", "8,16", "--latent-channels", 2, "--batch", 8, "--device", "cpu")


def error(made: Path, real: torch.Tensor) -> float:
    """Mean square, in grey levels."""
    with np.load(made) as file:
        back = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)
    return float((back.float() - real.float()).square().mean())


def test_from_images_to_samples_of_a_latent_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    where: tuple[object, ...] = ("--data", data)
    errors = []
    real = bench.data.FashionMNIST(folder=data).images()[:20]
    for steps in (2, 60):
        codec = tmp_path / f"codec{steps}"
        assert crs(monkeypatch, "train-codec", codec, "--steps", steps, *TINY, *where) == 0
        out = tmp_path / f"{steps}.npz"
        asked = ("reconstruct", codec, out, "--images", 60, *where, "--device", "cpu")
        assert crs(monkeypatch, *asked) == 0
        errors.append(error(out, bench.data.FashionMNIST(folder=data).images()))
    assert errors[1] < errors[0]
    weights = (codec / "codec.safetensors").read_bytes()
    assert crs(monkeypatch, "train-codec", codec, "--steps", 60, *TINY, *where) == 0
    assert (codec / "codec.safetensors").read_bytes() == weights  # it was done
    card = json.loads((codec / "codec.json").read_text())
    assert card["training"]["steps"] == 60 and card["state"] == [2, 14, 14]
    latents = checkpoints.load_codec(
        codec, checkpoints.read_codec(codec), "cpu", torch.float32
    ).encode(real)
    assert latents.shape == (20, 2, 14, 14)
    assert abs(float(latents.mean())) < 0.5 and 0.5 < float(latents.std()) < 2

    model = tmp_path / "models" / "latent"
    asked = ("train", model, "--codec", codec, "--channels", "8,16", "--layers", 1)
    asked += ("--steps", 2, "--batch", 4, *where, "--device", "cpu")
    assert crs(monkeypatch, *asked) == 0
    made = checkpoints.read_card(model)
    assert made.codec is not None and (model / made.codec.file).resolve().parent == codec.resolve()
    out = tmp_path / "out.npz"
    asked = ("sample", model, out, "--nfe", 2, "--seeds", "0-2", "--device", "cpu")
    assert crs(monkeypatch, *asked) == 0
    with np.load(out) as file:
        assert file["arr_0"].shape == (3, 28, 28, 1)


def test_what_cannot_be_trained_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    codec, where = tmp_path / "codec", ("--data", data)
    assert crs(monkeypatch, "train-codec", codec, *TINY, *where) == 2  # neither steps nor minutes
    assert "steps" in capsys.readouterr().err
    deep = ("--channels", "8,8,8,8", "--latent-channels", 2, "--steps", 1, "--device", "cpu")
    assert crs(monkeypatch, "train-codec", codec, *deep, *where) == 2
    assert crs(monkeypatch, "train-codec", codec, "--steps", 1, *TINY, *where) == 0
    capsys.readouterr()
    other = ("train-codec", codec, "--steps", 2, "--seed", 1, *TINY, *where)
    assert crs(monkeypatch, *other) == 2
    assert "steps 1 there, 2 here; seed 0 there, 1 here" in capsys.readouterr().err
    odd = ("--channels", "12", "--latent-channels", 2, "--steps", 1, "--device", "cpu")
    assert crs(monkeypatch, "train-codec", tmp_path / "odd", *odd, *where) == 2
    assert "multiples of 8" in capsys.readouterr().err
    assert crs(monkeypatch, "reconstruct", "fmnist-pixel-small", tmp_path / "o.npz", *where) == 2
    assert "model of pixels: it has no codec" in capsys.readouterr().err
