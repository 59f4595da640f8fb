"""`crs-bench score` on input of every kind: what is documented, or one line and exit status 2."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from console import crs
from PIL import Image

from bench import data, features, judge

SIZE = 8


def pixels(n: int, mode: str = "RGB", size: int = SIZE) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    shape = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return [Image.fromarray(draw.integers(0, 256, (size, size, *shape), np.uint8), mode)
            for _ in range(n)]  # fmt: skip


def folder(at: Path, images: list[Image.Image], name: str = "{}.png") -> Path:
    for i, image in enumerate(images):
        path = at / name.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "jpeg" if path.suffix.lower().startswith(".jp") else "png")
    at.mkdir(exist_ok=True)
    return at


def array(at: Path, content: np.ndarray) -> Path:
    np.save(at.with_suffix(".npy"), content)
    return at.with_suffix(".npy")


def broken(at: Path, cut: Callable[[bytes], bytes]) -> Path:
    folder(at, pixels(20))
    pixels(1)[0].save(file := io.BytesIO(), "png")
    (at / "z.png").write_bytes(cut(file.getvalue()))
    return at


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("reference")
    folder(at / "real", pixels(60))
    with pytest.MonkeyPatch.context() as patch:
        made = ("reference", at / "r.npz", "--images", at / "real", "--features", "flatten")
        assert crs(patch, *made, "--bank", 60, "--device", "cpu") == 0
    return at / "r.npz"


NOISE = np.random.default_rng(1).integers(0, 256, (20, SIZE, SIZE, 3), np.uint8)
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda at: at, "there is no file or folder"),
    "an empty folder": (lambda at: folder(at, []), "no images in"),
    "one image": (lambda at: folder(at, pixels(1)), "covariance|at least 2|1 image"),
    "no more than k": (lambda at: folder(at, pixels(3)), "3 nearest neighbours need"),
    "NaN": (lambda at: array(at, np.full((20, SIZE, SIZE, 3), np.nan)), "uint8"),
    "floats in 0..1": (lambda at: array(at, NOISE / 255), "uint8 in 0..255"),
    "a wrong shape": (lambda at: array(at, NOISE[0]), r"\[n, h, w, c\]"),
    "two channels": (lambda at: array(at, NOISE[..., :2]), r"\[n, h, w, c\]"),
    "mixed sizes": (
        lambda at: folder(folder(at, pixels(20)), pixels(1, size=9), "z{}.png"),
        "one size",
    ),
    "RGBA that is seen through": (lambda at: folder(at, pixels(20, "RGBA")), "alpha|transparen"),
    "corrupt": (lambda at: broken(at, lambda raw: b"\x00" * len(raw)), "z.png"),
    "cut short": (lambda at: broken(at, lambda raw: raw[:-40]), "z.png"),
    "no image": (lambda at: broken(at, lambda raw: b"text"), "z.png"),
    "another size than the reference": (
        lambda at: folder(at, pixels(20, size=9)), "reference|dimensions",
    ),
    "a pickle": (lambda at: Path(f"{at}.pkl"), "is a pickle"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make, says = BAD[case]
    given = make(tmp_path / "fake")
    capsys.readouterr()
    asked = ("score", given, reference, "--features", "flatten", "--device", "cpu")
    assert crs(monkeypatch, *asked) == 2
    told = capsys.readouterr().err.splitlines()
    told = [line for line in told if line.startswith("crs-bench: ")]
    assert len(told) == 1
    assert re.search(says, told[0]), told[0]


@pytest.mark.parametrize("name", ["{}.PNG", "a/b/{}.png", "{}.Png"])
def test_upper_case_and_nested_files_are_found(
    name: str, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder(tmp_path / "fake", pixels(30), name)
    asked = ("score", tmp_path / "fake", reference, "--features", "flatten", "--json")
    assert crs(monkeypatch, *asked, "--device", "cpu") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 30 and found["precision"] == 1.0  # they are of the reference
    assert len(found["warnings"]) == 1 and "30 images" in found["warnings"][0]


def test_constant_images_score_badly_and_are_no_error(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    given = array(tmp_path / "flat", np.full((20, SIZE, SIZE, 3), 7, np.uint8))
    asked = ("score", given, reference, "--features", "flatten", "--json", "--device", "cpu")
    assert crs(monkeypatch, *asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fd"] > 1 and found["recall"] == 0


def test_jpegs_and_grey_images_are_warned_of(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder(tmp_path / "fake", pixels(20), "{}.jpg")
    asked = ("score", tmp_path / "fake", reference, "--features", "flatten", "--device", "cpu")
    assert crs(monkeypatch, *asked) == 0
    assert "warning: 20 of the images have lossy compression" in capsys.readouterr().err
    assert judge.cautions(50_000, 0, (3, 8, 8), "clean") == []
    assert "repeated to three" in judge.cautions(50_000, 0, (1, 8, 8), "clean")[0]


def test_another_size_than_the_references_is_warned_of(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """By what each kind of reference says of its images: ours, one that is shipped, ADM's."""
    fake = folder(tmp_path / "fake", pixels(20))
    flat = features.Flatten()
    assert features.reference_shape(str(reference), flat) == (3, SIZE, SIZE)
    asked = ("score", fake, "fashion-mnist", "--metrics", "fd", "--json", "--device", "cpu")
    assert crs(monkeypatch, *asked) == 0
    said = json.loads(capsys.readouterr().out)["warnings"]
    assert [w for w in said if "of 8 x 8 against a reference of 28 x 28" in w]
    zeros = {"mu": np.zeros(SIZE * SIZE * 3), "sigma": np.eye(SIZE * SIZE * 3)}
    np.savez(tmp_path / "adm.npz", arr_0=NOISE, **zeros)
    np.savez(tmp_path / "edm.npz", **zeros)
    assert features.reference_shape(str(tmp_path / "adm.npz"), flat) == (3, SIZE, SIZE)
    assert features.reference_shape(str(tmp_path / "edm.npz"), flat) == ()
    assert judge.cautions(50_000, 0, (3, 8, 9), "clean", (1, 8, 9)) == []


def moments(**changes: Any) -> dict[str, Any]:
    return {"mu": np.zeros(1280), "sigma": np.eye(1280)} | changes


def cut(at: Path, share: float) -> Path:
    at.write_bytes(at.read_bytes()[: int(share * at.stat().st_size)])
    return at


def flipped(at: Path) -> Path:
    raw = bytearray(at.read_bytes())
    raw[len(raw) // 2] ^= 255
    at.write_bytes(raw)
    return at


def npz(at: Path, **arrays: Any) -> Path:
    np.savez(at, **arrays)
    return at


BAD_REFERENCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda at: cut(npz(at, **moments()), 0), "cannot be read as the .npz of a reference"),
    "cut short": (lambda at: cut(npz(at, **moments()), 0.5), "cannot be read"),
    "a byte changed": (lambda at: flipped(npz(at, **moments())), "cannot be read"),
    "an .npy of that name": (
        lambda at: array(at, np.zeros(3)).rename(at), "cannot be read as the .npz",
    ),
    "text for mu": (lambda at: npz(at, **moments(mu=np.array("x"))), "cannot be read as mean"),
    "no moments": (lambda at: npz(at, other=np.zeros(3)), "has only other"),
    "another extractor's": (
        lambda at: npz(at, mu=np.zeros(4), sigma=np.eye(4)), "the extractor that made the file",
    ),
    "variances below 0": (lambda at: npz(at, **moments(sigma=-np.eye(1280))), "negative variances"),
    "NaN": (lambda at: npz(at, **moments(mu=np.full(1280, np.nan))), "NaN"),
    "provenance without names": (
        lambda at: npz(at, **moments(provenance=np.array("{}"))), "reference of ours",
    ),
    "provenance that is no JSON": (
        lambda at: npz(at, **moments(provenance=np.array("x"))), "cannot be read",
    ),
    "no array but images of floats": (lambda at: npz(at, arr_0=NOISE / 255), "uint8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_a_bad_reference_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make, says = BAD_REFERENCES[case]
    given = make(tmp_path / "r.npz")
    fake = folder(tmp_path / "fake", pixels(20))
    asked = ("score", fake, given, "--metrics", "fd", "--device", "cpu")
    assert crs(monkeypatch, *asked) == 2
    err = capsys.readouterr().err
    assert re.search(says, err) and "Traceback" not in err, err


def test_a_reference_without_single_features_is_refused_before_the_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    given = npz(tmp_path / "edm.NPZ", **moments())
    given = given if given.is_file() else Path(f"{given}.npz").rename(given)
    fake = folder(tmp_path / "fake", pixels(20))
    monkeypatch.setattr(data.ImageSet, "stream", None)
    assert crs(monkeypatch, "score", fake, given, "--device", "cpu") == 2
    said = capsys.readouterr().err
    assert "precision needs at least 4 single features" in said and "--bank 10000" in said


def test_banks_are_spread_over_nested_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Classes in folders of their own, of which the first alone would fill the bank."""
    draw = np.random.default_rng(0)
    for name, low in (("a", 0), ("b", 128)):
        made = draw.integers(low, low + 127, (60, SIZE, SIZE, 3), np.uint8)
        folder(tmp_path / "real" / name, [Image.fromarray(one) for one in made])
    out, how = tmp_path / "r.npz", ("--features", "flatten", "--device", "cpu")
    assert (
        crs(monkeypatch, "reference", out, "--images", tmp_path / "real", "--bank", 60, *how) == 0
    )
    capsys.readouterr()
    for bank, kept in (((), 120), (("--bank", 30), 30)):
        assert crs(monkeypatch, "score", tmp_path / "real", out, "--json", *bank, *how) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["recall"] > 0.5 and found["precision"] > 0.5
        protocol = found["protocol"]["precision"]
        assert found["bank"] == {"features": kept} and protocol["bank"] == 60
        assert len(protocol["reference_digest"]) == 64 and protocol["text"] == "Precision(k=3)"


def test_precision_of_adm_reads_every_image(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    fake = folder(tmp_path / "fake", pixels(80))
    both = "precision_adm,recall_adm,precision,recall"
    asked = ("score", fake, reference, "--features", "flatten", "--metrics", both, "--json")
    assert crs(monkeypatch, *asked, "--bank", 10, "--device", "cpu") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bank"] == {"features": 80}
    assert found["precision_adm"] == found["precision"] and found["recall_adm"] == found["recall"]


def test_intervals_and_differences(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    images = pixels(40)
    lighter = [Image.fromarray(np.asarray(one) // 2 + 100) for one in images]
    a, b = folder(tmp_path / "a", images), folder(tmp_path / "b", lighter)
    asked = ("score", a, reference, "--features", "flatten", "--metrics", "fd", "--json")
    assert crs(monkeypatch, *asked, "--bootstrap", 20, "--against", b, "--device", "cpu") == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["interval_95"]["fd"]
    assert low < high
    low, high = found["difference_95"]["fd"]
    assert low < found["difference"]["fd"] < high < 0  # a is of the reference
    assert crs(monkeypatch, *asked, "--against", folder(tmp_path / "c", images[:9])) == 2
    assert "of the same seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--metrics", "precision(k=2.5)"), "k must be a whole number, not 2.5"),
        (("--metrics", "fd_infinity(points=2.5)"), "points must be a whole number"),
        (("--device", "foo"), "no such device"),
        (("--bank", "-3"), "greater than or equal"),
    ],
)
def test_bad_options_are_one_line(
    asked: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert crs(monkeypatch, "score", folder(tmp_path / "fake", pixels(9)), *asked) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_a_references_name_is_no_path(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert crs(monkeypatch, "reference", "../x/y", "--device", "cpu") == 2
    assert "neither a name" in capsys.readouterr().err


def test_a_stream_scores_as_the_whole() -> None:
    images = torch.from_numpy(NOISE).permute(0, 3, 1, 2).repeat(3, 1, 1, 1)
    whole = judge.score(images, metrics=["fd"])
    assert judge.score(iter(images.split(256)), metrics=["fd"]) == whole


def test_cut_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (weights := tmp_path / "inception.pth").write_bytes(b"PK\x03\x04 cut")
    folder(tmp_path / "fake", pixels(20))
    features = f"inception-v3-compat(weights='{weights}')"
    reference = tmp_path / "r.npz"
    np.savez(reference, mu=np.zeros(2048), sigma=np.eye(2048))
    asked = ("score", tmp_path / "fake", reference, "--features", features, "--device", "cpu")
    assert crs(monkeypatch, *asked) == 2
    assert "inception.pth" in capsys.readouterr().err
