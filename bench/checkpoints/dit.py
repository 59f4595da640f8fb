"""The DiT network (Peebles and Xie 2023, arXiv 2212.09748), of adaLN-Zero blocks.

Written from the paper, with the parameter names of the published files, so that they load strictly
and as they are. Not diffusers' `DiTTransformer2DModel`: its embedding of time stretches 128
frequencies to 1/10000 itself, where this one's last is one step short of it, as in ADM, so that it
gives other outputs at any timestep but 0. Checked against a second writing of the paper and against
diffusers' network with its frequencies changed, not against the authors' code or files.
"""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from bench.checkpoints.card import Card, complaint
from bench.checkpoints.output import Output, clock

FREQUENCIES = 256  # sines and cosines of the timestep


class DiTFlags(BaseModel):
    """What decides a DiT network, by the published code's names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_size: int = Field(gt=0)  # of the state: for latents an eighth of the image
    patch_size: int = Field(gt=0)
    in_channels: int = Field(default=4, gt=0)
    hidden_size: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    num_classes: int = Field(default=1000, gt=0)
    class_dropout_prob: float = Field(default=0.1, ge=0, lt=1)  # above 0: it has a row for no class
    learn_sigma: bool = True

    @property
    def null_class(self) -> bool:
        """Whether class number num_classes stands for none."""
        return self.class_dropout_prob > 0

    @property
    def outputs(self) -> int:
        """Channels of the output: eps, and the variance's v after it if it is learned."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @model_validator(mode="after")
    def _fits(self) -> "DiTFlags":
        if self.input_size % self.patch_size:
            raise ValueError(f"input_size {self.input_size} is not whole patches")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into heads")
        return self


def flags_of(card: Card) -> DiTFlags:
    """The network's arguments of a card of family dit; ValueError if they, or what the card says of
    classes and variance, do not make one."""
    try:
        flags = DiTFlags.model_validate(card.network)
    except ValidationError as error:
        raise ValueError(f"{card.name}: no DiT network: {complaint(error)}") from error
    said = (card.classes, card.null_class, card.learned_variance)
    if said != (flags.num_classes, flags.null_class, flags.learn_sigma):
        raise ValueError(
            f"{card.name}: classes, null_class and learned_variance must be the network's "
            "num_classes, class_dropout_prob above 0 and learn_sigma"
        )
    return flags


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens [n, t, d], shifted and scaled by [n, d] each."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class _Attention(nn.Module):
    """Self-attention over tokens; rows of qkv: all q, all k, all v, each head by head."""

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
    """Two layers, the GELU between them of its tanh form."""

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
    """Timesteps [n], fractional ones too -> [n, d]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        return self.mlp(clock(timestep, FREQUENCIES).to(next(self.mlp.parameters()).dtype))


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


class DiT(nn.Module):
    """x [n, c, h, w] at timesteps [n] and of class labels [n] -> eps, and the variance's v after
    it if it is learned.

    Guidance is outside, in `generate.Guided`, and of all channels, as in the paper; the published
    sampling code guides the first three of the latent's four alone, so that guided images, and
    their scores, are near the published ones and not the same.
    """

    def __init__(self, flags: DiTFlags) -> None:
        super().__init__()
        self.flags = flags
        tokens = (flags.input_size // flags.patch_size) ** 2
        # sines and cosines, but the files hold them, so that their order is theirs
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, flags.hidden_size))
        self.x_embedder = _Patches(flags)
        self.t_embedder = _Time(flags.hidden_size)
        self.y_embedder = _Classes(flags)
        self.blocks = nn.ModuleList(_Block(flags) for _ in range(flags.depth))
        self.final_layer = _Final(flags)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """`Output` of [n, outputs, h, w]."""
        if class_labels is None:
            raise ValueError("a DiT needs class labels")
        condition = self.t_embedder(timestep) + self.y_embedder(class_labels)
        tokens = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, condition)
        return Output(self._image(self.final_layer(tokens, condition)))

    def _image(self, tokens: Tensor) -> Tensor:
        """[n, t, patch * patch * c] -> [n, c, h, w]; a token's numbers are its patch's rows."""
        size, side = self.flags.patch_size, self.flags.input_size // self.flags.patch_size
        patches = tokens.reshape(len(tokens), side, side, size, size, self.flags.outputs)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(
            len(tokens), self.flags.outputs, side * size, side * size
        )
