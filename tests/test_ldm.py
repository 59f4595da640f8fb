"""Latent-diffusion files: whole files in the published layout against the architecture's
description, which is written again here, and what of them is refused."""

import argparse
import json
import math
import shlex
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import bench
from bench import checkpoints
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.quick import own_form, quickened
from bench.zoo.add import add
from bench.zoo.ldm import PRESETS

STAGE = {"embed_dim": 3, "n_embed": 16, "resolution": 16, "ch": 32, "ch_mult": (1, 2),
         "num_res_blocks": 1}  # fmt: skip
UNET = {"image_size": 8, "in_channels": 3, "model_channels": 32, "channel_mult": (1, 2),
        "num_res_blocks": 2, "attention_resolutions": (2,)}  # fmt: skip
VQ = {"unet": UNET | {"num_head_channels": 16}, "first_stage": STAGE}
KL = {
    "unet": UNET | {"in_channels": 4, "attention_resolutions": (1, 2), "num_heads": 4},
    "adm_blocks": True, "first_stage": STAGE | {"embed_dim": 4, "n_embed": 0},
    "linear_end": 0.0155, "scale_by_std": True,
}  # fmt: skip
CLASSES = {
    "unet": UNET | {"num_heads": 2, "context_dim": 12, "n_classes": 5},
    "first_stage": STAGE, "use_ema": False, "null_class": True,
}  # fmt: skip
KINDS = {"vq": VQ, "kl": KL, "classes": CLASSES}
SCALE = 0.2


class Original:
    """Layers by name, float64; a weight is drawn in float32 where a name is first met."""

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, key: str, *shape: int, offset: float = 0.0) -> Tensor:
        if key not in self.tensors:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 4
            drawn = torch.randn(shape, generator=self.generator) / fan**0.5
            self.tensors[key] = drawn + offset
        assert self.tensors[key].shape == shape
        return self.tensors[key].double()

    def conv(self, key: str, x: Tensor, out: int, kernel: int = 3, **how: int) -> Tensor:
        how = {"padding": kernel // 2} | how
        weight = self.get(f"{key}.weight", out, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.get(f"{key}.bias", out), **how)

    def linear(self, key: str, x: Tensor, out: int, bias: bool = True) -> Tensor:
        y = x @ self.get(f"{key}.weight", out, x.shape[-1]).T
        return y + self.get(f"{key}.bias", out) if bias else y

    def norm(self, key: str, x: Tensor, eps: float) -> Tensor:
        c = x.shape[1]
        groups = x.reshape(len(x), 32, -1)
        mean, var = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
        y = ((groups - mean) / (var + eps).sqrt()).reshape(x.shape)
        weight = self.get(f"{key}.weight", c, offset=1.0)
        return y * weight[:, None, None] + self.get(f"{key}.bias", c)[:, None, None]

    def layer_norm(self, key: str, x: Tensor) -> Tensor:
        c = x.shape[-1]
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return y * self.get(f"{key}.weight", c, offset=1.0) + self.get(f"{key}.bias", c)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def halve(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Tokens [n, t, c] of one head."""
    return torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v


def tokens_of(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def plain_attention(net: Original, key: str, x: Tensor, heads: int) -> Tensor:
    c = x.shape[1]
    rows = net.get(f"{key}.qkv.weight", 3 * c, c, 1)[:, :, 0]
    qkv = tokens_of(net.norm(f"{key}.norm", x, 1e-5)) @ rows.T + net.get(f"{key}.qkv.bias", 3 * c)
    parts = [attend(*head.chunk(3, -1)) for head in qkv.chunk(heads, -1)]
    rows = net.get(f"{key}.proj_out.weight", c, c, 1)[:, :, 0]
    out = torch.cat(parts, -1) @ rows.T + net.get(f"{key}.proj_out.bias", c)
    return x + out.transpose(1, 2).reshape(x.shape)


def cross_attention(net: Original, key: str, x: Tensor, to: Tensor, heads: int) -> Tensor:
    c = x.shape[-1]
    q = net.linear(f"{key}.to_q", x, c, bias=False).chunk(heads, -1)
    k = net.linear(f"{key}.to_k", to, c, bias=False).chunk(heads, -1)
    v = net.linear(f"{key}.to_v", to, c, bias=False).chunk(heads, -1)
    parts = [attend(*head) for head in zip(q, k, v, strict=True)]
    return net.linear(f"{key}.to_out.0", torch.cat(parts, -1), c)


def transformer(net: Original, key: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    c, block = x.shape[1], f"{key}.transformer_blocks.0"
    h = tokens_of(net.conv(f"{key}.proj_in", net.norm(f"{key}.norm", x, 1e-6), c, 1))
    y = net.layer_norm(f"{block}.norm1", h)
    h = h + cross_attention(net, f"{block}.attn1", y, y, heads)
    y = net.layer_norm(f"{block}.norm2", h)
    h = h + cross_attention(net, f"{block}.attn2", y, context, heads)
    y = net.linear(f"{block}.ff.net.0.proj", net.layer_norm(f"{block}.norm3", h), 8 * c)
    value, gate = y.chunk(2, -1)
    gated = value * gate * (1 + torch.erf(gate / 2**0.5)) / 2
    h = h + net.linear(f"{block}.ff.net.2", gated, c)
    return x + net.conv(f"{key}.proj_out", h.transpose(1, 2).reshape(x.shape), c, 1)


def residual(
    net: Original, key: str, x: Tensor, emb: Tensor, out: int, adm: bool,
    resample: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:  # fmt: skip
    h = resample(silu(net.norm(f"{key}.in_layers.0", x, 1e-5)))
    h = net.conv(f"{key}.in_layers.2", h, out)
    e = net.linear(f"{key}.emb_layers.1", silu(emb), 2 * out if adm else out)[:, :, None, None]
    if adm:
        h = net.norm(f"{key}.out_layers.0", h, 1e-5) * (1 + e[:, :out]) + e[:, out:]
    else:
        h = net.norm(f"{key}.out_layers.0", h + e, 1e-5)
    h = net.conv(f"{key}.out_layers.3", silu(h), out)
    x = resample(x)
    return h + (x if x.shape[1] == out else net.conv(f"{key}.skip_connection", x, out, 1))


def unet(net: Original, preset: dict, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
    said, adm = preset["unet"], preset.get("adm_blocks", False)
    width, mults, last = said["model_channels"], said["channel_mult"], len(said["channel_mult"]) - 1
    rates = 10000 ** (-torch.arange(width // 2).double() / (width // 2))
    clock = torch.cat([(t[:, None] * rates).cos(), (t[:, None] * rates).sin()], 1)
    emb = net.linear("time_embed.0", clock, 4 * width)
    emb = net.linear("time_embed.2", silu(emb), 4 * width)

    def attention(key: str, h: Tensor) -> Tensor:
        heads = said.get("num_heads") or h.shape[1] // said["num_head_channels"]
        if context is None:
            return plain_attention(net, key, h, heads)
        return transformer(net, key, h, context, heads)

    h = net.conv("input_blocks.0.0", x, width)
    skips, i = [h], 1
    for level, mult in enumerate(mults):
        for _ in range(said["num_res_blocks"]):
            h = residual(net, f"input_blocks.{i}.0", h, emb, mult * width, adm)
            if 2**level in said["attention_resolutions"]:
                h = attention(f"input_blocks.{i}.1", h)
            skips.append(h)
            i += 1
        if level < last:
            if adm:
                h = residual(net, f"input_blocks.{i}.0", h, emb, h.shape[1], adm, halve)
            else:
                h = net.conv(f"input_blocks.{i}.0.op", h, h.shape[1], stride=2)
            skips.append(h)
            i += 1
    h = residual(net, "middle_block.0", h, emb, h.shape[1], adm)
    h = residual(net, "middle_block.2", attention("middle_block.1", h), emb, h.shape[1], adm)
    i = 0
    for level in reversed(range(len(mults))):
        for index in range(said["num_res_blocks"] + 1):
            h = torch.cat([h, skips.pop()], 1)
            h = residual(net, f"output_blocks.{i}.0", h, emb, mults[level] * width, adm)
            layer = 1
            if 2**level in said["attention_resolutions"]:
                h = attention(f"output_blocks.{i}.1", h)
                layer = 2
            if level and index == said["num_res_blocks"]:
                key = f"output_blocks.{i}.{layer}"
                if adm:
                    h = residual(net, key, h, emb, h.shape[1], adm, double)
                else:
                    h = net.conv(f"{key}.conv", double(h), h.shape[1])
            i += 1
    return net.conv("out.2", silu(net.norm("out.0", h, 1e-5)), x.shape[1])


def stage_block(net: Original, key: str, x: Tensor, out: int) -> Tensor:
    h = net.conv(f"{key}.conv1", silu(net.norm(f"{key}.norm1", x, 1e-6)), out)
    h = net.conv(f"{key}.conv2", silu(net.norm(f"{key}.norm2", h, 1e-6)), out)
    return h + (x if x.shape[1] == out else net.conv(f"{key}.nin_shortcut", x, out, 1))


def stage_middle(net: Original, key: str, x: Tensor) -> Tensor:
    c = x.shape[1]
    x = stage_block(net, f"{key}.block_1", x, c)
    y = net.norm(f"{key}.attn_1.norm", x, 1e-6)
    parts = [tokens_of(net.conv(f"{key}.attn_1.{name}", y, c, 1)) for name in "qkv"]
    h = attend(*parts).transpose(1, 2).reshape(x.shape)
    x = x + net.conv(f"{key}.attn_1.proj_out", h, c, 1)
    return stage_block(net, f"{key}.block_2", x, c)


def encode(net: Original, said: dict, x: Tensor) -> Tensor:
    """The latent: the posterior's mean, or what is quantised later."""
    last, moments = len(said["ch_mult"]) - 1, said["embed_dim"] * (1 if said["n_embed"] else 2)
    h = net.conv("encoder.conv_in", x, said["ch"])
    for level, mult in enumerate(said["ch_mult"]):
        for i in range(said["num_res_blocks"]):
            h = stage_block(net, f"encoder.down.{level}.block.{i}", h, mult * said["ch"])
        if level < last:  # a row and a column of zeros, after the last alone
            key = f"encoder.down.{level}.downsample.conv"
            h = net.conv(key, F.pad(h, (0, 1, 0, 1)), h.shape[1], stride=2, padding=0)
    h = silu(net.norm("encoder.norm_out", stage_middle(net, "encoder.mid", h), 1e-6))
    h = net.conv("quant_conv", net.conv("encoder.conv_out", h, moments), moments, 1)
    return h[:, : said["embed_dim"]]


def decode(net: Original, said: dict, z: Tensor) -> Tensor:
    if said["n_embed"]:
        codes = net.get("quantize.embedding.weight", said["n_embed"], said["embed_dim"])
        distance = ((tokens_of(z)[:, :, None] - codes) ** 2).sum(-1)
        z = codes[distance.argmin(-1)].transpose(1, 2).reshape(z.shape)
    h = net.conv("post_quant_conv", z, said["embed_dim"], 1)
    h = net.conv("decoder.conv_in", h, said["ch_mult"][-1] * said["ch"])
    h = stage_middle(net, "decoder.mid", h)
    for level in reversed(range(len(said["ch_mult"]))):
        for i in range(said["num_res_blocks"] + 1):
            key, out = f"decoder.up.{level}.block.{i}", said["ch_mult"][level] * said["ch"]
            h = stage_block(net, key, h, out)
        if level:
            h = net.conv(f"decoder.up.{level}.upsample.conv", double(h), h.shape[1])
    return net.conv("decoder.conv_out", silu(net.norm("decoder.norm_out", h, 1e-6)), 3)


class Whole:
    """An original model of a preset: three networks, and the file that its trainer would save."""

    def __init__(self, preset: dict) -> None:
        self.preset, self.stage = preset, preset["first_stage"]
        self.net, self.first, self.embed = Original(1), Original(2), Original(3)
        pixels = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
        latent = encode(self.first, self.stage, pixels)
        decode(self.first, self.stage, latent)
        self.eps(latent, torch.zeros(1).double(), torch.zeros(1).long())

    def eps(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        said = self.preset["unet"]
        context = None
        if "n_classes" in said:
            rows = self.embed.get("embedding.weight", said["n_classes"], said["context_dim"])
            context = rows[labels][:, None]
        return unet(self.net, self.preset, x, t, context)

    def state_dict(self) -> dict[str, Tensor]:
        root = np.linspace(0.0015**0.5, self.preset.get("linear_end", 0.0195) ** 0.5, 1000)
        alphas = torch.from_numpy(np.cumprod(1 - root**2)).float()
        found = {"betas": torch.from_numpy(root**2).float(), "alphas_cumprod": alphas}
        found |= {f"first_stage_model.{k}": v for k, v in self.first.tensors.items()}
        found |= {f"cond_stage_model.{k}": v for k, v in self.embed.tensors.items()}
        weights = {f"diffusion_model.{k}": v for k, v in self.net.tensors.items()}
        if self.preset.get("scale_by_std"):
            found["scale_factor"] = torch.tensor(SCALE)
        if not self.preset.get("use_ema", True):
            return found | {f"model.{k}": v for k, v in weights.items()}
        found |= {f"model.{k}": torch.zeros_like(v) for k, v in weights.items()}
        found |= {f"model_ema.{k.replace('.', '')}": v for k, v in weights.items()}
        found["model_ema.decay"] = torch.tensor(0.9999)
        return found | {"model_ema.num_updates": torch.tensor(7, dtype=torch.int)}


def written(preset: dict, folder: Path) -> str:
    path = folder / "tiny.json"
    path.write_text(json.dumps(preset | {"data": "none"}))
    return str(path)


def added(file: Path, preset: dict, name: str = "m") -> Path:
    given = written(preset, file.parent)
    return add(file, given, name, file.parent / "models", "ldm")


def apart(found: Tensor, want: Tensor) -> float:
    """The largest difference, of the largest value."""
    assert found.shape == want.shape and want.abs().max() > 0.1
    return float((found.double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_originals_outputs(kind: str, tmp_path: Path) -> None:
    whole = Whole(KINDS[kind])
    torch.save({"state_dict": whole.state_dict(), "global_step": 7}, tmp_path / "model.ckpt")
    model = checkpoints.load(added(tmp_path / "model.ckpt", KINDS[kind]))
    generator = torch.Generator().manual_seed(0)
    channels = KINDS[kind]["unet"]["in_channels"]
    assert model.shape == (channels, 8, 8) and model.codec.image == (3, 16, 16)
    x = torch.randn(3, *model.shape, generator=generator)
    t, labels = torch.tensor([3.0, 500.25, 999.0]), torch.tensor([0, 3, 4])
    given = {"class_labels": labels} if model.classes else {}
    with torch.no_grad():
        for net in (model.net, quickened(model.net, own_form(torch.float32))):
            assert apart(net(x, t, **given).sample, whole.eps(x.double(), t, labels)) < 1e-5
        images = torch.randint(256, (2, 3, 16, 16), generator=generator).byte()
        pixels = images.double() / 127.5 - 1
        latent = encode(whole.first, whole.stage, pixels)
        scale = SCALE if kind == "kl" else 1.0
        assert apart(model.encode(images), scale * latent) < 1e-5
        made = model.codec.net.decode(latent.float()).sample
        assert apart(made, decode(whole.first, whole.stage, latent)) < 1e-5
    want = (decode(whole.first, whole.stage, latent) * 127.5 + 127.5).round().clamp(0, 255)
    decoded = model.decode((scale * latent).float())
    assert (decoded.double() - want).abs().max() <= 1  # float rounding may cross a half


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_sampled_like_any_model(kind: str, tmp_path: Path) -> None:
    torch.save(Whole(KINDS[kind]).state_dict(), tmp_path / "model.ckpt")
    home = added(tmp_path / "model.ckpt", KINDS[kind])
    model, card = checkpoints.load(home), checkpoints.read_card(home)
    assert card.prediction == "eps" and not card.clip
    assert card.family == ("adm" if kind == "kl" else "ldm")
    end = KINDS[kind].get("linear_end", 0.0195)
    assert card.process.betas == "scaled_linear" and card.process.beta_range == (0.0015, end)
    assert card.training["ema"] == (kind != "classes")
    ddim, grid = bench.samplers.DDIM(), bench.schedules.LogSNR()
    made = bench.sample(model, ddim, grid, nfe=2, seeds=range(3))
    assert made.dtype == torch.uint8 and tuple(made.shape) == (3, 3, 16, 16)
    half = checkpoints.load(home, dtype="bfloat16")
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0]) if model.classes else None
    exact, near = (one.denoiser(labels)(x, 1.0) for one in (model, half))
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, exact, rtol=0, atol=0.1)


def test_the_last_class_is_none(tmp_path: Path) -> None:
    whole = Whole(CLASSES)
    torch.save(whole.state_dict(), tmp_path / "model.ckpt")
    model = checkpoints.load(added(tmp_path / "model.ckpt", CLASSES))
    assert model.classes == 4
    x, sigma = torch.randn(2, *model.shape), float(model.process.sigma(torch.tensor(500.0)))
    scaled = (x / (1 + sigma**2) ** 0.5).double()
    t = torch.full((2,), 500.0).double()
    eps = whole.eps(scaled, t, torch.tensor([4, 4]))
    assert apart(model.denoiser()(x, sigma), x.double() - sigma * eps) < 1e-4
    with pytest.raises(ValueError, match="has classes 0..3"):
        model.denoiser(torch.tensor([0, 4]))
    guided = bench.sample(
        model, bench.samplers.DDIM(), bench.schedules.LogSNR(), nfe=2, seeds=range(2), guidance=1.5
    )
    assert tuple(guided.shape) == (2, 3, 16, 16)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class by the name that Lightning's trainer leaves in a file, gone when that is read."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    for one in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, one, module)
    return module.ModelCheckpoint


def test_a_trainers_file_loads_without_the_trainer(
    trainer: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = Whole(VQ).state_dict()
    score = {"monitor": "val/loss", "best_model_score": torch.tensor(0.1)}
    content = {"state_dict": tensors, "callbacks": {trainer: score, "it": trainer()}}
    torch.save(content, tmp_path / "model.ckpt")
    for one in [one for one in sys.modules if one.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, one)
    plain = tmp_path / "plain.ckpt"
    torch.save(tensors, plain)
    homes = [added(tmp_path / "model.ckpt", VQ, "a"), added(plain, VQ, "b")]
    with zipfile.ZipFile(tmp_path / "published.zip", "w") as archive:
        archive.write(plain, "folder/model.ckpt")
        archive.writestr("folder/config.yaml", "model: it")
    homes.append(added(tmp_path / "published.zip", VQ, "c"))
    assert len({checkpoints.load(home).digest for home in homes}) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_file_of_other_classes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    whole, path = Whole(VQ), tmp_path / "it is.ckpt"
    content = {"state_dict": whole.state_dict(), "hyper_parameters": argparse.Namespace(lr=1)}
    torch.save(content, path)
    with pytest.raises(ValueError, match="refused: reading it would run its code") as error:
        added(path, VQ)
    said = str(error.value)
    assert "\n" not in said and not (tmp_path / "models").exists()
    command = shlex.split(said[said.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    torch.save(whole.state_dict(), tmp_path / "plain.ckpt")
    homes = [added(path.with_suffix(".safetensors"), VQ, "a")]
    homes.append(added(tmp_path / "plain.ckpt", VQ, "b"))
    assert len({checkpoints.load(home).digest for home in homes}) == 1
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(path, "model.ckpt")
    with pytest.raises(ValueError, match=r"two.zip unpacked: .*python -c .*/model.safetensors$"):
        added(tmp_path / "two.zip", VQ, "z")
    with zipfile.ZipFile(tmp_path / "two.zip", "a") as archive:
        archive.write(path, "other.ckpt")
    with pytest.raises(ValueError, match="two.zip holds 2 files of weights"):
        added(tmp_path / "two.zip", VQ, "z")
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="bad.zip is damaged"):
        added(tmp_path / "bad.zip", VQ, "z")


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("vq", lambda w: w.pop("model_ema.diffusion_modelout2bias"),
         "1 keys .* such as model_ema.diffusion_modelout2bias; .*use_ema false"),
        ("vq", lambda w: [w.pop(k) for k in list(w) if k.startswith("model_ema.")],
         "have no moving average"),
        ("vq", lambda w: w.pop("first_stage_model.decoder.up.0.block.0.conv1.bias"),
         r"1 missing: decoder.up_blocks.1.resnets.0.conv1.bias$"),
        ("vq", lambda w: w.update({"first_stage_model.encoder.more": torch.zeros(1)}),
         "1 extra: encoder.more$"),
        ("vq", lambda w: w.update({"first_stage_model.quantize.embedding.weight": torch.zeros(9)}),
         "1 mis-shaped: quantize.embedding.weight"),
        ("vq", lambda w: w.update(stranger=torch.zeros(1)), "1 extra: stranger$"),
        ("vq", lambda w: w.update(alphas_cumprod=w["alphas_cumprod"][:500]), "500 steps go"),
        ("vq", lambda w: w.update(alphas_cumprod=w["alphas_cumprod"] ** 0.9), "linear_end"),
        ("kl", lambda w: w.pop("scale_factor"), "no scale_factor"),
        ("classes", lambda w: w.pop("cond_stage_model.embedding.weight"),
         "1 missing: class_embed.weight"),
        ("classes", lambda w: w.pop("model.diffusion_model.out.2.bias"), "1 missing: out.2.bias"),
        ("classes", lambda w: w.update({"model.diffusion_model.out.2.bias": torch.zeros(9)}),
         r"1 mis-shaped: out.2.bias \[9\] for \[3\]"),
    ],
)  # fmt: skip
def test_other_files_are_refused(kind: str, change, says: str, tmp_path: Path) -> None:
    tensors = Whole(KINDS[kind]).state_dict()
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=says):
        added(tmp_path / "model.safetensors", KINDS[kind])
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("preset", "says"),
    [
        (VQ | {"first_stage": STAGE | {"resolution": 32}}, r"does not make latents \[3, 8, 8\]"),
        (CLASSES | {"adm_blocks": True}, "without classes"),
        (VQ | {"unet": UNET}, "num_head_channels or num_heads"),
        (VQ | {"unet": UNET | {"num_heads": 1, "context_dim": 8}}, "go together"),
        (VQ | {"unet": UNET | {"num_heads": 5}}, "64 channels do not divide into heads"),
        (VQ | {"unet": UNET | {"num_heads": 1, "model_channels": 48}}, "multiples of 32, not 48"),
        (VQ | {"unet": UNET | {"num_heads": 1, "channel_mult": [1] * 5}}, "cannot be halved"),
        (VQ | {"linear_begin": 1}, "linear_begin"),
    ],
)
def test_bad_presets_are_named(preset: dict, says: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=f"(?s)tiny.json is not a valid preset.*{says}"):
        added(tmp_path / "model.ckpt", preset)


def test_a_card_of_other_classes_is_refused(tmp_path: Path) -> None:
    torch.save(Whole(CLASSES).state_dict(), tmp_path / "model.ckpt")
    home = added(tmp_path / "model.ckpt", CLASSES)
    card = json.loads((home / "card.json").read_text())
    (home / "card.json").write_text(json.dumps(card | {"null_class": False}))
    with pytest.raises(ValueError, match="n_classes must be the card's classes"):
        checkpoints.load(home)


@pytest.mark.parametrize(
    ("name", "millions", "stage_millions"),
    [
        ("lsun-churches", 294.96, 83.65),
        ("lsun-bedrooms", 274.06, 55.32),
        ("ffhq-256", 274.06, 55.32),
        ("celebahq-256", 274.06, 55.32),
        ("cin256-v2", 400.92, 55.32),
    ],
)
def test_presets_have_the_published_sizes(
    name: str, millions: float, stage_millions: float
) -> None:
    preset = PRESETS[name]
    card = preset.converted(name, {"scale_factor": torch.tensor(1.0)}).card
    net = checkpoints.find_family(card.family).network(card)
    sizes = {key: value.numel() for key, value in net.state_dict().items()}
    embedding = sizes.pop("class_embed.weight", 0)  # apart in the files
    assert sum(sizes.values()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert embedding == (1001 * 512 if name == "cin256-v2" else 0)
    with torch.device("meta"):
        stage = autoencoder(card.codec)
    count = sum(value.numel() for value in stage.state_dict().values())
    assert count / 1e6 == pytest.approx(stage_millions, abs=0.01)
    assert card.codec.image == (3, 256, 256) and preset.licence == "MIT" and preset.fid_source
    assert card.classes == (1000 if name == "cin256-v2" else 0)
