"""Relatives of the inputs in test_faults: the same kinds of wrong numbers, in other forms."""

import gzip
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from PIL import Image
from test_faults import CPU, FLAT, refused, scored
from test_score_inputs import folder, pixels

from bench import store
from bench.checkpoints.files import check_finite
from bench.data import MANIFEST, open_images, read_manifest
from bench.data.writing import SampleFolder
from bench.types import Block, Experiment

LOOP = ("--nfe", 2, "--sampler", "DDIM", *CPU)


@pytest.fixture
def sampled(tiny_models: Path, tmp_path: Path, monkeypatch):
    """Sample the model `small` to a folder or .npz of tmp_path."""

    def made(name: str, seeds: str = "0-9", *more: object) -> Path:
        asked = ("sample", "small", tmp_path / name, "--seeds", seeds, "--models", tiny_models)
        assert crs(monkeypatch, *asked, *LOOP, *more) == 0
        return tmp_path / name

    return made


def zipped(path: Path, home: Path, prefix: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(home.iterdir()):
            archive.write(file, prefix + file.name)
    return path


# ---------------------------------------------------------------- pairs and mixtures


def test_pairs_are_of_the_same_seeds_in_zips_and_arrays_too(
    sampled, tmp_path: Path, monkeypatch, capsys
) -> None:
    real = folder(tmp_path / "real", pixels(20, "L", size=8))
    one, two = sampled("a"), sampled("b", "10-19")
    zips = [zipped(tmp_path / f"{home.name}.zip", home, f"{home.name}/") for home in (one, two)]
    arrays = [sampled("a.npz"), sampled("b.npz", "10-19")]
    asked = ("--metrics", "fd", "--against")
    for mine in (one, zips[0], arrays[0]):
        for same in (one, zips[0], arrays[0]):
            assert scored(monkeypatch, capsys, mine, real, *asked, same)["difference"]["fd"] == 0
        for other in (two, zips[1], arrays[1]):
            line = refused(monkeypatch, capsys, "score", mine, real, *asked, other, *FLAT)
            assert "different seeds" in line


def test_files_that_differ_in_their_suffix_alone_are_not_one(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    homes = [folder(tmp_path / name, pixels(20)[:10]) for name in "ab"]
    for home in homes:
        for i, image in enumerate(pixels(20)[10:]):
            image.save(home / f"{i}.bmp")
    found = scored(monkeypatch, capsys, homes[0], homes[0], "--metrics", "fd",
                   "--against", homes[1], "--bootstrap", 5)  # fmt: skip
    assert found["difference_95"]["fd"] == [0, 0]
    assert open_images(homes[0]).names[:2] == ["0.bmp", "0.png"]


def test_a_mixture_of_as_many_images_is_said(sampled, tmp_path: Path, monkeypatch, capsys) -> None:
    home = sampled("a")
    archive = zipped(tmp_path / "whole.zip", home, "x/")
    for kind in (home, archive):
        found = scored(monkeypatch, capsys, kind, kind, "--metrics", "fd")
        assert found["manifest"]["model"] == "small" and found["left_out"] == 0
        assert not any("mixture" in one for one in found["warnings"])
    (home / "000003.png").rename(home / "000099.png")
    for kind in (home, zipped(tmp_path / "mixed.zip", home, "")):
        said = scored(monkeypatch, capsys, kind, kind, "--metrics", "fd")["warnings"]
        assert any("mixture" in one for one in said)


def test_seeds_of_a_manifest_that_no_memory_holds(tmp_path: Path) -> None:
    home = folder(tmp_path / "a", pixels(3))
    (home / MANIFEST).write_text(json.dumps({"seeds": [[0, 10**15]]}))
    assert "mixture" in "".join(open_images(home).notes())


def test_an_npz_of_others_is_not_overwritten(
    sampled, tiny_models: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    asked = ("sample", "small", "--models", tiny_models, *CPU, "--sampler", "DDIM")
    for seeds, more, said in (
        ("0-3", (), False), ("0-3", (), False), ("4-7", (), True), ("4-7", ("--nfe", 3), True),
    ):  # fmt: skip
        sampled("a.npz", seeds, *more)
        assert ("they are replaced" in capsys.readouterr().err) is said
    np.savez(mine := tmp_path / "mine.npz", arr_0=np.zeros((4, 8, 8, 1), np.uint8))
    before = mine.read_bytes()
    assert "mine.npz" in refused(monkeypatch, capsys, *asked, mine, "--nfe", 2)
    home = folder(tmp_path / "real", pixels(12))
    asked = ("reference", mine, "--images", home, *FLAT)
    assert "no reference of ours" in refused(monkeypatch, capsys, *asked)
    assert mine.read_bytes() == before


# ---------------------------------------------------------------- what a file is


def test_a_format_whose_depth_is_not_known_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    """Pillow cuts SGI's 16 bits to 8."""
    home = folder(tmp_path / "a", pixels(12))
    pixels(1)[0].save(home / "x.png", "sgi", bpc=2)
    assert "x.png" in refused(monkeypatch, capsys, "score", home, home, *FLAT)


def test_a_jpeg_of_a_phone_is_read(tmp_path: Path) -> None:
    pixels(1)[0].save(file := io.BytesIO(), "mpo")
    folder(tmp_path / "a", [])
    (tmp_path / "a" / "0.jpg").write_bytes(file.getvalue())
    assert len(next(iter(open_images(tmp_path / "a").stream(1)))) == 1


def test_mnist_is_not_fashion_mnist(tmp_path: Path, monkeypatch, capsys) -> None:
    """MNIST, KMNIST and others have files of the same names."""
    home = tmp_path / "MNIST"
    home.mkdir()
    digits = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    raw = struct.pack(">IIII", 0x803, *digits.shape) + digits.tobytes()
    (home / "train-images-idx3-ubyte").write_bytes(raw)
    asked = ("reference", tmp_path / "r.npz", "--images", home, *FLAT)
    assert crs(monkeypatch, *asked) == 0
    with np.load(tmp_path / "r.npz") as file:
        about, rows = json.loads(str(file["provenance"])), len(file["bank"])
    assert about["dataset"] == "MNIST-train" and rows == 20
    asked = ("reference", "fashion-mnist", "--images", home, *FLAT)
    assert "shipped" in refused(monkeypatch, capsys, *asked)


def test_images_as_statistics_have_the_dimensions_of_their_size(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    images = pixels(12)
    np.savez(tmp_path / "r.npz", arr_0=np.stack([np.asarray(one) for one in images]))
    home = folder(tmp_path / "a", images)
    found = scored(monkeypatch, capsys, home, tmp_path / "r.npz", "--metrics", "fd")
    assert found["fd"] == pytest.approx(0, abs=1e-6)


def test_a_missing_path_is_said_to_be_missing(tmp_path: Path, monkeypatch, capsys) -> None:
    line = refused(monkeypatch, capsys, "score", tmp_path / "nothing", *FLAT)
    assert "there is no file or folder" in line


# ---------------------------------------------------------------- levels, rates, seeds, weights


@pytest.mark.parametrize("sigma", ["9876543210", ["80", "1", "0"], [80, True, 0], {"80": 1}])
def test_levels_are_a_list_of_numbers(sigma, tiny_models, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"sigma": sigma}))
    asked = ("schedule", "small", "--models", tiny_models, "--schedule", tmp_path / "x.json")
    assert "list of numbers" in refused(monkeypatch, capsys, *asked)


@pytest.mark.filterwarnings("ignore:.*encountered in")
def test_schedule_prints_no_grid_that_sampling_refuses(tiny_models, monkeypatch, capsys) -> None:
    asked = ("schedule", "small", "--models", tiny_models, "--schedule")
    line = refused(monkeypatch, capsys, *asked, "ConstantRate(v_x, xi=1e308)")
    assert "no valid grid" in line
    assert "must be a number" in refused(monkeypatch, capsys, *asked, "Karras(rho=True)")


def test_a_rate_of_other_weights_is_refused_by_every_verb(
    tiny_models: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    rate = store.read_json(tiny_models / "small" / "measures" / "v_x.json")
    rate["provenance"]["model_digest"] = "0" * 20
    stale = store.write_json(tmp_path / "stale.json", rate)
    how = ("--schedule", f"ConstantRate('{stale}')", "--models", tiny_models, "--nfe", 3)
    says = "measured on other weights of small"
    assert says in refused(monkeypatch, capsys, "schedule", "small", *how)
    out = tmp_path / "x.npz"
    assert says in refused(monkeypatch, capsys, "sample", "small", out, *how, *CPU)
    assert not out.exists()


@pytest.mark.parametrize("seeds", ["0-99999999999", str(2**64), f"{2**62}-{2**62 + 3}"])
def test_seeds_that_no_memory_holds_are_refused(
    seeds: str, tiny_models: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    asked = ("sample", "small", tmp_path / "x", "--models", tiny_models, "--seeds", seeds, *LOOP)
    assert f"--seeds '{seeds}'" in refused(monkeypatch, capsys, *asked)


@pytest.mark.parametrize("device", ["mps", "meta", "cpu:3", ""])
def test_devices_that_nothing_here_runs_on_are_refused(
    device: str, tiny_models: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    asked = ("sample", "small", tmp_path / "x", "--models", tiny_models, "--device", device)
    assert "no such device" in refused(monkeypatch, capsys, *asked)


def test_weights_that_are_all_zero_are_refused() -> None:
    check_finite("a.pt", {"a": torch.zeros(2), "b": torch.ones(2)})
    with pytest.raises(ValueError, match=r"a\.pt: all weights are 0"):
        check_finite("a.pt", {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.int64)})


# ---------------------------------------------------------------- names and disks


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "a\nb", " a", ".a"])
def test_names_of_experiments_are_those_of_one_folder(name: str) -> None:
    with pytest.raises(ValueError, match="write a plain folder name"):
        Experiment(name, "t", "small", {}, (), (Block("1", range(2), (2,)),))


def test_a_packed_record_whose_key_is_a_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    lines = json.dumps({"key": "../../x"}).encode()
    (tmp_path / "records" / "records.jsonl.gz").write_bytes(gzip.compress(lines))
    with pytest.raises(ValueError, match="damaged"):
        store.load_records(tmp_path)


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*a\.json"):
        store.write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_read_has_one_of_the_known_formats() -> None:
    from bench.data import decode

    Image.init()
    assert set(decode._FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path, monkeypatch, capsys) -> None:
    home = folder(tmp_path / "a", pixels(3))
    if kind == "pipe":
        os.mkfifo(home / "x.png")
    else:
        (home / "x.png").symlink_to("/dev/zero")
    assert "a pipe or a device" in refused(monkeypatch, capsys, "score", home, home, *FLAT)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path, monkeypatch, capsys) -> None:
    home = folder(tmp_path / "a", pixels(3))
    with open(home / "x.png", "wb") as file:
        file.truncate(2**40)
    assert "x.png" in refused(monkeypatch, capsys, "score", home, home, *FLAT)


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.json"])
def test_other_containers_are_told_what_to_do(name, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / name).write_bytes(b"PAR1" + bytes(600))
    assert "unpack it" in refused(monkeypatch, capsys, "score", tmp_path / name, *FLAT)


def test_an_infinite_distance_is_no_score(tmp_path: Path, monkeypatch, capsys) -> None:
    home, dim = folder(tmp_path / "a", pixels(12, size=32)), 3 * 32 * 32
    np.savez(tmp_path / "r.npz", mu=np.full(dim, 1e200), sigma=np.eye(dim))
    asked = ("score", home, tmp_path / "r.npz", "--metrics", "fd", *FLAT)
    assert "gave inf" in refused(monkeypatch, capsys, *asked)


def test_a_reference_says_how_many_images_it_has(tmp_path: Path, monkeypatch, capsys) -> None:
    home = folder(tmp_path / "a", pixels(12))
    assert crs(monkeypatch, "reference", tmp_path / "r.npz", "--images", home, *FLAT) == 0
    with np.load(tmp_path / "r.npz") as file:
        np.savez(tmp_path / "s.npz", **{**file, "n": np.array(-1)})
    assert "n = -1" in refused(monkeypatch, capsys, "score", home, tmp_path / "s.npz", *FLAT)


def test_two_runs_at_once_in_one_folder(tmp_path: Path) -> None:
    one, two, other = (SampleFolder(tmp_path / "a", {"key": key}) for key in "xxy")
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    one.add([0], image)
    two.add([5], image)
    one.add([1], image)
    assert read_manifest(tmp_path / "a")["seeds"] == [(0, 2), (5, 6)]
    with pytest.raises(ValueError, match="images of another run"):
        other.add([9], image)
    assert not (tmp_path / "a" / "000009.png").exists()


def test_levels_that_start_low_are_warned_of(tiny_models, tmp_path, monkeypatch, capsys) -> None:
    """Times between 0 and 1 look like levels."""
    for first, said in ((1.0, True), (14.6, False)):
        (tmp_path / "x.json").write_text(json.dumps({"sigma": [first, 0.5, 0]}))
        how = ("--models", tiny_models, "--nfe", 2, "--schedule", tmp_path / "x.json")
        assert crs(monkeypatch, "schedule", "small", *how) == 0
        assert ("levels start at sigma 1," in capsys.readouterr().err) is said
        out = tmp_path / f"{first}.npz"
        assert crs(monkeypatch, "sample", "small", out, *how, "--seeds", "0-1", *CPU) == 0
        assert ("levels start at sigma 1," in capsys.readouterr().err) is said


@pytest.mark.parametrize(
    "scores", [[1], *({"a": {"value": value}} for value in (None, "12", float("nan")))]
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_record_whose_score_is_no_number_is_damaged(scores, packed: bool, tmp_path) -> None:
    (tmp_path / "records").mkdir()
    text = json.dumps({"key": "a", "scores": scores})
    if packed:
        (tmp_path / "records" / "records.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "records" / "a.json").write_text(text)
    for read in (store.load_records, lambda home: store.load_record(home, "a")):
        with pytest.raises(ValueError, match="is damaged"):
            read(tmp_path)
