"""Training, measuring and comparing on any images: folders, zips, arrays, CIFAR-10."""

import csv
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from PIL import Image
from test_training import NETWORK, RECIPE, Killed, stop_after
from torch import Tensor

from bench import checkpoints, data, measures, training
from bench.data.pickled import read_batch
from bench.judge import Judge
from bench.measures import FeatureFrechet, GaussianW2, OfSchedule
from bench.process import VE, VP
from bench.training import loop
from bench.training.examples import Examples, kept

CPU = ("--device", "cpu")
TINY = ("--channels", "8,8", "--layers", 1, "--batch", 4, "--steps", 2, *CPU)
FLAT = "FeatureFrechet(extractor=flatten)"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
           "truck"]  # fmt: skip


def pixels(n: int, size: tuple[int, int] = (16, 16), c: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [n, h, w, c]: ramps of different colours, which a flip changes."""
    h, w = size
    colours = np.random.default_rng(seed).integers(40, 256, (n, 1, 1, c))
    ramp = np.linspace(0.2, 1, w)[None, None, :, None] * np.linspace(0.5, 1, h)[None, :, None, None]
    return (colours * ramp).astype(np.uint8)


def save(image: np.ndarray, to: Path | io.BytesIO, kind: str = "png") -> None:
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(to, kind)


def folder(home: Path, images: np.ndarray) -> Path:
    home.mkdir()
    for i, image in enumerate(images):
        save(image, home / f"{i}.png")
    return home


def zipped(home: Path, images: np.ndarray) -> Path:
    with zipfile.ZipFile(path := home.with_suffix(".zip"), "w") as archive:
        for i, image in enumerate(images):
            save(image, file := io.BytesIO())
            archive.writestr(f"deep/{i}.png", file.getvalue())
    return path


def array(home: Path, images: np.ndarray) -> Path:
    np.savez(path := home.with_suffix(".npz"), arr_0=images)
    return path


def cifar(home: Path, images: np.ndarray, protocol: int = 2) -> Path:
    """torchvision's folder: five batches of training images, and one of test images."""
    inner = home / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    parts = [*np.array_split(images, 5), images[:2]]
    for name, part in zip([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], parts,
                          strict=True):  # fmt: skip
        rows = np.ascontiguousarray(part.transpose(0, 3, 1, 2)).reshape(len(part), -1)
        content = {b"data": rows, b"labels": [0] * len(part), b"batch_label": b"of five"}
        (inner / name).write_bytes(pickle.dumps(content, protocol))
    return home


def jpegs(path: Path, images: np.ndarray, classes: list[str] = CLASSES) -> Path:
    """The array file of JPEGs that share a header."""
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes)}
    for split, part in (("train", images), ("test", images[::-1][:2])):
        bodies = []
        for image in part:
            save(image, file := io.BytesIO(), "jpeg")
            raw = file.getvalue()
            at = raw.index(b"\xff\xda") + 2 + 12  # the scan's own header has 12 bytes
            arrays["header"] = np.frombuffer(raw[:at], np.uint8)
            bodies.append(raw[at:].removesuffix(b"\xff\xd9"))
        arrays[f"{split}_bytes"] = np.frombuffer(b"".join(bodies), np.uint8)
        arrays[f"{split}_lengths"] = np.array([len(one) for one in bodies], np.uint16)
        arrays[f"{split}_labels"] = np.zeros(len(bodies), np.uint8)
    np.savez(path, **arrays)
    return path


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def refused(monkeypatch, capsys, *asked: object) -> str:
    """The one line of a command that is refused."""
    capsys.readouterr()
    assert crs(monkeypatch, *asked) == 2, asked
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("make", [folder, zipped, array])
@pytest.mark.parametrize("c", [1, 3])
def test_sets_of_images_are_read_whole(make, c: int, tmp_path: Path) -> None:
    images = pixels(7, c=c)
    found = data.open_images(make(tmp_path / "mine", images))
    assert torch.equal(found.everything(), nchw(images))
    assert found.name.split(".")[0] == "mine" and found.licence == "unknown"


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_the_folder_of_cifar10_is_read(protocol: int, tmp_path: Path) -> None:
    images = pixels(10, (32, 32))
    home = cifar(tmp_path / "root", images, protocol)
    for path in (home, home / "cifar-10-batches-py"):
        train, test = data.open_images(path), data.open_images(path, "test")
        assert (train.name, test.name) == ("cifar10-train", "cifar10-test")
        assert torch.equal(train.everything(), nchw(images))
        assert torch.equal(test.everything(), nchw(images[:2]))


class Bad:
    """A pickle of it runs a command where it is read."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda flag: {b"data": Bad(flag)}, "system, which is refused"),
        (lambda flag: {b"data": np.zeros((2, 3072), np.float32)}, "not of bytes"),
        (lambda flag: {b"data": np.array([flag.name, None], object)}, "not of bytes"),
        (lambda flag: {b"data": np.zeros((2, 3071), np.uint8)}, "3,072"),
        (lambda flag: {b"other": 1}, "3,072"),
        (lambda flag: [np.zeros((2, 3072), np.uint8)], "dictionary"),
        (lambda flag: {b"data": np.random.default_rng(0)}, "refused"),
    ],
)
def test_a_batch_of_cifar10_cannot_run_code(content, says: str, tmp_path: Path) -> None:
    home, flag = cifar(tmp_path / "root", pixels(10, (32, 32))), tmp_path / "flag"
    bad = home / "cifar-10-batches-py" / "data_batch_3"
    bad.write_bytes(pickle.dumps(content(flag), 2))
    with pytest.raises(ValueError, match=f"data_batch_3 cannot be read.*{says}"):
        data.open_images(home)
    assert not flag.exists()


def test_every_cut_of_a_batch_is_refused(tmp_path: Path) -> None:
    raw = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}, 2)
    assert read_batch(raw).shape == (1, 32, 32, 3)
    for end in range(0, len(raw) - 1, 97):
        with pytest.raises(Exception):  # noqa: B017 - of any kind; `readable` makes one of them
            read_batch(raw[:end])


def test_jpegs_in_an_array_file_are_read(tmp_path: Path) -> None:
    images = pixels(6, (32, 32))
    path = jpegs(tmp_path / "renamed.npz", images)
    train, test = data.open_images(path, "train"), data.open_images(path, "test")
    assert (train.name, test.name) == ("cifar10-q75-train", "cifar10-q75-test")
    found = train.everything()
    assert (found.float() - nchw(images).float()).abs().mean() < 3 and train.found.lossy == 6
    assert torch.equal(test.everything(), found.flip(0)[:2])
    judge = Judge.open(path, "flatten", ("fd",), "cpu")  # also as a reference
    assert judge.real["features"].n == len(images)
    other = jpegs(tmp_path / "mine.npz", images, ["cat"])
    assert data.open_images(other).name == "mine-train"


def test_a_shipped_name_takes_its_own_training_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The protocol asks for a reference `cifar10-q75` of other features than the shipped one's."""
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    path = jpegs(tmp_path / "a.npz", pixels(6, (32, 32)))
    asked = ("reference", "cifar10-q75", "--data", path, "--features", "flatten", *CPU)
    assert crs(monkeypatch, *asked) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert crs(monkeypatch, *asked) == 0 and not capsys.readouterr().err.count("another reference")
    assert crs(monkeypatch, *asked, "--bank", 3) == 0  # fewer single features than before
    assert "held another reference" in capsys.readouterr().err
    for other in (("--split", "test"), ("--size", 16)):
        assert "name of a shipped" in refused(monkeypatch, capsys, *asked, *other)
    lite = (*asked[:-3], "effnet-lite0", *CPU)
    assert "name of a shipped" in refused(monkeypatch, capsys, *lite)


def test_a_split_is_one_that_there_is(tmp_path: Path) -> None:
    known = jpegs(tmp_path / "a.npz", pixels(2, (32, 32)))
    with pytest.raises(ValueError, match="--split val: .* has the splits train and test"):
        data.open_images(known, "val")
    with pytest.raises(ValueError, match="--split test: .* has no splits"):
        data.open_images(folder(tmp_path / "f", pixels(2)), "test")


def test_lengths_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    path = jpegs(tmp_path / "a.npz", pixels(2, (32, 32)))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["train_lengths"] = arrays["train_lengths"] + np.uint16(1)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="do not add up"):
        data.open_images(path)


def test_images_of_any_shape_become_square(tmp_path: Path) -> None:
    """The centre square with Lanczos; an image of that size stays; smaller ones are counted."""
    home = folder(tmp_path / "mine", pixels(2, (20, 34)))
    save(pixels(1, (8, 8), seed=3)[0], home / "7.png")
    save(pixels(1, (50, 16), seed=4)[0], home / "8.png")
    found = data.open_images(home)
    made = found.everything(data.CentreCrop(16))
    assert made.shape == (4, 3, 16, 16)
    with Image.open(home / "0.png") as image:
        want = image.crop((7, 0, 27, 20)).resize((16, 16), Image.Resampling.LANCZOS)
    assert torch.equal(made[0], torch.from_numpy(np.asarray(want).copy()).permute(2, 0, 1))
    assert torch.equal(made[3], nchw(pixels(1, (50, 16), seed=4))[0, :, 17:33])
    assert found.found.enlarged == 1 and "1 image was smaller" in found.notes()[0]
    assert data.CentreCrop(16).name == "centre-crop-lanczos-16"


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("make", "size", "c", "name"),
    [
        (folder, (16, 16), 1, "mine"), (folder, (20, 28), 3, "mine"),
        (zipped, (30, 18), 3, "mine.zip"), (array, (16, 16), 3, "mine.npz"),
        (array, (16, 16), 1, "mine.npz"), (cifar, (32, 32), 3, "cifar10-train"),
        (lambda home, images: jpegs(home.with_suffix(".npz"), images), (32, 32), 3,
         "cifar10-q75-train"),
    ],
)  # fmt: skip
def test_a_model_of_any_images(
    make, size: tuple[int, int], c: int, name: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    home, out = make(tmp_path / "mine", pixels(8, size, c)), tmp_path / "models" / "m"
    asked = ("train", out, *TINY, "--data", home, "--size", 16, "--flip")
    assert crs(monkeypatch, *asked) == 0
    card = checkpoints.read_card(out)
    assert (card.data.name, card.data.images) == (name, 8)
    assert card.data.preparation == "centre-crop-lanczos-16" and card.training["flip"] is True
    assert card.network["in_channels"] == card.network["out_channels"] == c
    assert checkpoints.load(out).shape == (c, 16, 16)
    assert crs(monkeypatch, "sample", out, tmp_path / "s.npz", "--nfe", 2, "--seeds", "0-1",
               *CPU) == 0  # fmt: skip
    with np.load(tmp_path / "s.npz") as file:
        assert file["arr_0"].shape == (2, 16, 16, c)


def test_images_that_are_not_square_stay_so(tmp_path: Path, monkeypatch) -> None:
    home, out = folder(tmp_path / "mine", pixels(4, (8, 20))), tmp_path / "m"
    assert crs(monkeypatch, "train", out, *TINY, "--data", home, "--attention", 2) == 0
    card = checkpoints.read_card(out)
    assert card.network["sample_size"] == [8, 20] and card.data.preparation == "none"
    assert card.network["down_block_types"] == ["AttnDownBlock2D"] * 2
    assert checkpoints.load(out).denoiser()(torch.zeros(1, 3, 8, 20), 1.0).shape == (1, 3, 8, 20)


def test_what_cannot_be_trained_on_is_named_before_training(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    home, out = folder(tmp_path / "mine", pixels(9)), tmp_path / "m"
    asked = ("train", out, *TINY, "--data", home)
    for i in range(1, 8):
        (home / f"{i}.png").write_bytes(b"no image")
    line = refused(monkeypatch, capsys, *asked)
    assert "7 of 9 images" in line and "5.png" in line and "6.png" not in line
    for i in range(1, 8):
        (home / f"{i}.png").unlink()
    save(pixels(1, (16, 18))[0], home / "12.png")
    assert "mine/12.png is 16 x 18" in (line := refused(monkeypatch, capsys, *asked))
    assert "--size" in line
    line = refused(monkeypatch, capsys, *asked, "--size", 15)
    assert "15 x 15 cannot be halved 1 times" in line and "--size 14" in line
    line = refused(monkeypatch, capsys, *asked, "--size", 16, "--preprocess", "ldm(size=16)")
    assert "'ldm(size=16)' alone" in line
    line = refused(monkeypatch, capsys, *asked, "--size", 16, "--prediction", "w")
    assert "known: eps, v, x0, edm" in line
    line = refused(monkeypatch, capsys, *asked, "--size", 16, "--compile", "fast")
    assert "known: auto, off" in line
    assert not out.exists()


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm"])
def test_prediction_and_process_are_choices(prediction: str, tmp_path: Path, monkeypatch) -> None:
    home, out = array(tmp_path / "mine", pixels(4)), tmp_path / "m"
    process = "edm" if prediction == "edm" else "VP(linear, sigma_max=70)"
    asked = ("--data", home, "--prediction", prediction, "--process", process)
    assert crs(monkeypatch, "train", out, *TINY, *asked) == 0
    card = checkpoints.read_card(out)
    want = VE() if prediction == "edm" else VP("linear", sigma_max=70)
    assert card.prediction == prediction and card.process.build() == want


def test_a_codec_of_any_images(tmp_path: Path, monkeypatch, capsys) -> None:
    home, codec, out = folder(tmp_path / "i", pixels(8, (24, 18))), tmp_path / "c", tmp_path / "m"
    asked = ("--channels", "8,8", "--latent-channels", 2, "--steps", 2, "--batch", 4, *CPU)
    how = ("--data", home, "--size", 16, "--flip")
    assert crs(monkeypatch, "train-codec", codec, *asked, *how) == 0
    card = checkpoints.read_codec(codec)
    assert card.image == (3, 16, 16) and card.state == (2, 8, 8)
    assert card.training["flip"] and card.training["preparation"] == "centre-crop-lanczos-16"
    assert (codec / "codec-loss.csv").is_file() and (codec / "codec-loss.png").is_file()
    assert crs(monkeypatch, "train", out, *TINY, *how, "--codec", codec, "--samples", 2) == 0
    assert Image.open(out / "samples" / "000002.png").size == (128, 128)
    assert crs(monkeypatch, "reconstruct", codec, tmp_path / "b.npz", "--images", 4, *how[:4],
               *CPU) == 0  # fmt: skip
    line = refused(monkeypatch, capsys, "train", tmp_path / "n", *TINY, "--codec", codec,
                   "--data", home, "--size", 8)  # fmt: skip
    assert "the codec takes images [3, 16, 16], but the data are [3, 8, 8]" in line
    rate = ("measure", "--process", "cosine", "--codec", codec, "--measure", FLAT, "--levels", 6)
    assert crs(monkeypatch, *rate, "--images", 8, *how[:4], "--out", tmp_path / "v.json", *CPU) == 0


def ready(images: Tensor) -> data.Ready:
    return data.Ready("mine", "unknown", "none", images)


TWO = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8,
                    generator=torch.Generator().manual_seed(0))  # fmt: skip


def test_examples_are_bytes_until_they_are_drawn() -> None:
    found = kept(TWO, "cpu", False)
    assert found.values.dtype == torch.uint8 and len(found) == 16
    pick = torch.tensor([3, 3, 15])
    assert torch.equal(found[pick], TWO[pick].float() / 127.5 - 1)
    assert torch.equal(torch.cat(list(found.split(5))), TWO.float() / 127.5 - 1)
    latents = torch.randn(4, 2, 3, 3)
    assert torch.equal(Examples(latents, "cpu")[pick[:2]], latents[pick[:2]])


def test_flips_are_as_frequent_as_images() -> None:
    found = kept(TWO, "cpu", True)
    assert len(found) == 32
    assert torch.equal(found[torch.arange(16)].flip(-1), found[torch.arange(16, 32)])


def test_flips_and_data_belong_to_the_state(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=2, flip=True)
    first = training.train(recipe, ready(TWO), tmp_path / "m")
    assert first.training["flip"] is True and first.data.images == 16
    with pytest.raises(ValueError, match="state of a training with other options"):
        training.train(replace(recipe, flip=False), ready(TWO), tmp_path / "m")
    with pytest.raises(ValueError, match="on other images"):
        training.train(recipe, ready(TWO.flip(0)), tmp_path / "m")
    assert training.train(recipe, ready(TWO), tmp_path / "m") == first
    other = training.train(replace(recipe, flip=False), ready(TWO), tmp_path / "n")
    assert other.weights_sha256 != first.weights_sha256


def losses(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_a_killed_training_with_flips_and_samples_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same weights, same losses; the grids of samples change neither."""
    recipe = replace(RECIPE, steps=45, flip=True)
    session = training.Session(samples=15, state=tmp_path / "elsewhere" / "s.pt")
    session.state.parent.mkdir()
    want = training.train(recipe, ready(TWO), tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(28, session.state, patch)
        with pytest.raises(Killed):
            training.train(recipe, ready(TWO), tmp_path / "m", session=session)
    found = training.train(recipe, ready(TWO), tmp_path / "m", session=session)
    assert found.weights_sha256 == want.weights_sha256
    one, two = (losses(tmp_path / name / "loss.csv") for name in ("straight", "m"))
    assert [row["step"] for row in one] == [20, 40, 45]
    assert [(row["step"], row["loss"]) for row in one] == [
        (row["step"], row["loss"]) for row in two
    ]
    assert sorted(path.name for path in (tmp_path / "m" / "samples").iterdir()) == [
        "000015.png", "000030.png", "000045.png"
    ]  # fmt: skip
    with Image.open(tmp_path / "m" / "samples" / "000045.png") as grid:
        assert grid.size == (64, 64) and np.asarray(grid).std() > 5
    assert not (tmp_path / "m" / "state.pt").exists()


def test_the_journal_has_the_means_of_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    update = loop._Run.update

    def watched(run: loop._Run, loss: Tensor) -> None:
        seen.append(float(loss.detach()))
        update(run, loss)

    monkeypatch.setattr(loop._Run, "update", watched)
    training.train(replace(RECIPE, steps=30), ready(TWO), tmp_path / "m")
    rows = losses(tmp_path / "m" / "loss.csv")
    assert [row["loss"] for row in rows] == pytest.approx(
        [np.mean(seen[:20]), np.mean(seen[20:])], rel=1e-5
    )
    assert rows[1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    assert all(row["images_per_second"] > 0 for row in rows)


def test_progress_without_a_terminal_is_a_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("bench.training.state._SAID", -1)
    training.train(replace(RECIPE, steps=20), ready(TWO), tmp_path / "m")
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("train tiny: step 20, loss 0.") or "step 20, loss 1" in line
    assert "images/s" in line and line.endswith("0.0 minutes left")


def test_tensorboard_has_losses_and_samples(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    home, out = array(tmp_path / "mine", pixels(4)), tmp_path / "m"
    more = ("--data", home, "--tensorboard", "--samples", 2)
    assert crs(monkeypatch, "train", out, *TINY, *more) == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    found = events.Scalars("loss")
    want = losses(out / "loss.csv")
    assert [(one.step, one.value) for one in found] == [
        (row["step"], pytest.approx(row["loss"], rel=1e-5)) for row in want
    ]
    assert [one.step for one in events.Images("samples")] == [2]


def test_tensorboard_that_is_missing_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    home = array(tmp_path / "mine", pixels(4))
    line = refused(monkeypatch, capsys, "train", tmp_path / "m", *TINY, "--data", home,
                   "--tensorboard")  # fmt: skip
    assert "crs-bench[tensorboard]" in line


@pytest.mark.slow
def test_a_compiled_training_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    """Dropout is off, because compiled code draws other numbers for it."""
    recipe = replace(RECIPE, steps=6, network=NETWORK | {"dropout": 0.0})
    for mode in ("off", "default"):
        card = training.train(recipe, ready(TWO), tmp_path / mode,
                              session=training.Session(mode))  # fmt: skip
        assert card.training["compile"] == mode
    one, two = (losses(tmp_path / mode / "loss.csv") for mode in ("off", "default"))
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-3)


def test_modes_of_compile_follow_the_device() -> None:
    auto = training.Session()
    assert [auto.mode(on) for on in ("cpu", "cuda:1")] == ["off", "reduce-overhead"]
    assert auto.mode("cuda", "default") == "default"
    assert training.Session("max-autotune").mode("cpu") == "max-autotune"
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        training.Session("fast")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (((8, 12), 1), "multiples of 8"), (((8, 8), 0), "layers at least 1"),
        (((8, 8, 8), 1, 30), "cannot be halved 2 times.*--size 28"),
        (((8, 8), 1, (16, 18), 3, 3), "0 to 2 resolutions"), (((), 1), "multiples of 8"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_is_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        training.unet(*arguments)


def test_a_colour_network_of_eight_million() -> None:
    with torch.device("meta"):
        net = checkpoints.network(training.unet((64, 128, 128), 2, 32, 3))
    assert 6e6 < sum(one.numel() for one in net.parameters()) < 8e6


# ---------------------------------------------------------------- measures without a network


def test_a_measure_without_a_network_needs_no_model(tmp_path: Path, monkeypatch, capsys) -> None:
    home, out = folder(tmp_path / "mine", pixels(9, (20, 26))), tmp_path / "v_fid.json"
    asked = ("measure", "--process", "cosine", "--measure", FLAT, "--levels", 12, "--images", 9)
    how = ("--data", home, "--size", 16, "--out", out, *CPU)
    assert crs(monkeypatch, *asked, *how) == 0
    rate = measures.load_rate(out)
    assert rate.name == "v_fid" and rate.provenance["images"] == 9
    process = VP("cosine", 1000, 0.01, 80.0)
    images = data.open_images(home).everything(data.CentreCrop(16))
    model = checkpoints.forward(process, (3, 16, 16))
    from bench.features import Flatten

    want = measures.measure(model, FeatureFrechet(Flatten()), images, 12)
    np.testing.assert_allclose(rate.v, want.v)
    assert rate.provenance["model"] == model.name == "process cosine 0.01..80"
    assert rate.provenance["model_digest"] == model.digest
    line = refused(monkeypatch, capsys, *asked[:-4], "--levels", 13, "--images", 9, *how)
    assert "measured otherwise (levels is 12, not 13)" in line and "another --out" in line
    assert crs(monkeypatch, "schedule", "fmnist-pixel-small", "--schedule",
               "ConstantRate(v_fid)", "--rates", out) == 0  # fmt: skip
    assert crs(monkeypatch, "train", tmp_path / "m", *TINY, *how[:4], "--law",
               "ConstantRate(v_fid, xi=0.5, coordinate=angle)", "--rates", out) == 0  # fmt: skip


def test_the_network_is_not_asked(tmp_path: Path) -> None:
    """With a model too, such a measure gives what it gives without one."""
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    process = VP("cosine", 1000, 0.01, 80.0)
    training.train(replace(RECIPE, steps=1), ready(TWO), tmp_path / "m")
    model = checkpoints.load(tmp_path / "m")
    for measure in (GaussianW2(), FeatureFrechet(extractor=_flatten())):
        one = measures.measure(model, measure, images, 9)
        two = measures.measure(checkpoints.forward(process, (1, 8, 8)), measure, images, 9)
        assert np.array_equal(one.v, two.v) and np.array_equal(one.sigma, two.sigma)


def _flatten():
    from bench.features import Flatten

    return Flatten()


@pytest.mark.parametrize("measure", ["OfSchedule(Cosine())", "Uniform", "GaussianW2((1, 0.2))"])
@pytest.mark.parametrize("process", ["cosine", "edm", "linear", "scaled_linear", "VE(sigma_max=9)"])
def test_closed_forms_need_no_images(measure: str, process: str, tmp_path: Path, monkeypatch):
    out = tmp_path / "deep" / "v.json"
    asked = ("measure", "--process", process, "--measure", measure, "--levels", 31)
    assert crs(monkeypatch, *asked, "--out", out) == 0
    assert len(measures.load_rate(out).sigma) == 31


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--process", "cosine", "--measure", "DataPrediction", "--out", "x.json"), "name a model"),
        (("--process", "cosine", "--measure", FLAT, "--out", "x.json"), "needs images; add --data"),
        (("--process", "cosine", "--measure", "Uniform"), "needs --out FILE.json"),
        (("--process", "cosine", "--measure", "Uniform", "--out", "x.txt"), "ends in .json"),
        (("--process", "cosin", "--measure", "Uniform", "--out", "x.json"), "did you mean cosine"),
        (("--process", "VP(cosin)", "--measure", "Uniform", "--out", "x.json"), "known: linear"),
        (("--measure", "Uniform", "--out", "x.json"), "neither"),
        (("m", "--process", "edm", "--measure", "Uniform", "--out", "x.json"), "both"),
        (("--measure", "KLUB"), "needs a network"),
        (("--process", "edm", "--measure", "Karras", "--out", "x.json"), "is no measure"),
    ],
)
def test_a_measure_says_what_it_lacks(
    asked: tuple, says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(monkeypatch, capsys, "measure", *asked)
    assert not list(tmp_path.iterdir())


def test_a_process_alone_predicts_nothing() -> None:
    model = checkpoints.forward(VE(), (1, 4, 4))
    assert not model.has_network
    with pytest.raises(ValueError, match="has no network"):
        model.denoiser()
    with pytest.raises(ValueError, match=r"needs a network, but process ve 0.002..80"):
        measures.measure(model, measures.DataPrediction(), torch.zeros(2, 1, 4, 4).byte())
    with pytest.raises(ValueError, match="takes images"):
        model.encode(torch.zeros(2, 3, 4, 4).byte())
    assert OfSchedule.needs_network is False and measures.Entropy.needs_network is True


# ---------------------------------------------------------------- comparing


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CRS_BENCH_DATA", str(tmp_path / "user"))
    monkeypatch.setattr("bench.report.figures.write", lambda *_: [])
    yield tmp_path


def test_from_a_folder_to_a_table(home: Path, monkeypatch, capsys) -> None:
    folder(home / "photos", pixels(40, (20, 26)))
    how, flat = ("--data", "photos", "--size", 16), ("--features", "flatten")
    assert crs(monkeypatch, "train", "models/mine", *TINY, *how, "--flip") == 0
    rate = ("measure", "mine", "--measure", "DataPrediction", "--images", 8, "--levels", 6)
    assert crs(monkeypatch, *rate, *how, *CPU) == 0
    assert crs(monkeypatch, "reference", "photos-16", *how, *flat, *CPU) == 0
    with np.load(next((home / "cache").rglob("photos-16*.npz"))) as file:
        about = json.loads(str(file["provenance"]))
    assert about["preprocess"] == "centre-crop-lanczos-16" and about["image"] == [3, 16, 16]
    asked = ("rank", "mine", "photos-16", "--schedules", "Native,ConstantRate(v_x, xi=0.5)",
             "--nfe", "2,3", "--seeds", "0-9", "--metrics", "fd", *flat, *CPU)  # fmt: skip
    assert crs(monkeypatch, *asked) == 0
    table = (home / "results" / "rank-mine" / "table.md").read_text()
    assert "ConstantRate(v_x, xi=0.5)" in table and "DPMpp2M" in table
    assert "did you mean Karras" in refused(
        monkeypatch, capsys, "rank", "mine", "photos-16", "--schedules", "Karas", *flat
    )
    assert "unknown reference" in refused(monkeypatch, capsys, "rank", "mine", "photo-16", *flat)
