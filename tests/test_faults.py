"""No silent wrong number: inputs that people reported elsewhere, through the command line."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from PIL import Image
from test_score_inputs import folder, pixels

from bench import features, judge
from bench.data import MANIFEST, open_images, read_manifest

SIZE = 8
FLAT = ("--features", "flatten", "--device", "cpu")
CPU = ("--device", "cpu")


def scored(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *asked: object) -> dict:
    capsys.readouterr()
    assert crs(monkeypatch, "score", *asked, *FLAT, "--json") == 0
    return json.loads(capsys.readouterr().out)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *asked: object) -> str:
    capsys.readouterr()
    assert crs(monkeypatch, *asked) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = (one for one in lines if one.startswith("crs-bench: "))
    return line


# ---------------------------------------------------------------- two sets of images


@pytest.mark.parametrize("kinds", [("folder", "folder"), ("zip", "npy"), ("npz", "folder")])
def test_any_two_sets_are_scored(kinds: tuple, tmp_path: Path, monkeypatch, capsys) -> None:
    images = pixels(40)
    for name, kind, part in zip("ab", kinds, (images[:30], images[10:]), strict=True):
        made = folder(tmp_path / name, part)
        arrays = np.stack([np.asarray(one) for one in part])
        if kind == "zip":
            with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
                for path in made.iterdir():
                    archive.write(path, path.name)
        elif kind == "npy":
            np.save(tmp_path / f"{name}.npy", arrays)
        elif kind == "npz":
            np.savez(tmp_path / f"{name}.npz", arr_0=arrays)
    end = {"folder": "", "zip": ".zip", "npy": ".npy", "npz": ".npz"}
    a, b = (tmp_path / f"{name}{end[kind]}" for name, kind in zip("ab", kinds, strict=True))
    found = scored(monkeypatch, capsys, a, b)
    assert found["n"] == 30 and found["fd"] > 0
    back = scored(monkeypatch, capsys, b, a)
    assert back["fd"] == pytest.approx(found["fd"], rel=1e-9)
    assert back["precision"] == found["recall"] and back["recall"] == found["precision"]
    assert found["protocol"]["fd"]["reference_n"] == 30
    assert len(found["protocol"]["fd"]["reference_digest"]) == 64
    assert scored(monkeypatch, capsys, a, a)["fd"] == pytest.approx(0, abs=1e-6)


def test_python_takes_images_as_the_reference(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (30, 3, SIZE, SIZE), dtype=torch.uint8)
    home = folder(tmp_path / "real", [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in images])
    of = {"features": "flatten", "metrics": ["fd", "recall"]}
    by_tensor = judge.score(images[:20], reference=images, **of)
    assert judge.score(images[:20], reference=home, **of) == pytest.approx(by_tensor)
    same = judge.score(images, reference=images, **of)
    assert same == pytest.approx({"fd": 0, "recall": 1}, abs=1e-6)


def test_a_second_score_reads_its_features_from_the_cache(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    a, b = folder(tmp_path / "a", pixels(20)), folder(tmp_path / "b", pixels(30)[10:])
    first = scored(monkeypatch, capsys, a, b)
    monkeypatch.setattr(features.Flatten, "__call__", lambda *_: pytest.fail("embedded again"))
    assert scored(monkeypatch, capsys, a, b) == first


# ---------------------------------------------------------------- folders


def test_links_are_followed(tmp_path: Path, monkeypatch, capsys) -> None:
    images = pixels(24)
    folder(tmp_path / "there" / "deep", images[:12])
    home = folder(tmp_path / "a", images[12:], "one/{}.png")
    (home / "two").symlink_to(tmp_path / "there", target_is_directory=True)
    (home / "x.png").symlink_to(tmp_path / "there" / "deep" / "0.png")
    assert len(open_images(home)) == 25
    assert scored(monkeypatch, capsys, home, home)["n"] == 25


@pytest.mark.parametrize(
    ("link", "goal", "says"),
    [
        ("gone.png", "nowhere.png", "broken link to nowhere.png"),
        ("gone", "nowhere", "broken link to nowhere"),
        ("loop", ".", "link to a folder that it lies in"),
        ("loop", "..", "link to a folder that it lies in"),
    ],
)
def test_links_that_lead_nowhere_are_refused(
    link: str, goal: str, says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    home = folder(tmp_path / "top" / "a", pixels(12))
    os.symlink(goal, home / link)
    assert says in refused(monkeypatch, capsys, "score", home, home, *FLAT)


@pytest.mark.parametrize(
    "junk",
    [".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png", "._0.png", ".hidden.png",
     "sub/.trash/0.png", "@eaDir/0.png", "Thumbs.db", "labels.txt", "a.npz"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_no_image_of_the_set_is_left_out_and_said(
    junk: str, kind: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    home = folder(tmp_path / "a", pixels(12))
    (home / junk).parent.mkdir(parents=True, exist_ok=True)
    pixels(1)[0].save(home / junk, "png")
    path = home
    if kind == "zip":
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in home.rglob("*"):
                if file.is_file():
                    archive.write(file, file.relative_to(home))
    found = scored(monkeypatch, capsys, path, path)
    assert found["n"] == 12 and found["left_out"] == 1
    assert any("1 file was left out" in one and junk in one for one in found["warnings"])


def test_members_of_a_zip_have_any_written_form(tmp_path: Path, monkeypatch, capsys) -> None:
    def archive(name: str, names: list[str]) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as made:
            for one, image in zip(names, pixels(len(names)), strict=True):
                image.save(file := io.BytesIO(), "png")
                made.writestr(one, file.getvalue())
        return tmp_path / name

    plain = archive("a.zip", [f"{i}.png" for i in range(12)])
    for form in ("./{}.png", "/{}.png", "x/./{}.png", "x\\{}.PNG"):
        other = archive("b.zip", [form.format(i) for i in range(12)])
        assert scored(monkeypatch, capsys, other, plain)["fd"] == pytest.approx(0, abs=1e-6)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive("c.zip", ["0.png", "1.png", "0.png"])
    assert "holds 0.png twice" in refused(monkeypatch, capsys, "score", twice, plain, *FLAT)
    alike = archive("d.zip", ["0.png", "1.png", "./0.png"])
    assert "holds 0.png twice" in refused(monkeypatch, capsys, "score", alike, plain, *FLAT)


def test_differences_are_of_the_same_names_in_any_order(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    images = pixels(20)
    a = folder(tmp_path / "a", images)  # 0.png, 1.png, ..., 10.png: not in the order of text
    np.savez(tmp_path / "same.npz", arr_0=np.stack([np.asarray(one) for one in images]))
    b = folder(tmp_path / "b", images[::-1], "{}.bmp")
    for i in range(20):  # the same names, with the images that a has under them
        (b / f"{i}.bmp").unlink()
        images[i].save(b / f"{i}.jpeg2.png", "png")
        (b / f"{i}.jpeg2.png").rename(b / f"{i}.png")
    real = folder(tmp_path / "real", pixels(40)[15:])
    for other in (tmp_path / "same.npz", b):
        found = scored(monkeypatch, capsys, a, real, "--metrics", "fd", "--against", other,
                       "--bootstrap", 5)  # fmt: skip
        assert found["difference"]["fd"] == pytest.approx(0, abs=1e-9)
        assert found["difference_95"]["fd"] == pytest.approx([0, 0], abs=1e-9)
    seeds = folder(tmp_path / "c", images, "{}0.png")
    asked = ("score", a, real, "--against", seeds, *FLAT)
    assert "different seeds" in refused(monkeypatch, capsys, *asked)


# ---------------------------------------------------------------- files


def deep_tiff(at: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(at, np.full((SIZE, SIZE, 3), 40_000, np.uint16), photometric="rgb")


def deep_ppm(at: Path) -> None:
    raw = np.full((SIZE, SIZE, 3), 40_000, ">u2").tobytes()
    at.write_bytes(b"P6\n# of a test\n%d %d\n65535\n" % (SIZE, SIZE) + raw)


def deep_png(at: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(
            ">I", zlib.crc32(kind + body)
        )  # fmt: skip

    rows = b"".join(b"\x00" + b"\x9c\x40" * 3 * SIZE for _ in range(SIZE))
    head = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    at.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def deep_tiff_by_hand(at: Path) -> None:
    """A little-endian RGB TIFF of 16 bits, uncompressed."""
    import struct

    raw = b"\x40\x9c" * 3 * SIZE * SIZE
    tags = [(256, 3, 1, SIZE), (257, 3, 1, SIZE), (258, 3, 3, 8 + len(raw)), (259, 3, 1, 1),
            (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, SIZE),
            (279, 4, 1, len(raw))]  # fmt: skip
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    bits = struct.pack("<HHH", 16, 16, 16)
    start = 8 + len(raw) + len(bits)
    at.write_bytes(b"II*\x00" + struct.pack("<I", start) + raw + bits + ifd + b"\x00" * 4)


@pytest.mark.parametrize(
    ("name", "write"),
    [("x.tif", deep_tiff_by_hand), ("x.ppm", deep_ppm), ("x.png", deep_png), ("x.tiff", deep_tiff)],
)
def test_more_than_eight_bits_are_refused_in_every_format(
    name: str, write, tmp_path: Path, monkeypatch, capsys
) -> None:
    home = folder(tmp_path / "a", pixels(12))
    write(home / name)
    line = refused(monkeypatch, capsys, "score", home, home, *FLAT)
    assert name in line and "8 bits" in line


@pytest.mark.parametrize(
    ("name", "kind", "how", "lossy"),
    [
        ("{}.webp", "webp", {"quality": 80}, True),
        ("{}.webp", "webp", {"lossless": True}, False),
        ("{}.jpg", "png", {}, False),
        ("{}.png", "jpeg", {}, True),
        ("{}.jpeg", "jpeg", {}, True),
        ("{}.tif", "tiff", {"compression": "jpeg"}, True),
        ("{}.tif", "tiff", {"compression": "tiff_lzw"}, False),
        ("{}.jp2", "jpeg2000", {"irreversible": True, "quality_layers": [40]}, True),
        ("{}.jp2", "jpeg2000", {"irreversible": False}, False),
    ],
)
def test_lossy_images_are_told_by_their_content(
    name: str, kind: str, how: dict, lossy: bool, tmp_path: Path, monkeypatch, capsys
) -> None:
    home = tmp_path / "a"
    home.mkdir()
    for i, image in enumerate(pixels(12)):
        image.save(home / name.format(i), kind, **how)
    found = scored(monkeypatch, capsys, home, home)
    assert found["lossy"] == 12 * lossy
    assert any("lossy compression, as" in one for one in found["warnings"]) is lossy


def test_a_stray_grey_or_cmyk_image_is_converted_counted_and_said(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    home = folder(tmp_path / "a", pixels(12))
    pixels(1, "L")[0].save(home / "90.png")
    pixels(1)[0].convert("CMYK").save(home / "91.jpg")
    found = scored(monkeypatch, capsys, home, home)
    assert found["n"] == 14 and found["converted"] == {"grey": 1, "other": 1}
    assert any("1 image was grey" in one for one in found["warnings"])
    out = tmp_path / "r.npz"
    assert crs(monkeypatch, "reference", out, "--images", home, *FLAT) == 0
    assert "converted to RGB" in capsys.readouterr().err
    with np.load(out) as file:
        about = json.loads(str(file["provenance"]))
    assert (about["grey"], about["converted"], about["lossy"], about["n"]) == (1, 1, 1, 14)


# ---------------------------------------------------------------- references


def test_arrays_of_a_reference_have_either_layout(tmp_path: Path, monkeypatch, capsys) -> None:
    images = np.stack([np.asarray(one) for one in pixels(30)])
    np.savez(tmp_path / "nhwc.npz", arr_0=images)
    np.savez(tmp_path / "nchw.npz", arr_0=images.transpose(0, 3, 1, 2))
    for name in ("nhwc", "nchw"):
        found = scored(monkeypatch, capsys, tmp_path / "nhwc.npz", tmp_path / f"{name}.npz")
        assert found["fd"] == pytest.approx(0, abs=1e-6) and found["recall"] == 1


def test_images_of_a_reference_are_not_read_without_need(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    dim = 32 * 32 * 3
    odd = np.zeros((4, SIZE, SIZE), np.float32)  # no images at all
    np.savez(tmp_path / "r.npz", mu=np.zeros(dim), sigma=np.eye(dim), arr_0=odd)
    home = folder(tmp_path / "a", pixels(12, size=32))
    assert scored(monkeypatch, capsys, home, tmp_path / "r.npz", "--metrics", "fd")["fd"] > 0
    line = refused(monkeypatch, capsys, "score", home, tmp_path / "r.npz", *FLAT)
    assert "r.npz" in line


def test_statistics_that_are_none_name_their_file(tmp_path: Path, monkeypatch, capsys) -> None:
    dim = 32 * 32 * 3
    bad = np.eye(dim)
    bad[0, 1] = bad[1, 0] = 3
    np.savez(tmp_path / "r.npz", mu=np.zeros(dim), sigma=bad)
    home = folder(tmp_path / "a", pixels(12, size=32))
    asked = ("score", home, tmp_path / "r.npz", "--metrics", "fd", *FLAT)
    line = refused(monkeypatch, capsys, *asked)
    assert "r.npz" in line and "eigenvalue" in line


def test_a_shipped_name_is_no_name_for_a_reference(tmp_path: Path, monkeypatch, capsys) -> None:
    home = folder(tmp_path / "a", pixels(12))
    line = refused(monkeypatch, capsys, "reference", "fashion-mnist", "--images", home, *FLAT)
    assert "name of a shipped reference" in line


def test_a_reference_that_is_replaced_is_said(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    for n, said in ((12, False), (12, False), (14, True)):
        home = folder(tmp_path / f"a{n}", pixels(n))
        capsys.readouterr()
        assert crs(monkeypatch, "reference", "mine", "--images", home, *FLAT) == 0
        assert ("held another reference" in capsys.readouterr().err) is said


# ---------------------------------------------------------------- outputs and samples

TINY = ("sample", "oracle-gaussian")


def test_a_folder_knows_what_it_holds(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    assert crs(monkeypatch, *TINY, out, "--nfe", 3, "--seeds", "0-9", *CPU) == 0
    about = read_manifest(out)
    assert about["seeds"] == [(0, 10)] and about["nfe"] == 3 and len(about["grid"]) == 4
    assert {"model_digest", "sampler", "guidance", "quantiser", "versions"} <= about.keys()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert crs(monkeypatch, *TINY, out, "--nfe", 3, "--seeds", "5-19", *CPU) == 0
    assert read_manifest(out)["seeds"] == [(0, 20)]
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(after) == 20 and before.items() <= after.items()  # what was there was kept
    others = (("--nfe", 4), ("--nfe", 3, "--sampler", "DDIM"), ("--nfe", 3, "--dtype", "float16"))
    for other in others:
        line = refused(monkeypatch, capsys, *TINY, out, "--seeds", "0-3", *other, *CPU)
        assert "images of another run" in line
    assert scored(monkeypatch, capsys, out, out)["manifest"]["key"] == about["key"]
    pixels(1)[0].save(out / "stray.png")
    line = refused(monkeypatch, capsys, "score", out, out, *FLAT)  # of another size
    assert "one size" in line
    Image.open(out / "000000.png").save(out / "stray.png")
    found = scored(monkeypatch, capsys, out, out)
    assert any("may be a mixture" in one for one in found["warnings"])


def test_a_folder_of_other_images_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    home = folder(tmp_path / "a", pixels(3))
    line = refused(monkeypatch, capsys, *TINY, home, "--nfe", 2, "--seeds", "0-3", *CPU)
    assert "holds 3 images" in line and not (home / MANIFEST).exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no image")
    assert crs(monkeypatch, *TINY, tmp_path / "notes", "--nfe", 2, "--seeds", "0-3", *CPU) == 0


def test_an_npz_knows_what_it_holds(tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "x.NPZ"
    assert crs(monkeypatch, *TINY, out, "--nfe", 2, "--seeds", "3-9", *CPU) == 0
    assert out.is_file() and open_images(out).manifest["seeds"] == [(3, 10)]
    assert scored(monkeypatch, capsys, out, out)["manifest"]["nfe"] == 2


@pytest.mark.parametrize("out", ["file/x.npz", "file/folder", "folder.npz"])
def test_an_output_that_cannot_be_is_refused_before_any_work(
    out: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.setattr("bench.generate.images", lambda *_: pytest.fail("sampled"))
    line = refused(monkeypatch, capsys, *TINY, tmp_path / out, "--nfe", 2, "--seeds", "0-3", *CPU)
    assert "cannot be written" in line
    home = folder(tmp_path / "a", pixels(3))
    made = ("reference", tmp_path / "file" / "r.npz", "--images", home, *FLAT)
    assert "cannot be written" in refused(monkeypatch, capsys, *made)


# ---------------------------------------------------------------- levels, modules, messages

LATER = ("schedule", "oracle-gaussian", "--schedule")


def test_levels_from_elsewhere_are_what_they_say(tmp_path: Path, monkeypatch, capsys) -> None:
    levels = [80.0, 20.0, 5.0, 1.0, 0.1, 0.0]
    (tmp_path / "grid.json").write_text("\ufeff" + json.dumps({"sigma": levels}))  # with a BOM
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert crs(monkeypatch, *LATER, "grid.json", "--nfe", 5, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sigma"] == levels
    line = refused(monkeypatch, capsys, *LATER, "grid.json", "--nfe", 8)
    assert "grid of 5 steps, not of 8" in line and "resampled(FILE.json)" in line
    for form in ("resampled(grid.json)", "Resampled('grid.json')"):
        assert crs(monkeypatch, *LATER, form, "--nfe", 8, "--json") == 0
        assert len(json.loads(capsys.readouterr().out)["sigma"]) == 9


OWN = """
from bench import Block, Experiment
from bench.samplers import DDIM
from bench.schedules import Native

def go(models):
    return Experiment("own", "own", "oracle-gaussian", {"native": Native()}, (DDIM(),),
                      (Block("1", range(4), (2,)),))

def broken(models):
    return models["x"]

def nothing(models):
    return None

number = 3
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own:broken", r"own:broken raised TypeError: .*own.py, line 11"),
        ("own:nothing", "own:nothing returned a NoneType: return a bench.Experiment"),
        ("own:number", "own:number is a int: write a function"),
        ("./nowhere.py:go", "there is no file ./nowhere.py"),
        ("typo:go", "module typo cannot be imported: SyntaxError: .*typo.py, line 2"),
        ("lacking:go", "module lacking cannot be imported: ModuleNotFoundError: .*lacking.py"),
        ("raising:go", r"module raising cannot be imported: KeyError: 'x' \(raising.py, line 1\)"),
    ],
)
def test_a_module_of_ones_own_that_fails_says_where(
    name: str, says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    import re
    import sys

    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "typo.py").write_text("x = 1\nif\n")
    (tmp_path / "lacking.py").write_text("import no_such_module_here\n")
    (tmp_path / "raising.py").write_text("{}['x']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    line = refused(monkeypatch, capsys, "run", name, *CPU)
    assert re.search(says, line), line


def test_a_file_of_ones_own_is_run_by_its_path(tmp_path: Path, monkeypatch, capsys) -> None:
    import sys

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own2.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr("bench.run.run", lambda plan, *_: ran.append(plan.name))
    monkeypatch.delitem(sys.modules, "own2", raising=False)
    assert crs(monkeypatch, "run", "./sub/own2.py:go", *CPU) == 2  # nothing was run
    assert ran == ["own"] and "results/own holds no plan.json" in capsys.readouterr().err


def test_a_terminal_of_ascii_shows_help(tmp_path: Path) -> None:
    import subprocess
    import sys

    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"],
           "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(tmp_path)}  # fmt: skip
    for verb in (["score", "--help"], ["docs", "concepts"]):
        done = subprocess.run([sys.executable, "-m", "bench", *verb], env=env, capture_output=True)
        assert done.returncode == 0 and b"codec" not in done.stderr, done.stderr


def test_extractors_that_cannot_be_looked_for_are_listed(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "hub"))

    monkeypatch.setattr(features.InceptionV3Compat, "__init__", closed)
    assert crs(monkeypatch, "list", "extractors") == 0
    said = capsys.readouterr().out
    assert "unavailable: [Errno 13]" in said.partition("InceptionV3Compat")[2].split("\n")[1]
