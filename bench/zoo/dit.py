"""DiT (Peebles and Xie 2023, arXiv 2212.09748): network of adaLN-Zero blocks, format and presets.

The network is written from the paper. Its parameters have the names of the published files, so that
the files load strictly. It is not diffusers' `DiTTransformer2DModel`: there the 128 frequencies of
the time's embedding reach 1/10000, here the last frequency is one step before it, as in ADM. So the
outputs differ at every timestep but 0. The network was compared with a second writing of the paper,
and with diffusers' network after a change of its frequencies.

Addresses and licence: README of github.com/facebookresearch/DiT. FID: the paper, 50,000 images of
250 DDPM steps with the learned variance, through the ft-EMA autoencoder, with guidance of the first
three latent channels alone (see `DiTNet`). No SHA-256 is published, and weights are not shipped.
Not tested, because the files were not at hand: that they load, and the scores.
"""

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from bench.checkpoints.card import Card, VPCard
from bench.checkpoints.family import Output, Shape
from bench.zoo.base import Converted, Flags, Preset, PublishedFamily, WantedCodec
from bench.zoo.layers import timestep_embedding

_ADDRESS = "https://dl.fbaipublicfiles.com/DiT/models/"
FREQUENCIES = 256  # sines and cosines of the timestep


class DiTFlags(Flags):
    """The arguments of a DiT, by the names of the published code."""

    input_size: int = Field(gt=0)  # of the state; a latent has an eighth of the image's size
    patch_size: int = Field(gt=0)
    in_channels: int = Field(default=4, gt=0)
    hidden_size: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    num_classes: int = Field(default=1000, gt=0)
    class_dropout_prob: float = Field(default=0.1, ge=0, lt=1)  # above 0: it has a null class
    learn_sigma: bool = True

    @property
    def null_class(self) -> bool:
        """Whether class number num_classes stands for no class."""
        return self.class_dropout_prob > 0

    @property
    def outputs(self) -> int:
        """Channels of the output: eps, followed by the variance's v if it is learned."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def shape(self) -> Shape:
        return self.in_channels, self.input_size, self.input_size

    def disagreement(self, card: Card) -> str:
        """Compare classes and learned variance."""
        found = (card.classes, card.null_class, card.learned_variance)
        if found == (self.num_classes, self.null_class, self.learn_sigma):
            return ""
        return ("classes, null_class and learned_variance must be the network's num_classes, "
                "class_dropout_prob above 0 and learn_sigma")  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> "DiTFlags":
        if self.input_size % self.patch_size:
            raise ValueError(f"input_size {self.input_size} is not whole patches")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into heads")
        return self


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise tokens [n, t, d], then shift and scale them by [n, d] each."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class _Attention(nn.Module):
    """Self-attention over tokens. The rows of qkv are all q, all k, all v, by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, t, width / heads]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, t, width))


class _MLP(nn.Module):
    """Two layers with a GELU of the tanh form between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (section 3.2)."""

    def __init__(self, flags: DiTFlags) -> None:
        super().__init__()
        width = flags.hidden_size
        self.attn = _Attention(width, flags.num_heads)
        self.mlp = _MLP(width, int(width * flags.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, *of_mlp = self.adaLN_modulation(condition).chunk(6, 1)
        x = x + gate[:, None] * self.attn(_modulated(x, shift, scale))
        shift, scale, gate = of_mlp
        return x + gate[:, None] * self.mlp(_modulated(x, shift, scale))


class _Patches(nn.Module):
    """[n, c, h, w] -> tokens [n, t, d], row by row."""

    def __init__(self, flags: DiTFlags) -> None:
        super().__init__()
        size = flags.patch_size
        self.proj = nn.Conv2d(flags.in_channels, flags.hidden_size, size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class _Time(nn.Module):
    """Timesteps [n], which may be fractions -> [n, d]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        return self.mlp(
            timestep_embedding(timestep, FREQUENCIES).to(next(self.mlp.parameters()).dtype)
        )


class _Classes(nn.Module):
    """Class numbers [n] -> [n, d]."""

    def __init__(self, flags: DiTFlags) -> None:
        super().__init__()
        rows = flags.num_classes + flags.null_class
        self.embedding_table = nn.Embedding(rows, flags.hidden_size)

    def forward(self, classes: Tensor) -> Tensor:
        return self.embedding_table(classes)


class _Final(nn.Module):
    """Tokens [n, t, d] -> [n, t, patch * patch * outputs]."""

    def __init__(self, flags: DiTFlags) -> None:
        super().__init__()
        width = flags.hidden_size
        self.linear = nn.Linear(width, flags.patch_size**2 * flags.outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(_modulated(x, *self.adaLN_modulation(condition).chunk(2, 1)))


class DiTNet(nn.Module):
    """x [n, c, h, w], timesteps [n], class labels [n] -> eps, followed by the variance's v if it is
    learned.

    `generate.Guided` guides all channels, as the paper says. The published sampling code guides
    only the first three of four channels. So guided images and their scores are near the published
    ones but not equal.
    """

    def __init__(self, flags: DiTFlags) -> None:
        super().__init__()
        self.flags = flags
        tokens = (flags.input_size // flags.patch_size) ** 2
        # sines and cosines, which the files hold
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, flags.hidden_size))
        self.x_embedder = _Patches(flags)
        self.t_embedder = _Time(flags.hidden_size)
        self.y_embedder = _Classes(flags)
        self.blocks = nn.ModuleList(_Block(flags) for _ in range(flags.depth))
        self.final_layer = _Final(flags)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """Return `Output` of [n, outputs, h, w]."""
        if class_labels is None:
            raise ValueError("a DiT needs class labels")
        condition = self.t_embedder(timestep) + self.y_embedder(class_labels)
        tokens = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, condition)
        return Output(self._image(self.final_layer(tokens, condition)))

    def _image(self, tokens: Tensor) -> Tensor:
        """[n, t, patch * patch * c] -> [n, c, h, w]. A token holds the rows of its patch."""
        size, side = self.flags.patch_size, self.flags.input_size // self.flags.patch_size
        patches = tokens.reshape(len(tokens), side, side, size, size, self.flags.outputs)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(
            len(tokens), self.flags.outputs, side * size, side * size
        )


class DiTPreset(Preset):
    """A checkpoint of facebookresearch/DiT."""

    flags: DiTFlags
    autoencoder: str | None = "https://huggingface.co/stabilityai/sd-vae-ft-ema"  # None: pixels
    scale: float = 0.18215  # of the latents
    guided: tuple[float, float] | None = None  # scale of guidance and its FID; None: unknown

    @property
    def codec(self) -> WantedCodec | None:
        """The autoencoder, which is another file."""
        if self.autoencoder is None:
            return None
        size = self.flags.input_size
        return WantedCodec(self.autoencoder, (self.flags.in_channels, size, size), self.scale)

    def record(self) -> dict[str, object]:
        """The source and the FID with guidance."""
        return super().record() | {"published_fid_guided": self.guided}

    def converted(self, name: str, tensors: dict[str, Tensor]) -> Converted:
        """The file already has the network's keys."""
        flags = self.flags
        card = self.card(
            name, "dit", flags, process=VPCard.model_validate({"kind": "vp"}), prediction="eps",
            learned_variance=flags.learn_sigma, clip=self.autoencoder is None,
            classes=flags.num_classes, null_class=flags.null_class,
        )  # fmt: skip
        return Converted(card, tensors)


def _xl(image: int, fid: float, guided_fid: float) -> DiTPreset:
    flags = DiTFlags(input_size=image // 8, patch_size=2, hidden_size=1152, depth=28, num_heads=16)
    return DiTPreset(
        flags=flags, address=f"{_ADDRESS}DiT-XL-2-{image}x{image}.pt",
        data="imagenet-ilsvrc-2012", licence="CC-BY-NC-4.0", fid=fid, guided=(1.5, guided_fid),
        fid_source=f"arXiv 2212.09748, table of ImageNet {image}, DiT-XL/2 and DiT-XL/2-G (1.50)",
    )  # fmt: skip


PRESETS: dict[str, DiTPreset] = {
    "dit-xl-2-256": _xl(256, 9.62, 2.27),
    "dit-xl-2-512": _xl(512, 12.03, 3.04),
}

FAMILY = PublishedFamily(DiTFlags, DiTNet, DiTPreset, PRESETS)
