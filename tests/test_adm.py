"""The ADM network against its description, its published sizes, and diffusers' own network."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.checkpoints.quick import Quick, own_form, quickened
from bench.zoo.adm import PRESETS, ADMFlags, ADMNet
from bench.zoo.layers import DoublingConv, EntryConv, LastConv

SMALL = {
    "image_size": 32, "num_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1,
    "attention_resolutions": (16, 8), "num_head_channels": 16,
}  # fmt: skip

# three levels, attention at the lower two, two residual blocks each
DEEPER = SMALL | {"channel_mult": (1, 2, 2), "num_res_blocks": 2}


def network(**changes: object) -> ADMNet:
    """A small network whose every parameter is random, norms and biases too."""
    net = ADMNet(ADMFlags.model_validate(SMALL | changes)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, value in net.named_parameters():
        spread = torch.randn(value.shape, generator=generator)
        fan = value[0].numel() if value.ndim > 1 else 4
        value.copy_(spread / fan**0.5 + (value.ndim == 1 and name.endswith("weight")))
    return net


def inputs(channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, channels, 32, 32, generator=generator)
    return x, torch.tensor([7.0, 981.25]), torch.tensor([3, 0])


# The description, written again: one function a kind of block, the whole straight through.


def norm(w: dict, key: str, x: Tensor) -> Tensor:
    groups = x.reshape(len(x), 32, -1)
    mean, var = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
    y = ((groups - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    affine = (1, -1) + (1,) * (x.ndim - 2)
    return y * w[f"{key}.weight"].reshape(affine) + w[f"{key}.bias"].reshape(affine)


def conv(w: dict, key: str, x: Tensor) -> Tensor:
    return F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], padding="same")


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def halve(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def residual(w: dict, key: str, x: Tensor, emb: Tensor, resample=lambda x: x) -> Tensor:
    h = resample(silu(norm(w, f"{key}.in_layers.0", x)))
    h = conv(w, f"{key}.in_layers.2", h)
    e = silu(emb) @ w[f"{key}.emb_layers.1.weight"].T + w[f"{key}.emb_layers.1.bias"]
    c = h.shape[1]
    h = norm(w, f"{key}.out_layers.0", h) * (1 + e[:, :c, None, None]) + e[:, c:, None, None]
    h = conv(w, f"{key}.out_layers.3", silu(h))
    x = resample(x)
    return h + (conv(w, f"{key}.skip_connection", x) if f"{key}.skip_connection.bias" in w else x)


def attention(w: dict, key: str, x: Tensor, heads: int, new: bool) -> Tensor:
    n, c, height, width = x.shape
    tokens = norm(w, f"{key}.norm", x).reshape(n, c, -1)
    qkv = w[f"{key}.qkv.weight"][:, :, 0] @ tokens + w[f"{key}.qkv.bias"][:, None]
    each, parts = c // heads, []
    for head in range(heads):
        starts = [i * c + head * each for i in range(3)] if new else [
            3 * head * each + i * each for i in range(3)
        ]  # fmt: skip
        q, k, v = (qkv[:, start : start + each] for start in starts)  # each [n, each, t]
        weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(each), -1)  # [n, to, from]
        parts.append(v @ weight.transpose(1, 2))
    out = w[f"{key}.proj_out.weight"][:, :, 0] @ torch.cat(parts, 1)
    return x + (out + w[f"{key}.proj_out.bias"][:, None]).reshape(x.shape)


def embedding(w: dict, timestep: Tensor, labels: Tensor | None) -> Tensor:
    rates = [10000 ** (-i / 16) for i in range(16)]
    rows = [[math.cos(t * r) for r in rates] + [math.sin(t * r) for r in rates]
            for t in timestep.tolist()]  # fmt: skip
    emb = torch.tensor(rows) @ w["time_embed.0.weight"].T + w["time_embed.0.bias"]
    emb = silu(emb) @ w["time_embed.2.weight"].T + w["time_embed.2.bias"]
    return emb if labels is None else emb + w["label_emb.weight"][labels]


def described(
    w: dict, x: Tensor, timestep: Tensor, labels: Tensor | None, heads: int, new: bool
) -> Tensor:
    """The network of `SMALL`, block by block."""
    emb = embedding(w, timestep, labels)
    a = conv(w, "input_blocks.0.0", x)  # [n, 32, 32, 32]
    b = residual(w, "input_blocks.1.0", a, emb)
    c = residual(w, "input_blocks.2.0", b, emb, halve)  # [n, 32, 16, 16]
    d = residual(w, "input_blocks.3.0", c, emb)  # [n, 64, 16, 16]
    d = attention(w, "input_blocks.3.1", d, heads, new)
    h = residual(w, "middle_block.0", d, emb)
    h = attention(w, "middle_block.1", h, heads, new)
    h = residual(w, "middle_block.2", h, emb)
    h = residual(w, "output_blocks.0.0", torch.cat([h, d], 1), emb)
    h = attention(w, "output_blocks.0.1", h, heads, new)
    h = residual(w, "output_blocks.1.0", torch.cat([h, c], 1), emb)
    h = attention(w, "output_blocks.1.1", h, heads, new)
    h = residual(w, "output_blocks.1.2", h, emb, double)  # [n, 64, 32, 32]
    h = residual(w, "output_blocks.2.0", torch.cat([h, b], 1), emb)
    h = residual(w, "output_blocks.3.0", torch.cat([h, a], 1), emb)  # [n, 32, 32, 32]
    return conv(w, "out.2", silu(norm(w, "out.0", h)))


@pytest.mark.parametrize("new", [False, True], ids=["legacy", "new"])
@pytest.mark.parametrize("classes", [0, 5], ids=["unconditional", "classes"])
@pytest.mark.parametrize("width", [{}, {"num_head_channels": 0, "num_heads": 8}], ids=str)
def test_it_is_the_network_described(new: bool, classes: int, width: dict) -> None:
    net = network(num_classes=classes, use_new_attention_order=new, **width)
    x, timestep, labels = inputs()
    of = labels if classes else None
    found = net(x, timestep, of).sample
    want = described(net.state_dict(), x, timestep, of, 8 if width else 4, new)
    assert found.shape == (2, 6, 32, 32)
    assert 0.1 < want.std() < 10
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("other", [{"new": True}, {"labels": torch.tensor([3, 1])}], ids=str)
def test_the_comparison_sees_order_and_labels(other: dict) -> None:
    net = network(num_classes=5)
    x, timestep, labels = inputs()
    asked = {"labels": labels, "heads": 4, "new": False} | other
    gap = net(x, timestep, labels).sample - described(net.state_dict(), x, timestep, **asked)
    assert gap.abs().max() > 1e-2


def blocks_of(level: int, index: int, per: int) -> str:
    """`input_blocks` number of a level's residual block, or with index `per` its downsampler."""
    return f"input_blocks.{1 + level * (per + 1) + index}"


def in_diffusers(key: str, levels: int, per: int) -> str:
    """Our key -> diffusers' UNet2DModel's."""
    fixed = {
        "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
        "label_emb": "class_embedding", "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out",
        "out.2": "conv_out", "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0", "middle_block.2": "mid_block.resnets.1",
    }  # fmt: skip
    for level in range(levels):
        for i in range(per + 1):
            kind = f"resnets.{i}" if i < per else "downsamplers.0"
            fixed[f"{blocks_of(level, i, per)}.0"] = f"down_blocks.{level}.{kind}"
            fixed[f"{blocks_of(level, i, per)}.1"] = f"down_blocks.{level}.attentions.{i}"
            number = (levels - 1 - level) * (per + 1) + i
            up = f"up_blocks.{levels - 1 - level}"
            fixed[f"output_blocks.{number}.0"] = f"{up}.resnets.{i}"
            fixed[f"output_blocks.{number}.1"] = f"{up}.attentions.{i}"
            fixed[f"output_blocks.{number}.2"] = f"{up}.upsamplers.0"
    inner = {
        "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
        "norm": "group_norm", "proj_out": "to_out.0", "qkv": "qkv",
    }  # fmt: skip
    head = max((k for k in fixed if key.startswith(f"{k}.")), key=len)
    rest, _, last = key[len(head) + 1 :].rpartition(".")
    return ".".join(part for part in (fixed[head], inner.get(rest, rest), last) if part)


def converted(net: ADMNet, width: int) -> dict[str, Tensor]:
    """Weights for UNet2DModel: legacy qkv rows gathered by kind, 1x1 convolutions as matrices."""
    flags, new = net.flags, {}
    for key, value in net.state_dict().items():
        name = in_diffusers(key, len(flags.widths), flags.num_res_blocks)
        if ".qkv." in name:
            rows = value.flatten(1) if value.ndim > 1 else value
            grouped = rows.reshape(-1, 3, width, *rows.shape[1:])  # [heads, 3, width, ...]
            for i, part in enumerate(("to_q", "to_k", "to_v")):
                new[name.replace("qkv", part)] = grouped[:, i].flatten(0, 1)
        else:
            new[name] = value[:, :, 0] if value.ndim == 3 else value
    return new


@pytest.mark.parametrize("classes", [0, 5], ids=["unconditional", "classes"])
def test_it_agrees_with_diffusers_where_that_has_the_same_network(classes: int) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    net = network(**DEEPER, num_classes=classes)
    other = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=6, block_out_channels=(32, 64, 64),
        layers_per_block=2, attention_head_dim=16, attn_norm_num_groups=32, norm_eps=1e-5,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet", upsample_type="resnet", resnet_time_scale_shift="scale_shift",
        num_class_embeds=classes or None, freq_shift=0, flip_sin_to_cos=True,
    ).eval()  # fmt: skip
    other.load_state_dict(converted(net, 16))
    x, timestep, labels = inputs()
    of = labels if classes else None
    with torch.no_grad():
        want = other(x, timestep, class_labels=of).sample
    torch.testing.assert_close(net(x, timestep, of).sample, want, rtol=1e-5, atol=1e-5)


# openai/guided-diffusion's own file of the unconditional model has 552,814,086 parameters; the
# paper's hyperparameter table gives millions: 552, 296, 422, 554, 559
PARAMETERS = {
    "lsun-horse": 552_814_086, "imagenet-256-uncond": 552_814_086,
    "imagenet-256": 552_814_086 + 1000 * 1024, "imagenet-64": 296e6, "imagenet-128": 422e6,
    "imagenet-512": 559e6,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        net = ADMNet(PRESETS[name].flags)
    count, want = sum(value.numel() for value in net.parameters()), PARAMETERS[name]
    assert count == want if isinstance(want, int) else round(count / 1e6) == want / 1e6


def test_half_is_the_blocks_convolutions_alone() -> None:
    net = network(num_classes=5)
    x, timestep, labels = inputs()
    want = net(x, timestep, labels).sample
    half = net.cast(torch.bfloat16)
    kept = re.compile(r"time_embed|label_emb|^out\.|norm|layers\.0|emb_layers")
    for key, value in half.state_dict().items():
        assert (value.dtype == torch.float32) == bool(kept.search(key)), key
    found = half(x, timestep, labels).sample
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=0, atol=0.3)


@pytest.mark.parametrize("kind", [DoublingConv, EntryConv, LastConv])
def test_quick_convolutions_are_the_plain_ones(kind: type[Quick]) -> None:
    torch.manual_seed(0)
    conv, x = kind(5, 4).double(), torch.randn(2, 5, 6, 8).double()
    with torch.no_grad():
        found, want = conv.quick(torch.float64)(x), conv(x)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_a_quickened_network_is_the_same_network() -> None:
    net = network(**DEEPER, num_classes=5)
    x, timestep, labels = inputs()
    want = net(x, timestep, labels).sample
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    fast = quickened(net, own_form(torch.float32))
    assert {type(one) for one in fast.modules()}.isdisjoint({DoublingConv, EntryConv, LastConv})
    torch.testing.assert_close(fast(x, timestep, labels).sample, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(net(x, timestep, labels).sample, want)  # the plain one stays
    for key, value in net.state_dict().items():
        assert torch.equal(value, kept[key]), key
    shared = {one.data_ptr() for one in net.parameters()}
    other = [key for key, one in fast.named_parameters() if one.data_ptr() not in shared]
    assert len(other) == 4 and all(key.endswith(".weight") for key in other)  # entry, 2 up, last
    assert quickened(plain := torch.nn.Conv2d(3, 3, 3), own_form()) is plain


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_quickened_networks_are_as_near_to_float32(device: str, dtype: torch.dtype) -> None:
    net = network(**DEEPER, num_classes=5).to(device)
    given = [one.to(device) for one in inputs()]
    want = net(*given).sample
    half = net.cast(dtype)
    far = [
        (one(*given).sample - want).norm() / want.norm()
        for one in (half, quickened(half, own_form()))
    ]
    assert 0 < far[1] < 1.1 * far[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_heads": 4}, "one of the two"),
        ({"num_head_channels": 0}, "one of the two"),
        ({"num_channels": 48}, "multiples of 32"),
        ({"num_head_channels": 24}, "do not divide into heads"),
        ({"image_size": 33}, "cannot be halved"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"resblock_updown": False}, "resblock_updown"),
    ],
)
def test_flags_that_make_no_network_are_named(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ADMFlags.model_validate(SMALL | change)


def test_labels_are_for_networks_with_classes() -> None:
    x, timestep, labels = inputs()
    with pytest.raises(ValueError, match="num_classes"):
        network()(x, timestep, labels)
    with pytest.raises(ValueError, match="num_classes"):
        network(num_classes=5)(x, timestep)
