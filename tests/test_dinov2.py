"""DINOv2 of a weights file: the features of torch-fidelity's own extractor around Meta's network.

Meta's code comes through torch.hub, which needs the network: a network written from the paper
stands for it, with its names of weights, and random ones.
"""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import judge
from bench.features import DINOv2ViTG14, DINOv2ViTS14, dinov2

KINDS = [
    dinov2.DINOv2ViTS14, dinov2.DINOv2ViTB14, dinov2.DINOv2ViTL14, dinov2.DINOv2ViTG14
]  # fmt: skip
SHAPES = {  # Oquab et al. 2023, table 17: dim, blocks, heads; the gated width of ViT-g
    "vits14": (384, 12, 6, 0),
    "vitb14": (768, 12, 12, 0),
    "vitl14": (1024, 24, 16, 0),
    "vitg14": (1536, 40, 24, 4096),
}


def shapes(size: str, side: int = 37) -> dict[str, tuple[int, ...]]:
    """The names and shapes of Meta's state dict."""
    dim, blocks, _, gated = SHAPES[size]
    found: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim), "pos_embed": (1, 1 + side**2, dim), "mask_token": (1, dim),
        "patch_embed.proj.weight": (dim, 3, 14, 14), "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,), "norm.bias": (dim,),
    }  # fmt: skip
    first, last, width = ("w12", "w3", gated) if gated else ("fc1", "fc2", 4 * dim)
    layers = {
        "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim),
        f"mlp.{first}": (width * (2 if gated else 1), dim), f"mlp.{last}": (dim, width),
    }  # fmt: skip
    for i in range(blocks):
        for layer, (out, into) in layers.items():
            found[f"blocks.{i}.{layer}.weight"] = (out, into)
            found[f"blocks.{i}.{layer}.bias"] = (out,)
        for one in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            found[f"blocks.{i}.{one}"] = (dim,)
        for one in ("ls1.gamma", "ls2.gamma"):
            found[f"blocks.{i}.{one}"] = (dim,)
    return found


def weights(size: str, side: int = 37) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes(size, side).items():
        wide = 1 / shape[-1] ** 0.5 if name.endswith("weight") and len(shape) > 1 else 0.3
        centre = 1.0 if "norm" in name and name.endswith("weight") or "gamma" in name else 0.0
        state[name] = centre + wide * torch.randn(shape, generator=draw)
    return state


class Meta(nn.Module):
    """The vision transformer of the paper, of Meta's state dict."""

    def __init__(self, state: dict[str, Tensor], heads: int):
        super().__init__()
        self.state, self.heads = state, heads

    def forward(self, images: Tensor) -> Tensor:
        w, dim = self.state, self.state["cls_token"].shape[-1]
        embedded = F.conv2d(
            images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14
        )
        x = torch.cat([w["cls_token"].expand(len(images), 1, dim), embedded.flatten(2).mT], 1)
        side = round((w["pos_embed"].shape[1] - 1) ** 0.5)
        if side != 16:
            grid = w["pos_embed"][:, 1:].mT.reshape(1, dim, side, side)
            scale = (16 + 0.1) / side  # Meta's interpolate_offset
            grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
            x = x + torch.cat([w["pos_embed"][:, :1], grid.flatten(2).mT], 1)
        else:
            x = x + w["pos_embed"]
        for i in range(1 + max(int(key.split(".")[1]) for key in w if key.startswith("blocks"))):
            block = {k.split(".", 2)[2]: v for k, v in w.items() if k.startswith(f"blocks.{i}.")}
            x = x + block["ls1.gamma"] * self.attention(norm(x, block, "norm1"), block)
            hidden = linear(norm(x, block, "norm2"), block, "mlp.fc1")
            x = x + block["ls2.gamma"] * linear(F.gelu(hidden), block, "mlp.fc2")
        return norm(x, w, "norm")[:, 0]

    def attention(self, x: Tensor, block: dict[str, Tensor]) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = (
            part.reshape(n, tokens, self.heads, -1).transpose(1, 2)
            for part in linear(x, block, "attn.qkv").chunk(3, -1)
        )
        weight = (q @ k.mT / (dim // self.heads) ** 0.5).softmax(-1)
        return linear((weight @ v).transpose(1, 2).reshape(n, tokens, dim), block, "attn.proj")


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def pictures(n: int, channels: int, size: int) -> Tensor:
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(3)) * 255
    return F.interpolate(coarse, (size, size), mode="bilinear").byte()


@pytest.mark.filterwarnings("ignore")  # of the library
@pytest.mark.parametrize("side", [37, 16])
def test_features_are_torch_fidelitys_of_the_same_weights(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    state = weights("vits14", side)
    torch.save(state, path := tmp_path / "mine.pth")
    with pytest.raises(NotImplementedError):  # a path is what theirs does not take
        FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"], str(path))
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: Meta(state, heads=6))
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    ours = DINOv2ViTS14(str(path))
    colour, grey = pictures(3, 3, 40), pictures(2, 1, 28)
    expected = theirs(colour)[0]
    assert ours(colour).shape == (3, 384) and ours(colour).dtype == torch.float32
    assert expected.std(0).min() > 1e-4  # of features that tell images apart
    torch.testing.assert_close(ours(colour), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours(grey), theirs(grey.expand(-1, 3, -1, -1))[0], rtol=1e-4, atol=1e-5
    )
    assert ours.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    dinov2._network.cache_clear()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_size_reads_metas_names_and_shapes(kind: Any) -> None:
    size = kind.published.file.split("_")[1]
    with torch.device("meta"):
        wanted = dinov2._build(kind.network).state_dict()
    found = {dinov2._timm_key(name): shape for name, shape in shapes(size).items()}
    del found["mask_token"]
    assert found.pop("pos_embed")[2] == wanted.pop("pos_embed").shape[2]
    assert found == {name: tuple(value.shape) for name, value in wanted.items()}
    assert size in kind.published.url


def test_other_weights_are_refused_when_it_is_built(tmp_path: Path) -> None:
    state = weights("vits14")
    for change in (
        {"norm.bias": torch.zeros(5)}, {"extra": torch.zeros(1)}, {"norm.bias": None},
        {"pos_embed": torch.zeros(1, 1 + 37**2, 10)}, {"pos_embed": torch.zeros(1, 1369, 384)},
    ):  # fmt: skip
        name = next(iter(change))
        odd = {key: value for key, value in (state | change).items() if value is not None}
        torch.save(odd, path := tmp_path / f"odd{len(odd)}.pth")
        with pytest.raises(
            ValueError, match=f"does not hold the weights of vit_small.* .{name} differs"
        ):
            DINOv2ViTS14(str(path))
    torch.save(state, path := tmp_path / "small.pth")
    with pytest.raises(ValueError, match="small.pth does not hold the weights of vit_giant"):
        DINOv2ViTG14(str(path))
    text = f"dinov2-vits14(weights={str(path)!r})"
    assert judge.extractor_of(text, "cpu") == DINOv2ViTS14(str(path), "cpu")
    assert judge.extractor_of(text, "cpu").name == "dinov2-vits14"
