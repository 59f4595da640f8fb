"""Damaged files: every reader gives a result or a ValueError of one line that names the file.

A fixed series of damaged files for each target, and every input that once broke a promise. The
search for more is `python tests/fuzz/run.py TARGET`; see bench/docs/damage.md.
"""

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import mutate, seeds, targets
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from bench import store
from bench.data import natural
from bench.data.decode import decode

MANY = {"results": 60, "text": 300}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Features of damaged images stay out of the cache that tests share."""
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(targets, "HOMES", made := targets.Homes())
    yield
    made.close()


@pytest.mark.filterwarnings("ignore")  # of Pillow, about damaged files
@pytest.mark.parametrize("name", targets.TARGETS)
def test_whole_files_and_damaged_ones(name: str) -> None:
    whole = seeds.SEEDS[name]()
    assert sum(map(len, whole)) < 30_000
    for data in [*whole, *mutate.series(whole, MANY.get(name, 300), name)]:
        targets.TARGETS[name](data)


def test_a_broken_promise_is_found() -> None:
    def raises(error: Exception) -> Callable[[], object]:
        def read() -> object:
            raise error

        return read

    assert targets.keeps(lambda: 1) and not targets.keeps(raises(ValueError("x.png is bad")), "x")
    for message in ("x\ny", "", "another file"):
        with pytest.raises(targets.Broken):
            targets.keeps(raises(ValueError(message)), "x")
    with pytest.raises(KeyError):
        targets.keeps(raises(KeyError("x")), "x")
    with pytest.raises(targets.Broken, match="code"):
        targets.keeps(lambda: pickle.loads(pickle.dumps(seeds.Code())))


# ---------------------------------------------------------------- what was found


def npz(**arrays: np.ndarray) -> bytes:
    np.savez_compressed(file := io.BytesIO(), **arrays)
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def torch_file(content: object) -> bytes:
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


def laughs(deep: int = 12) -> object:
    """A list of ten times a list of ten times ..., which has 10^12 parts in a few bytes."""
    made: object = [torch.ones(1)]
    for _ in range(deep):
        made = [made] * 10
    return made


PNG = seeds.picture("png")
OWN = json.dumps({"extractor": "flatten", "extractor_digest": ""})
DEEP = b"[" * 100_000
FINDS = {
    "zip: no name": ("archive", zipped({"0.png": PNG}).replace(b"0.png", b"\0.png")),
    "zip: left out, a name of two lines": ("archive", zipped({"a\n.txt": PNG})),
    "zip: a digit that is no number": ("archive", zipped({"\xb21.png": PNG})),
    "zip: a number of 5000 digits": ("archive", zipped({"1" * 5000 + ".png": PNG})),
    "array: a damaged manifest": ("array", npz(x=np.zeros(1)).replace(b"PK\1\2", b"PK\1\3")),
    "array: an extractor that is a number": (
        "array", npz(provenance=np.array(json.dumps({"extractor": 1, "extractor_digest": 2})))),
    "array: a mean that needs a matrix of gigabytes": (
        "array", npz(provenance=np.array(OWN), mean=np.zeros(60_000), n=np.array(2),
                     cov_upper=np.zeros(1), bank=np.zeros((1, 60_000), np.float32))),
    "array: a bank of one dimension": (
        "array", npz(mu=np.zeros(2), sigma=np.eye(2), bank=np.zeros(2, np.float32))),
    "array: a bank of text": (
        "array", npz(mu=np.zeros(2), sigma=np.eye(2), bank=np.array([["a", "b"]]))),
    "array: a reference of one image": ("array", npz(arr_0=np.zeros((1, 2, 2, 3), np.uint8))),
    "weights: a member whose name is no text": (
        "weights", zipped({"a.pt": b"x" * 99}).replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\xff\xff")
        .replace(b"a.pt", b"\xfe.pt", 1)),
    "weights: a member whose name has two lines": ("weights", zipped({"a\nb.pt": b"x"})),
    "weights: one byte": ("weights", b"\x80"),
    "weights: one list many times": ("weights", torch_file(laughs())),
    "weights: a key of two lines": ("weights", torch_file({"a": torch.ones(1), "b\nc": 3})),
    "rate: nested without end": ("measurement", DEEP),
    "rate: a huge number": ("measurement", seeds.measurement()[0].replace(b"0.5", b"9" * 400)),
    "costs: a huge coefficient": (
        "measurement", seeds.measurement()[1].replace(b"1.1", b"9" * 400)),
    "rate: a name of two lines": (
        "measurement", seeds.measurement()[0].replace(b"v_x", b"a\\nb").replace(b"0.5", b"-1")),
    "plan: nested without end": ("results", b"\0" + DEEP),
    "plan: no rows": ("results", b"\0" + seeds.PLAN.replace(b'"rows"', b'"row"')),
    "plan: packed, nested without end": ("results", b"\1" + gzip.compress(DEEP)),
    "records: packed, nested without end": ("results", b"\3" + DEEP),
    "record: a list": ("results", b"\4[]"),
    "record: no seconds": (
        "results", b"\4" + next(iter(seeds.RECORDS.values())).replace(b'"seconds"', b'"second"')),
    "strip: no image": ("results", b"\5" + b"x" * 0),
    "form: a text of two lines": ("text", b"\2UniPC(order='a\\nb')"),
    "form: a large deviation": ("text", b"\2LogNormal(-1.2, 1" + b"0" * 27 + b")"),
    "form: a huge mean": ("text", b"\2Laplace(1" + b"0" * 400 + b")"),
    "form: a huge parameter": ("text", b"\2Beta(1" + b"0" * 400 + b")"),
    "card: a table of gigabytes": (
        "card", seeds.card()[0].replace(b'"timesteps": 100', b'"timesteps": 100000000000')),
    "levels: a huge number": ("text", b'\0{"sigma": [' + b"9" * 400 + b", 0]}"),
    "levels: nested without end": ("text", b"\0" + DEEP),
    "manifest: infinite seeds": ("text", b'\1{"seeds": [[0, 1e999]]}'),
    "manifest: nested without end": ("text", b"\1" + DEEP),
    "form: nested without end": ("text", b"\2Karras(" + b"-" * 60_000 + b"1)"),
}  # fmt: skip
NEAR = {  # never broke a promise, but lie close to what did
    "zip: a name of two lines": ("archive", zipped({"a\n.png": PNG})),
    "array: another file": ("array", zipped({"mu.npy": b"x", "sigma.npy": b"x"})),
    "array: no array in it": ("array", zipped({"mu": b"x", "sigma": b"x"})),
    "array: complex moments": (
        "array", npz(mu=np.zeros(2), sigma=np.eye(2) * 1j, bank=np.zeros((1, 2), np.float32))),
    "weights: archives within archives": ("weights", zipped({"a.pt": zipped({"a.pt": b"PK"})})),
    "weights: a damaged member": (
        "weights", zipped({"a.pt": b"x" * 99}).replace(b"PK\3\4\x14\0\0\0\0",
                                                       b"PK\3\4\x14\0\0\0\x08")),
    "rate: no object": ("measurement", b"[1]"),
    "rate: a name that is a number": (
        "measurement", seeds.measurement()[0].replace(b'"v_x"', b"7")),
    "plan: no object": ("results", b"\0[]"),
    "records: packed, no objects": ("results", b"\3[]"),
    "form: a null character": ("text", b"\2Karras(\0)"),
    "card: nested without end": ("card", DEEP),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FINDS, *NEAR])
def test_what_once_broke_a_promise(name: str) -> None:
    target, data = (FINDS | NEAR)[name]
    targets.TARGETS[target](data)


def test_names_sort_as_numbers_of_any_length() -> None:
    names = ["b", "10", "2", "1" * 5000, "\xb2", "02", "a10", "a9"]
    assert sorted(names, key=natural) == ["2", "02", "10", "1" * 5000, "a9", "a10", "b", "\xb2"]


def test_images_that_may_be_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    monkeypatch.setattr(PngImageFile, "load", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match="x.png .* 8 x 8 pixels, more than 50"):
        decode(PNG, "x.png")


def test_packed_records_that_may_be_bombs_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MOST", 1000)
    (tmp_path / "plan.json.gz").write_bytes(gzip.compress(b" " * 1001))
    with pytest.raises(ValueError, match="plan.json.gz is damaged .*more than 1,000 bytes"):
        store.load_plan(tmp_path)
