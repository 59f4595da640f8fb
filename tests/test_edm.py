"""EDM's networks against their description, from a file of theirs to samples."""

import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import bench
from bench import checkpoints
from bench.checkpoints import PRESETS
from bench.checkpoints.adm import ADM
from bench.checkpoints.edm import EDM
from bench.checkpoints.edm_flags import EDMFlags
from bench.checkpoints.presets import FAMILIES
from bench.samplers import Heun
from bench.schedules import Karras

SMALL = {
    "img_resolution": 16, "model_channels": 32, "channel_mult": (1, 2, 4), "num_blocks": 1,
    "attn_resolutions": (8,), "channel_mult_emb": 2,
}  # fmt: skip
SONG = SMALL | {"model_type": "SongUNet", "augment_dim": 9}
FLAGS = {
    "ddpmpp": SONG,
    "ncsnpp": SONG | {
        "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
        "resample_filter": (1, 3, 3, 1),
    },
    "adm": SMALL | {"model_type": "DhariwalUNet"},
}  # fmt: skip

# The networks of `FLAGS`, written out: block, channels in and out, what it does beside
BLOCKS = [
    ("enc.16x16_block0", 32, 32, ""), ("enc.8x8_down", 32, 32, "down"),
    ("enc.8x8_block0", 32, 64, "attend"), ("enc.4x4_down", 64, 64, "down"),
    ("enc.4x4_block0", 64, 128, ""), ("dec.4x4_in0", 128, 128, "attend"),
    ("dec.4x4_in1", 128, 128, ""), ("dec.4x4_block0", 256, 128, ""),
    ("dec.4x4_block1", 192, 128, ""), ("dec.8x8_up", 128, 128, "up"),
    ("dec.8x8_block0", 192, 64, "attend if adm"), ("dec.8x8_block1", 96, 64, "attend"),
    ("dec.16x16_up", 64, 64, "up"), ("dec.16x16_block0", 96, 32, ""),
    ("dec.16x16_block1", 64, 32, ""),
]  # fmt: skip


def block_shapes(kind: str, name: str, channels: int, out: int, does: str) -> dict[str, tuple]:
    song, taps = kind != "adm", 4 if kind == "ncsnpp" else 2
    shapes = {
        "norm0.weight": (channels,), "norm0.bias": (channels,),
        "conv0.weight": (out, channels, 3, 3), "conv0.bias": (out,),
        "affine.weight": (out if song else 2 * out, 64), "affine.bias": (out if song else 2 * out,),
        "norm1.weight": (out,), "norm1.bias": (out,),
        "conv1.weight": (out, out, 3, 3), "conv1.bias": (out,),
    }  # fmt: skip
    if channels != out or (song and does in ("up", "down")):
        shapes |= {"skip.weight": (out, channels, 1, 1), "skip.bias": (out,)}
    if does in ("up", "down"):
        shapes |= {f"{of}.resample_filter": (1, 1, taps, taps) for of in ("conv0", "skip")}
    if does == "attend" or (does == "attend if adm" and kind == "adm"):
        shapes |= {
            "norm2.weight": (out,), "norm2.bias": (out,), "qkv.weight": (3 * out, out, 1, 1),
            "qkv.bias": (3 * out,), "proj.weight": (out, out, 1, 1), "proj.bias": (out,),
        }  # fmt: skip
    return {f"{name}.{key}": shape for key, shape in shapes.items()}


def shapes_of(kind: str, classes: int) -> dict[str, tuple]:
    """Of a published state dict."""
    noise = 64 if kind == "ncsnpp" else 32
    shapes = {
        "map_layer0.weight": (64, noise), "map_layer0.bias": (64,), "map_layer1.weight": (64, 64),
        "map_layer1.bias": (64,), "enc.16x16_conv.weight": (32, 3, 3, 3),
        "enc.16x16_conv.bias": (32,),
    }  # fmt: skip
    norm, conv = ("dec.16x16_aux_norm", "dec.16x16_aux_conv")
    if kind == "adm":
        norm, conv = ("out_norm", "out_conv")
        shapes |= {"map_label.weight": (64, classes)} if classes else {}
    else:
        shapes |= {"map_augment.weight": (noise, 9)}
        if classes:
            shapes |= {"map_label.weight": (noise, classes), "map_label.bias": (noise,)}
    shapes |= {f"{norm}.weight": (32,), f"{norm}.bias": (32,)}
    shapes |= {f"{conv}.weight": (3, 32, 3, 3), f"{conv}.bias": (3,)}
    if kind == "ncsnpp":
        shapes |= {"map_noise.freqs": (32,)}
        for size, channels, out in ((8, 3, 32), (4, 32, 64)):
            name = f"enc.{size}x{size}_aux_residual"
            shapes |= {f"{name}.weight": (out, channels, 3, 3), f"{name}.bias": (out,)}
            shapes |= {f"{name}.resample_filter": (1, 1, 4, 4)}
    for block in BLOCKS:
        shapes |= block_shapes(kind, *block)
    return {f"model.{key}": shape for key, shape in shapes.items()}


def published(kind: str, classes: int = 0) -> dict[str, Tensor]:
    """A state dict of theirs, every parameter random."""
    generator, made = torch.Generator().manual_seed(0), {}
    for key, shape in shapes_of(kind, classes).items():
        spread = torch.randn(shape, generator=generator)
        fan = spread[0].numel() if spread.ndim > 1 else 4
        made[key] = spread / fan**0.5 + (spread.ndim == 1 and key.endswith("weight"))
        if key.endswith("freqs"):
            made[key] = 4 * spread  # theirs are 16 times a normal: the same, and noisier
        if key.endswith("resample_filter"):
            row = torch.tensor([1.0, 3, 3, 1] if shape[-1] == 4 else [1.0, 1])
            made[key] = (row[:, None] * row / row.sum() ** 2)[None, None]
    return made


# The description, written again in float64, the whole straight through.


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def norm(w: dict, key: str, x: Tensor) -> Tensor:
    eps = 1e-5 if "model.out_norm.weight" in w else 1e-6
    groups = x.reshape(len(x), min(32, x.shape[1] // 4), -1)
    mean, var = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
    y = ((groups - mean) / (var + eps).sqrt()).reshape(x.shape)
    return y * w[f"{key}.weight"][:, None, None] + w[f"{key}.bias"][:, None, None]


def conv(w: dict, key: str, x: Tensor, padding: int | None = None) -> Tensor:
    kernel = w[f"{key}.weight"]
    size = kernel.shape[-1]
    pad = size // 2 if padding is None else padding
    x = torch.nn.functional.pad(x, (pad,) * 4)
    patches = x.unfold(2, size, 1).unfold(3, size, 1)  # [n, c, h, w, size, size]
    return torch.einsum("nchwij,dcij->ndhw", patches, kernel) + w[f"{key}.bias"][:, None, None]


def blurred(x: Tensor, taps: list[float], before: int, after: int) -> Tensor:
    """Filtered along rows and columns, padded by so many zeros."""
    for axis in (2, 3):
        sides = (before, after, 0, 0) if axis == 3 else (0, 0, before, after)
        x = torch.nn.functional.pad(x, sides)
        length = x.shape[axis] - len(taps) + 1
        x = sum(tap * x.narrow(axis, i, length) for i, tap in enumerate(taps))
    return x


def halved(x: Tensor, taps: list[float], padding: int) -> Tensor:
    return blurred(x, taps, padding, padding)[:, :, ::2, ::2]


def doubled(x: Tensor, taps: list[float]) -> Tensor:
    n, c, height, width = x.shape
    wide = x.new_zeros(n, c, 2 * height, 2 * width)
    wide[:, :, ::2, ::2] = x
    return blurred(wide, [2 * tap for tap in taps], len(taps) // 2, len(taps) // 2 - 1)


def resampled(x: Tensor, way: str, taps: list[float]) -> Tensor:
    if way == "up":
        return doubled(x, taps)
    return halved(x, taps, (len(taps) - 1) // 2) if way == "down" else x


def attention(w: dict, key: str, x: Tensor, head: int) -> Tensor:
    tokens, out = norm(w, f"{key}.norm2", x), []
    qkv = conv(w, f"{key}.qkv", tokens).flatten(2)
    for first in range(0, x.shape[1], head):
        q, k, v = (qkv[:, 3 * first + i : 3 * (first + head) : 3] for i in range(3))
        weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(head), -1)  # [n, to, from]
        out.append(v @ weight.transpose(1, 2))
    return conv(w, f"{key}.proj", torch.cat(out, 1).reshape(x.shape))


def block(w: dict, kind: str, name: str, x: Tensor, emb: Tensor, does: str) -> Tensor:
    key, taps = f"model.{name}", [1 / 8, 3 / 8, 3 / 8, 1 / 8] if kind == "ncsnpp" else [0.5, 0.5]
    scale = 1 if kind == "adm" else math.sqrt(0.5)
    h = conv(w, f"{key}.conv0", resampled(silu(norm(w, f"{key}.norm0", x)), does, taps))
    said = (emb @ w[f"{key}.affine.weight"].T + w[f"{key}.affine.bias"])[:, :, None, None]
    if kind == "adm":
        c = h.shape[1]
        h = norm(w, f"{key}.norm1", h) * (said[:, :c] + 1) + said[:, c:]
    else:
        h = norm(w, f"{key}.norm1", h + said)
    h = conv(w, f"{key}.conv1", silu(h))
    x = resampled(x, does, taps)
    x = conv(w, f"{key}.skip", x) if f"{key}.skip.weight" in w else x
    h = (h + x) * scale
    if does == "attend" or (does == "attend if adm" and kind == "adm"):
        head = 64 if kind == "adm" else h.shape[1]
        h = (attention(w, key, h, head) + h) * scale
    return h


def embedded(w: dict, kind: str, noise: Tensor, labels: Tensor | None) -> Tensor:
    if kind == "ncsnpp":
        rates = [2 * math.pi * freq for freq in w["model.map_noise.freqs"].tolist()]
    else:
        rates = [10000 ** (-i / (15 if kind == "ddpmpp" else 16)) for i in range(16)]
    sines = [[math.sin(t * rate) for rate in rates] for t in noise.tolist()]
    cosines = [[math.cos(t * rate) for rate in rates] for t in noise.tolist()]
    halves = [cosines, sines] if kind == "adm" else [sines, cosines]
    emb = torch.cat([torch.tensor(half, dtype=torch.float64) for half in halves], 1)
    rows = 0.0 if labels is None else w["model.map_label.weight"].T[labels]
    if kind != "adm" and labels is not None:
        emb = emb + math.sqrt(w["model.map_label.weight"].shape[1]) * rows
        emb = emb + w["model.map_label.bias"]
    emb = silu(emb @ w["model.map_layer0.weight"].T + w["model.map_layer0.bias"])
    emb = emb @ w["model.map_layer1.weight"].T + w["model.map_layer1.bias"]
    return silu(emb + rows if kind == "adm" else emb)


def described(w: dict, kind: str, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
    """F of the networks of `FLAGS`, in float64."""
    w = {key: value.double() for key, value in w.items()}
    emb, smaller = embedded(w, kind, noise, labels), x
    h = conv(w, "model.enc.16x16_conv", x)
    skips = [h]
    for name, _, _, does in BLOCKS:
        if name.startswith("dec") and "_block" in name:
            h = torch.cat([h, skips.pop()], 1)
        h = block(w, kind, name, h, emb, does)
        if kind == "ncsnpp" and does == "down":
            key = f"model.{name.replace('down', 'aux_residual')}"
            wide = conv(w, key, smaller, padding=2)
            smaller = h = (h + halved(wide, [1 / 8, 3 / 8, 3 / 8, 1 / 8], 0)) / math.sqrt(2)
        if name.startswith("enc"):
            skips.append(h)
    assert not skips
    names = ("out_norm", "out_conv") if kind == "adm" else ("dec.16x16_aux_norm",) * 2
    last = names[1].replace("norm", "conv")
    return conv(w, f"model.{last}", silu(norm(w, f"model.{names[0]}", h)))


def denoised(w: dict, kind: str, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
    """D of the paper's equation 7 and Table 1, sigma_data 0.5, in float64."""
    x, total = x.double(), sigma**2 + 0.25
    noise = torch.full((len(x),), math.log(sigma) / 4, dtype=torch.float64)
    said = described(w, kind, x / math.sqrt(total), noise, labels)
    return 0.25 / total * x + sigma * 0.5 / math.sqrt(total) * said


def added(tmp_path: Path, kind: str, weights: dict[str, Tensor], classes: int = 0) -> Path:
    """The model folder of a converted file."""
    flags = FLAGS[kind] | ({"label_dim": classes} if classes else {})
    (tmp_path / "small.json").write_text(json.dumps({"flags": flags}))
    save_file(weights, tmp_path / "small.safetensors")
    return checkpoints.add(
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
        checkpoints.add(path, preset, "m", models, "edm")
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
    home = checkpoints.add(made, str(flags), "m", tmp_path / "models", "edm")
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


@pytest.mark.parametrize("name", FAMILIES["edm"][1])
def test_presets_are_whole(name: str) -> None:
    chosen = PRESETS[name]
    card = chosen.made(name, {}).card
    assert (
        card.classes
        == chosen.flags.label_dim
        == ("cond" in name.split("-")) * 10 + (name == "edm-imagenet-64") * 1000
    )
    assert chosen.address.endswith(".pkl") and chosen.licence == "CC BY-NC-SA 4.0"
    assert 1 < chosen.fid < 3 and "NFE" in chosen.fid_source
    with torch.device("meta"):
        net, adm = EDM(chosen.flags), ADM(PRESETS["imagenet-64"].flags)
    count = sum(value.numel() for value in net.parameters())
    if name == "edm-imagenet-64":  # ADM also says variances: three more outputs
        assert count + 3 * (9 * 192 + 1) == sum(value.numel() for value in adm.parameters())
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
        net = EDM(EDMFlags.model_validate(SONG | {"label_dim": classes}))
        with pytest.raises(ValueError, match="label_dim"):
            net(x, noise, labels)
