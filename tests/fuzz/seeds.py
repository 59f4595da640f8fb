"""Small whole files of every kind, from which damaged ones are made."""

import gzip
import io
import json
import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from bench import store

CANARY = Path(tempfile.gettempdir()) / f"damage-canary-{os.getpid()}"  # code that runs makes it


class Code:
    """Unpickling it makes the canary."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(CANARY),)


def _written(write: Callable[[io.BytesIO], Any]) -> bytes:
    write(file := io.BytesIO())
    return file.getvalue()


def picture(kind: str, mode: str = "RGB", **how: Any) -> bytes:
    """An image of 8 x 8 pixels."""
    size = (8, 8, 4) if mode in ("RGBA", "CMYK") else (8, 8, 3)
    pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    made = Image.fromarray(pixels)
    made = made if made.mode == mode else made.convert(mode)
    return _written(lambda file: made.save(file, kind, **how))


def image() -> list[bytes]:
    """Images of every kind that is read, and in many modes."""
    frames = [Image.new("P", (8, 8), i) for i in range(2)]
    made = [picture("png", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")[:6]]
    made += [picture("jpeg", mode) for mode in ("RGB", "L", "CMYK")]
    made += [picture("jpeg", progressive=True), picture("webp"), picture("webp", lossless=True)]
    made += [picture("tiff", compression=one) for one in ("raw", "tiff_lzw", "jpeg", "packbits")]
    made += [picture("tiff", mode) for mode in ("L", "1", "CMYK", "LAB")]
    made += [picture("gif", "P"), picture("bmp"), picture("bmp", "1"), picture("ppm")]
    made += [picture("ppm", "1"), picture("jpeg2000"), picture("jpeg2000", "L")]
    made.append(_written(lambda f: frames[0].save(f, "gif", save_all=True,
                                                  append_images=frames[1:])))  # fmt: skip
    made += [b"", b"P3 2 1 255 1 2 3 4 5 6\n", b"P2\n# a\n2 1 255\n1 2\n"]
    if "AVIF" in Image.SAVE:
        made.append(picture("avif"))
    return made


def _zip(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", how) as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content, how)
    return file.getvalue()


def array() -> list[bytes]:
    """Images and references as arrays."""
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    mu, sigma, bank = np.zeros(4), np.eye(4), np.zeros((3, 4), np.float32)
    who = json.dumps({"extractor": "flatten", "extractor_digest": "", "n": 3})
    upper = sigma[np.triu_indices(4)]
    own = {"n": np.array(3), "mean": mu, "cov_upper": upper, "bank": bank,
           "provenance": np.array(who)}  # fmt: skip
    manifest = np.array(json.dumps({"key": "a", "seeds": [[0, 2]]}))
    made = [_written(lambda f, one=one: np.save(f, one, allow_pickle=True)) for one in (
        pixels, pixels.transpose(0, 3, 1, 2), pixels[..., 0], np.zeros(3), np.zeros((0, 1, 1, 1)),
        np.array([Code()], object), np.asfortranarray(pixels),
    )]  # fmt: skip
    for many in ({"arr_0": pixels}, own, {"mu": mu, "sigma": sigma, "bank": bank}, {"x": mu},
                 {"arr_0": pixels, "manifest": manifest}, {"mu": np.array([Code()], object)},
                 {"mu": mu, "sigma": sigma, "bank": bank, "mu_s": mu}):  # fmt: skip
        made.append(_written(lambda f, many=many: np.savez(f, **many)))
    return [*made, _written(lambda f: np.savez_compressed(f, arr_0=pixels)),
            _written(lambda f: np.savez_compressed(f, **own))]  # fmt: skip


def archive() -> list[bytes]:
    """Zips of images."""
    png, jpg = picture("png"), picture("jpeg")
    with warnings.catch_warnings(action="ignore"):
        return [
            _zip({"0.png": png, "1.png": png}), _zip({"a/0.jpg": jpg}, zipfile.ZIP_DEFLATED),
            _zip({"0.png": png, "__MACOSX/0.png": b"", "b\\1.png": png}),
            _zip({"0.png": png, "readme.txt": b"x"}, zipfile.ZIP_BZIP2),
            _zip({"0.png": png}, zipfile.ZIP_LZMA), _zip({}), _zip({"a.txt": b""}),
        ]  # fmt: skip


_CARD = {
    "name": "m", "family": "unet2d", "network": {"layers": 1, "x": [1, 2]},
    "process": {"kind": "vp", "betas": "cosine", "timesteps": 100, "sigma_min": 0.1,
                "sigma_max": 8.0},
    "prediction": "v", "data": {"name": "d", "digest": "", "licence": "none"}, "training": {},
    "classes": 2, "null_class": True, "weights_sha256": "ab",
}  # fmt: skip


def card() -> list[bytes]:
    """Cards."""
    codec = {"kind": "VQModel", "network": {}, "image": [3, 8, 8], "state": [3, 4, 4],
             "scale": 1.5, "weights_sha256": ""}  # fmt: skip
    linear = {"kind": "vp", "betas": "linear", "timesteps": 1000, "beta_range": [1e-4, 0.02]}
    ve = {"kind": "ve", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    each = [_CARD, {**_CARD, "process": ve}, {**_CARD, "process": linear, "codec": codec,
                                              "clip": False}]  # fmt: skip
    return [json.dumps(one).encode() for one in each]


def weights() -> list[bytes]:
    """Files of torch and of safetensors, and files that hold code."""
    plain = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2, dtype=torch.float16)}
    nested = {"model": plain, "ema": {"shadow": plain}, "step": 3}
    made = [save(plain), save({})]
    for one in (plain, nested, {"a": torch.ones(2), "b": 3}, [torch.ones(2)], {"a": Code()}):
        made.append(_written(lambda f, one=one: torch.save(one, f)))
    old = {"_use_new_zipfile_serialization": False}
    made += [_written(lambda f, one=one: torch.save(one, f, **old)) for one in
             (plain, {"a": torch.ones(2), "b": Code()})]  # fmt: skip
    index = {"metadata": {}, "weight_map": {"a": "y.safetensors"}}
    made += [pickle.dumps(Code()), pickle.dumps({"a": 1}), json.dumps(index).encode()]
    return [*made, _zip({"w.safetensors": save(plain)}), _zip({"w.pt": made[3]}),
            _zip({"a/data.pkl": pickle.dumps(Code()), "a/version": b"3"})]  # fmt: skip


def measurement() -> list[bytes]:
    """Rates and costs."""
    rate = {"kind": "rate", "name": "v_x", "sigma": [0.1, 1, 2, 5, 10], "v": [None, 3, 2, 1, 0.5],
            "replicates": [[None, 3, 2, 1, 0.5]], "provenance": {"images": 8}}  # fmt: skip
    costs = {"kind": "costs", "name": "gits", "sigma": [10, 1, 0.1], "coefficient": 1.1,
             "cost": [[1, 2], [0.5]], "provenance": {}}  # fmt: skip
    bare = {key: value for key, value in costs.items() if key != "kind"}
    return [json.dumps(one).encode() for one in (rate, costs, bare, {**rate, "replicates": None})]


# ---------------------------------------------------------------- a small results folder


def _row(line: str, block: str, role: str = "score") -> dict[str, Any]:
    row = {"line": line, "block": block, "nfe": 5, "role": role, "model": "m", "n": 500,
           "sampler": "DDIM"}  # fmt: skip
    return {**row, "key": store.digest([*row.values()]), "errors": {}}


def _record(row: dict[str, Any], fd: float) -> dict[str, Any]:
    score = {"features": "flatten", "reference": "r", "reference_n": 9, "bank": 5, "name": "fd",
             "value": fd, "n": 500}  # fmt: skip
    cell = {"model": "m", "schedule": {"class": "Native", "fields": {}}, "label": row["line"],
            "sampler": "DDIM", "nfe": 5, "quantiser": "round", "dtype": "float32",
            "seeds": [0, 500]}  # fmt: skip
    return {
        "key": row["key"], "cell": cell, "grid": [9.0, 3.0, 1.0, 0.3, 0.1, 0.0], "nfe": 5,
        "scores": {store.score_key(row["key"], "fd"): score},
        "seconds": {"sample": 2.0, "score": 1.0}, "device": "CPU", "versions": {"a": "2"},
    }  # fmt: skip


_ROWS = [_row("native", "1"), _row("native", "2"), _row("CRS(v_x)", "1"), _row("CRS(v_x)", "2")]
_RATE = {"class": "Rate", "fields": {"name": "v_x", "digest": "x"}}
_SPECS = {"native": {"class": "Native", "fields": {}},
          "CRS(v_x)": {"class": "ConstantRate", "fields": {"rate": _RATE}}}  # fmt: skip
_PLAN = {
    "version": store.PLAN_VERSION, "experiment": "toy", "title": "A toy", "note": "n",
    "published": "", "rows": _ROWS,
    "lines": {name: {"identity": store.digest(name), "label": name, "schedule": spec}
              for name, spec in _SPECS.items()},
    "metrics": [{"identity": "fd", "name": "fd", "text": "FD()", "metric": {},
                 "higher_is_better": False}],
    "chosen": [{"line": "CRS(v_x)", "sampler": "DDIM", "schedule": "a", "tries": 4, "block": "t"}],
    "rates": [{"model": "m", "name": "v_x", "sigma": [0.1, 1.0, 10.0], "v": [1.0, 0.5, 0.01],
               "images": 8, "levels": 3}],
    "grid_bands": {_ROWS[2]["key"]: [[9.0, 3.0, 1.0, 0.3, 0.1, 0.0]] * 2},
}  # fmt: skip
PLAN = json.dumps(_PLAN).encode()
RECORDS = {row["key"]: json.dumps(_record(row, 20.0 + i)).encode() for i, row in enumerate(_ROWS)}


def results() -> list[bytes]:
    """A plan, packed or not, records, and pictures: the first byte says which file it is."""
    lines = b"\n".join(RECORDS.values())
    return [b"\0" + PLAN, b"\1" + gzip.compress(PLAN), b"\2" + gzip.compress(lines), b"\3" + lines,
            b"\4" + next(iter(RECORDS.values())), b"\5" + picture("png", "L")]  # fmt: skip


def text() -> list[bytes]:
    """Levels, manifests and texts of the command line."""
    forms = ("Karras(rho=7)", "karras", "Levels((8, 4.5, 0))", "Snapped(Native)", "DDIM(eta=0.5)",
             "Between(Karras(3), sigma_max=5)", "AlignYourSteps(sdxl)", "fd", "dpm-pp-2m",
             "Precision(k=3)", "UniPC(order=2)", "{a: 1}", "Beta(0.6, 0.6)", "Laplace(0, 0.5)",
             "is(10)", "LogNormal(-1.2, 1.2)", "recall(k=5)", "TimeUniform()")  # fmt: skip
    return [b"\0" + json.dumps({"sigma": [8, 2.5, 0.1, 0]}).encode(),
            b"\1" + json.dumps({"key": "a", "seeds": [[0, 4], [6, 8]], "nfe": 3}).encode(),
            *(b"\2" + form.encode() for form in forms)]  # fmt: skip


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "image": image, "array": array, "archive": archive, "weights": weights, "results": results,
    "card": card, "measurement": measurement, "text": text,
}  # fmt: skip
