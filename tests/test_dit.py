"""DiT: the published layout against a second writing of the network, its codec, and sampling."""

import json
import math
from pathlib import Path

import pytest
import torch
from console import crs
from safetensors.torch import save_file
from test_codecs import latent_model
from torch import Tensor

import bench
from bench import checkpoints
from bench.checkpoints.codecs import Latents, autoencoder
from bench.samplers import DDIM, DDPM
from bench.schedules import LogSNR, Native
from bench.types import VarianceDenoiser
from bench.zoo import dit
from bench.zoo.add import add
from bench.zoo.dit import DiTFlags, DiTNet

WIDTH, HEADS, DEPTH, CLASSES = 24, 3, 2, 5
FLAGS = {
    "input_size": 4, "patch_size": 2, "in_channels": 2, "hidden_size": WIDTH, "depth": DEPTH,
    "num_heads": HEADS, "num_classes": CLASSES,
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "sample_size": 16,
    "in_channels": 3, "out_channels": 3, "latent_channels": 2, "block_out_channels": [8, 8],
    "layers_per_block": 1, "norm_num_groups": 4, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def published(outputs: int = 4) -> dict[str, Tensor]:
    """A random file in the layout of facebookresearch/DiT."""
    generator = torch.Generator().manual_seed(0)

    def linear(name: str, wide: int, fed: int) -> dict[str, Tensor]:
        weight = torch.randn(wide, fed, generator=generator) / fed**0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(wide, generator=generator)}

    patch = linear("x_embedder.proj", WIDTH, 2 * 2 * 2)
    patch["x_embedder.proj.weight"] = patch["x_embedder.proj.weight"].reshape(WIDTH, 2, 2, 2)
    made = {"pos_embed": torch.randn(1, 4, WIDTH, generator=generator)} | patch
    made |= linear("t_embedder.mlp.0", WIDTH, 256) | linear("t_embedder.mlp.2", WIDTH, WIDTH)
    rows = torch.randn(CLASSES + 1, WIDTH, generator=generator)
    made["y_embedder.embedding_table.weight"] = rows
    for i in range(DEPTH):
        block = f"blocks.{i}."
        made |= linear(f"{block}attn.qkv", 3 * WIDTH, WIDTH)
        made |= linear(f"{block}attn.proj", WIDTH, WIDTH)
        made |= linear(f"{block}mlp.fc1", 4 * WIDTH, WIDTH)
        made |= linear(f"{block}mlp.fc2", WIDTH, 4 * WIDTH)
        made |= linear(f"{block}adaLN_modulation.1", 6 * WIDTH, WIDTH)
    made |= linear("final_layer.linear", 2 * 2 * outputs, WIDTH)
    return made | linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)


def reference(w: dict[str, Tensor], x: Tensor, time: float, label: int) -> Tensor:
    """One image [2, 4, 4] through the paper's network, token by token and head by head, float64."""
    w, x = {key: value.double() for key, value in w.items()}, x.double()

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def silu(v: Tensor) -> Tensor:
        return v / (1 + (-v).exp())

    def gelu(v: Tensor) -> Tensor:
        return v / 2 * (1 + (math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)).tanh())

    def normal(v: Tensor) -> Tensor:
        return (v - v.mean(-1, True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    angles = [time / 10000 ** (i / 128) for i in range(128)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles]).double()
    c = linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", waves)))
    c = silu(c + w["y_embedder.embedding_table.weight"][label])
    places = [(row, column) for row in (0, 2) for column in (0, 2)]
    kernel, bias = w["x_embedder.proj.weight"].flatten(1), w["x_embedder.proj.bias"]
    tokens = torch.stack([kernel @ x[:, i : i + 2, j : j + 2].flatten() + bias for i, j in places])
    tokens = tokens + w["pos_embed"][0]
    wide = WIDTH // HEADS
    for block in (f"blocks.{i}." for i in range(DEPTH)):
        said = linear(f"{block}adaLN_modulation.1", c).split(WIDTH)
        q, k, v = linear(f"{block}attn.qkv", normal(tokens) * (1 + said[1]) + said[0]).split(
            WIDTH, 1
        )
        heads = []
        for h in range(HEADS):
            own = slice(h * wide, (h + 1) * wide)
            heads.append((q[:, own] @ k[:, own].T / wide**0.5).softmax(1) @ v[:, own])
        tokens = tokens + said[2] * linear(f"{block}attn.proj", torch.cat(heads, 1))
        inner = linear(f"{block}mlp.fc1", normal(tokens) * (1 + said[4]) + said[3])
        tokens = tokens + said[5] * linear(f"{block}mlp.fc2", gelu(inner))
    shift, scale = linear("final_layer.adaLN_modulation.1", c).split(WIDTH)
    last = linear("final_layer.linear", normal(tokens) * (1 + scale) + shift)
    image = torch.zeros(last.shape[1] // 4, 4, 4, dtype=torch.float64)
    for token, (i, j) in zip(last, places, strict=True):  # a patch's pixels, channels innermost
        image[:, i : i + 2, j : j + 2] = token.reshape(2, 2, -1).permute(2, 0, 1)
    return image


def vae(home: Path, **changes: object) -> Path:
    """A folder in diffusers' layout, with the names of attention of its files of 2022."""
    home.mkdir()
    (home / "config.json").write_text(json.dumps(VAE | changes))
    save_file(vae_weights(old=True), home / "diffusion_pytorch_model.safetensors")
    return home


def vae_weights(old: bool = False) -> dict[str, Tensor]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(2)
    made = AutoencoderKL(**{k: v for k, v in VAE.items() if k[0] != "_"}).state_dict()
    for new, name in OLD.items() if old else ():
        made = {key.replace(f".{new}.", f".{name}."): value for key, value in made.items()}
    return made


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A preset of a network that a CPU runs, next to it its `tiny.pt` and its autoencoder."""
    torch.save(published(), tmp_path / "tiny.pt")
    vae(tmp_path / "vae")
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"flags": FLAGS, "data": "none"}))
    return str(path)


@pytest.fixture
def home(tiny: str, tmp_path: Path) -> Path:
    return add(tmp_path / "tiny.pt", tiny, "m", tmp_path / "models", "dit", tmp_path / "vae")


def test_a_published_file_gives_the_published_outputs(home: Path) -> None:
    model, w = checkpoints.load(home), published()
    x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    times, labels = torch.tensor([0.0, 1.0, 503.25, 999.0]), torch.tensor([0, 4, 2, CLASSES])
    with torch.no_grad():
        found = model.net(x, times, class_labels=labels).sample
    want = torch.stack(
        [reference(w, *one) for one in zip(x, times.tolist(), labels.tolist(), strict=True)]
    )
    assert (found - want).norm() < 1e-5 * want.norm()
    assert (found - want).abs().max() < 1e-5 * want.abs().max()


def to_diffusers(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by the names of diffusers' `DiTTransformer2DModel`."""
    names = {"attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
             "adaLN_modulation.1": "norm1.linear"}  # fmt: skip
    made: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        made[f"pos_embed.proj.{kind}"] = w[f"x_embedder.proj.{kind}"]
        made[f"proj_out_1.{kind}"] = w[f"final_layer.adaLN_modulation.1.{kind}"]
        made[f"proj_out_2.{kind}"] = w[f"final_layer.linear.{kind}"]
        for i in range(DEPTH):
            block = f"transformer_blocks.{i}."
            for old, new in names.items():
                made[f"{block}{new}.{kind}"] = w[f"blocks.{i}.{old}.{kind}"]
            for name, part in zip("qkv", w[f"blocks.{i}.attn.qkv.{kind}"].chunk(3), strict=True):
                made[f"{block}attn1.to_{name}.{kind}"] = part
            for old, new in (("0", "linear_1"), ("2", "linear_2")):
                at = f"{block}norm1.emb.timestep_embedder.{new}.{kind}"
                made[at] = w[f"t_embedder.mlp.{old}.{kind}"]
            rows = w["y_embedder.embedding_table.weight"]
            made[f"{block}norm1.emb.class_embedder.embedding_table.weight"] = rows
    return made


def test_diffusers_is_the_same_but_for_its_frequencies(home: Path) -> None:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=2,
        out_channels=4, num_layers=DEPTH, sample_size=4, num_embeds_ada_norm=CLASSES,
        norm_eps=1e-6,
    ).eval()  # fmt: skip
    missing, extra = net.load_state_dict(to_diffusers(published()), strict=False)
    assert not extra and not missing
    net.pos_embed.pos_embed = published()["pos_embed"]  # which it makes itself
    ours, x, labels = checkpoints.load(home).net, torch.randn(3, 2, 4, 4), torch.tensor([1, 5, 3])

    def apart(time: float) -> float:
        times = torch.full((3,), time)
        with torch.no_grad():
            mine, theirs = (one(x, times, class_labels=labels).sample for one in (ours, net))
        return float((mine - theirs).norm() / mine.norm())

    assert apart(0.0) < 1e-5 and apart(500.0) > 1e-3
    for block in net.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    assert apart(500.0) < 1e-5 and apart(999.0) < 1e-5


def test_from_the_files_to_images(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    models = tmp_path / "models"
    asked = ("add", tmp_path / "tiny.pt", "--family", "dit", "--preset", tiny, "--name", "my-dit")
    asked += ("--models", models)
    assert crs(monkeypatch, *asked) == 2
    said = capsys.readouterr().err
    assert "needs its autoencoder: fetch https://huggingface.co/stabilityai/sd-vae-ft-ema" in said
    assert "--codec" in said and said.count("\n") == 1 and not models.exists()
    assert crs(monkeypatch, *asked, "--codec", tmp_path / "vae") == 0
    sampled = ("sample", models / "my-dit", tmp_path / "a.npz", "--nfe", "2", "--seeds", "0-2")
    sampled += ("--device", "cpu", "--sampler", "DDPM(variance='learned')", "--guidance", "1.5")
    assert crs(monkeypatch, *sampled) == 0 and (tmp_path / "a.npz").is_file()


def test_it_is_sampled_with_its_variance_and_with_guidance(home: Path) -> None:
    model = checkpoints.load(home)
    assert model.shape == (2, 4, 4) and model.codec.image == (3, 8, 8)
    assert model.classes == CLASSES and not model.card.clip
    labels, x, sigma = torch.tensor([3, 0]), torch.randn(2, 2, 4, 4), 2.0
    time = float(model.process.timestep(torch.tensor(sigma)))
    for given, rows in ((labels, [3, 0]), (None, [CLASSES, CLASSES])):
        denoise = model.denoiser(given)
        assert isinstance(denoise, VarianceDenoiser)
        x0, v = denoise.with_variance(x, sigma)
        raw = torch.stack(
            [
                reference(published(), one, time, row)
                for one, row in zip(x / (1 + sigma**2) ** 0.5, rows, strict=True)
            ]
        ).float()
        torch.testing.assert_close(x0, x - sigma * raw[:, :2], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(v, (raw[:, 2:] + 1) / 2, rtol=1e-4, atol=1e-4)
    made: dict[str, bytes] = {}
    for sampler in (DDIM(), DDPM("learned"), DDPM("posterior")):
        for guidance in (None, 1.5):
            found = bench.sample(model, sampler, LogSNR(), 2, range(3), 2, guidance)
            assert found.dtype == torch.uint8 and tuple(found.shape) == (3, 3, 8, 8)
            whole = bench.sample(model, sampler, LogSNR(), 2, range(3), 3, guidance)
            assert torch.equal(found, whole)
            made[f"{sampler} {guidance}"] = found.numpy().tobytes()
    assert len(set(made.values())) == len(made)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near(dtype: str, home: Path) -> None:
    whole, half = checkpoints.load(home), checkpoints.load(home, dtype=dtype)
    x, labels = torch.randn(2, 2, 4, 4), torch.tensor([1, 2])
    want, found = (one.denoiser(labels)(x, 0.5) for one in (whole, half))
    assert found.dtype == torch.float32
    assert (found - want).norm() < 0.05 * want.norm()
    assert bench.sample(half, DDIM(), Native(), 2, range(2)).shape == (2, 3, 8, 8)


def test_the_codec_is_the_given_one_from_wherever_it_comes(home: Path, tmp_path: Path) -> None:
    first = checkpoints.load(home)
    assert isinstance(first.codec, Latents) and first.codec.card.scale == 0.18215
    stored = autoencoder(first.codec.card)
    stored.load_state_dict(vae_weights())
    x = torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        want = stored.eval().decode(x / 0.18215).sample
    want = (want * 127.5 + 127.5).round().clamp(0, 255).int()
    assert (first.decode(x).int() - want).abs().max() <= 1
    folder = vae(tmp_path / "pickled")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(vae_weights(), folder / "diffusion_pytorch_model.bin")
    for i, given in enumerate((home, folder)):
        file, preset = tmp_path / "tiny.pt", str(tmp_path / "tiny.json")
        other = add(file, preset, f"other-{i}", tmp_path / "models", "dit", given)
        model = checkpoints.load(other)
        assert torch.equal(model.decode(x), first.decode(x))
        assert model.codec.card.file == "codec.safetensors"
        assert (model.digest == first.digest) or i  # the folder's file is of other bytes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scaling_factor": 0.13025}, "scale 0.13025, not the 0.18215"),
        ({"shift_factor": 0.1}, "shift 0.1, not the 0"),
        ({"latent_channels": 3}, r"states \[3, 4, 4\], not the model's \[2, 4, 4\]"),
        ({"_class_name": "AutoencoderTiny"}, "no autoencoder that can be used"),
        ({"block_out_channels": [8, 16]}, "mis-shaped: .*decoder"),
        ({"layers_per_block": 2}, "missing: decoder"),
        ({"nonsense": 1}, "refuses the card's codec network"),
    ],
)
def test_another_codec_is_refused(change: dict, says: str, tiny: str, tmp_path: Path) -> None:
    given = vae(tmp_path / "other", **change)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        add(tmp_path / "tiny.pt", tiny, "m", tmp_path / "models", "dit", given)
    assert not (tmp_path / "models").exists()


def test_what_is_no_codec_is_said(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bare = vae(tmp_path / "bare")
    (bare / "diffusion_pytorch_model.safetensors").unlink()
    damaged = latent_model(tmp_path / "damaged", scale=0.18215, shift=0.0)
    (damaged / "codec.safetensors").write_bytes(b"")
    save_file(vae_weights(), tmp_path / "small.safetensors")
    for given, says in (
        ("gone", "is no file, diffusers folder"),
        ("empty", "is no file, diffusers folder"),
        ("bare", "has a config.json, but neither"),
        ("damaged", "not the file its card names"),
        ("small.safetensors", r"states \[4, 4, 4\], not the model's"),
    ):
        with pytest.raises(ValueError, match=says):
            add(tmp_path / "tiny.pt", tiny, "m", tmp_path / "models", "dit", tmp_path / given)


def test_a_codec_that_is_not_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pixels.json"
    path.write_text(json.dumps({"flags": FLAGS, "autoencoder": None}))
    torch.save(published(), tmp_path / "tiny.pt")
    given = (tmp_path / "tiny.pt", str(path), "pixels", tmp_path / "models", "dit")
    with pytest.raises(ValueError, match="takes no --codec"):
        add(*given, vae(tmp_path / "vae"))
    model = checkpoints.load(add(*given))
    assert model.card.clip and model.codec.image == model.shape == (2, 4, 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("pos_embed"), "; 1 missing: pos_embed$"),
        (lambda w: w.update(ema=torch.zeros(1)), "; 1 extra: ema$"),
        (
            lambda w: w.update({"pos_embed": torch.zeros(1, 9, WIDTH)}),
            r"; 1 mis-shaped: pos_embed \[1, 9, 24\] for \[1, 4, 24\]$",
        ),
        (
            lambda w: w.update({"y_embedder.embedding_table.weight": torch.zeros(CLASSES, WIDTH)}),
            r"1 mis-shaped: y_embedder.embedding_table.weight \[5, 24\] for \[6, 24\]$",
        ),
    ],
)
def test_other_keys_and_shapes_are_listed(change, says: str, tiny: str, tmp_path: Path) -> None:
    given = published()
    change(given)
    torch.save(given, tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=says):
        add(tmp_path / "tiny.pt", tiny, "m", tmp_path / "models", "dit", tmp_path / "vae")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["network"].update(num_heads=5), "does not divide into heads"),
        (lambda c: c["network"].update(input_size=5), "not whole patches"),
        (lambda c: c["network"].update(layers=2), "layers"),
        (lambda c: c.update(learned_variance=False), "learn_sigma"),
        (lambda c: c.update(null_class=False), "class_dropout_prob"),
    ],
)
def test_bad_cards_are_named(change, says: str, home: Path) -> None:
    card = json.loads((home / "card.json").read_text())
    change(card)
    (home / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=f"card.json is not a valid card: .*{says}"):
        checkpoints.load(home)


def test_presets_are_the_published_networks() -> None:
    small, large = dit.PRESETS["dit-xl-2-256"], dit.PRESETS["dit-xl-2-512"]
    with torch.device("meta"):
        net = DiTNet(small.flags)
    assert sum(p.numel() for p in net.parameters()) == 675_129_632  # 675 million in the paper
    assert tuple(net.pos_embed.shape) == (1, 256, 1152)
    assert large.flags == small.flags.model_copy(update={"input_size": 64})
    for image, chosen in ((256, small), (512, large)):
        assert chosen.file == f"DiT-XL-2-{image}x{image}.pt"
        card = chosen.converted("m", {}).card
        assert card.learned_variance and card.null_class and card.classes == 1000
        assert card.licence == "CC-BY-NC-4.0" and not card.clip
        assert card.training["published_fid"] == chosen.fid
        assert chosen.codec is not None and chosen.codec.state == (4, image // 8, image // 8)
        assert "--codec FOLDER" in chosen.options
    assert DiTFlags.model_validate(card.network) == large.flags


def test_a_file_of_sd_names_is_taken_for_its_first_autoencoder() -> None:
    from bench.zoo.autoencoder import SD_VAE, codec_at

    wanted = dit.PRESETS["dit-xl-2-256"].codec
    assert wanted is not None
    card, file = codec_at(Path(__file__), wanted)
    assert file == Path(__file__) and card.network == SD_VAE
    assert card.image == (3, 256, 256) and card.state == (4, 32, 32)
    with torch.device("meta"):
        net = autoencoder(card)
    assert sum(p.numel() for p in net.parameters()) == 83_653_863
