"""EDM's networks written again from their description: state dict by state dict, in float64."""

import math

import torch
from torch import Tensor

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
