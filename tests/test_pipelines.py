"""Folders of diffusers: the network's own outputs, its scheduler's loop, its pipeline's images."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from console import crs
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

import bench
from bench import checkpoints, data
from bench.checkpoints import pipelines
from bench.generate import Guided
from bench.samplers import DDIM, DDPM
from bench.schedules import Karras
from bench.types import VarianceDenoiser
from bench.zoo.folders import add_folder

UNET = {
    "sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 4,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "in_channels": 3, "out_channels": 3,
}  # fmt: skip
CODEC = {
    "block_out_channels": (8, 8), "latent_channels": 3, "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
DIT = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8,
    "num_layers": 2, "sample_size": 8, "norm_num_groups": 4,
}  # fmt: skip
LINEAR = {"beta_schedule": "linear", "beta_start": 0.0002, "beta_end": 0.015}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def ddpm(prediction: str = "epsilon", channels: int = 3, **said: Any) -> DDPMPipeline:
    unet = UNet2DModel(**UNET | {"out_channels": channels})
    return DDPMPipeline(
        unet, DDPMScheduler(prediction_type=prediction, **{"clip_sample": False} | said)
    )


def ddim(**said: Any) -> DDIMPipeline:
    return DDIMPipeline(UNet2DModel(**UNET), DDIMScheduler(**said))


def ldm() -> LDMPipeline:
    codec = VQModel(**CODEC, num_vq_embeddings=64, scaling_factor=0.5)
    scheduler = DDIMScheduler(clip_sample=False, **SCALED)
    return LDMPipeline(codec, UNet2DModel(**UNET), scheduler)


def ldm_kl() -> LDMPipeline:
    codec = AutoencoderKL(**CODEC, scaling_factor=0.3)
    return LDMPipeline(codec, UNet2DModel(**UNET), DDIMScheduler(clip_sample=False))


def of_classes() -> DDIMPipeline:
    unet = UNet2DModel(**UNET, num_class_embeds=1000)
    return DDIMPipeline(unet, DDIMScheduler(clip_sample=False))


def dit() -> DiTPipeline:
    codec = AutoencoderKL(**CODEC | {"latent_channels": 4})
    return DiTPipeline(DiTTransformer2DModel(**DIT), codec, DDIMScheduler(clip_sample=False))


PIPELINES = {
    "pixel eps": lambda: ddpm(**LINEAR),
    "pixel v": lambda: ddpm("v_prediction", **COSINE),
    "pixel x0": lambda: ddpm("sample", **SCALED),
    "pixel, learned variance": lambda: ddpm(channels=6, variance_type="learned_range"),
    "pixel, 400 timesteps": lambda: ddpm(num_train_timesteps=400, **LINEAR),
    "pixel, clipped": lambda: ddim(),
    "pixel, of classes": of_classes,
    "latent VQ": ldm,
    "latent KL": ldm_kl,
    "DiT": dit,
}


@pytest.fixture(params=PIPELINES)
def saved(request, tmp_path: Path) -> tuple[Any, Path]:
    """A pipeline of random weights, and the folder that diffusers saved it in."""
    return kept(PIPELINES[request.param](), tmp_path / "pipe")


def kept(pipeline: Any, home: Path) -> tuple[Any, Path]:
    """The pipeline as diffusers opens it, for sampling, of the folder that it saved it in."""
    pipeline.save_pretrained(home)
    opened = type(pipeline).from_pretrained(home)
    opened.set_progress_bar_config(disable=True)
    return opened, home


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def said(pipeline: Any, x: Tensor, timestep: int, labels: Tensor | None) -> Tensor:
    """What the network itself says of a VP-scaled x."""
    net = pipeline.components.get("unet") or pipeline.transformer
    given = {} if labels is None else {"class_labels": labels}
    with torch.no_grad():
        return net(x, torch.full((len(x),), timestep), **given).sample


def asked(model: Any) -> Tensor | None:
    return torch.tensor([7, 999]) if model.classes else None


def by_hand(scheduler: Any, output: Tensor, x: Tensor, timestep: int) -> Tensor:
    """E[x0|x] as the scheduler's formulas have it, of its own table."""
    alpha = scheduler.alphas_cumprod[timestep]
    x0 = {
        "epsilon": lambda: (x - (1 - alpha) ** 0.5 * output) / alpha**0.5,
        "v_prediction": lambda: alpha**0.5 * x - (1 - alpha) ** 0.5 * output,
        "sample": lambda: output,
    }[scheduler.config.prediction_type]()
    return x0.clamp(-1, 1) if scheduler.config.clip_sample else x0


def test_the_denoiser_is_the_network_by_the_schedulers_formulas(saved: tuple[Any, Path]) -> None:
    pipeline, home = saved
    model = bench.load(home)
    last = pipeline.scheduler.config.num_train_timesteps - 1
    for timestep in (0, 100, last // 2, last):
        sigma = float(model.process.sigma(torch.tensor(timestep)))
        noisy = torch.randn(2, *model.shape)
        x = noisy * (1 + sigma**2) ** 0.5
        output = said(pipeline, noisy, timestep, asked(model))
        want = by_hand(pipeline.scheduler, output[:, : model.shape[0]], noisy, timestep)
        denoise = model.denoiser(asked(model))
        x0 = denoise(x, sigma)
        assert (x0 - want).abs().max() <= 1e-5 * x.abs().max()  # a difference of such numbers
        assert isinstance(denoise, VarianceDenoiser) == (output.shape[1] > model.shape[0])
        if isinstance(denoise, VarianceDenoiser):
            _, v = denoise.with_variance(x, sigma)
            torch.testing.assert_close(
                v, (output[:, model.shape[0] :] + 1) / 2, rtol=1e-4, atol=1e-4
            )


def walked(model: Any, denoise: Any, timesteps: Tensor, start: Tensor) -> Tensor:
    """Our DDIM through a scheduler's timesteps to 0, from VP-scaled noise."""
    grid = torch.cat([model.process.sigma(timesteps), torch.zeros(1, dtype=torch.float64)])
    return DDIM()(denoise, start * (1 + float(grid[0]) ** 2) ** 0.5, grid, lambda: start)


def test_ddim_is_the_schedulers_own_loop(saved: tuple[Any, Path]) -> None:
    pipeline, home = saved
    model = bench.load(home)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(10)
    start = torch.randn(2, *model.shape)
    x = start
    for timestep in scheduler.timesteps:
        output = said(pipeline, x, int(timestep), asked(model))[:, : model.shape[0]]
        x = scheduler.step(output, timestep, x, eta=0.0, use_clipped_model_output=True).prev_sample
    ours = walked(model, model.denoiser(asked(model)), scheduler.timesteps, start)
    assert (ours - x).abs().max() <= 1e-4 * max(1, x.abs().max())


@pytest.mark.parametrize("kind", ["LDM", "LDM, KL", "DiT", "DiT, guided"])
def test_images_are_the_pipelines(kind: str, tmp_path: Path) -> None:
    make = {"LDM": ldm, "LDM, KL": ldm_kl}.get(kind, dit)
    pipeline, home = kept(make(), tmp_path / "pipe")
    model = bench.load(home)
    scale = 3.0 if "guided" in kind else 1.0
    of = {"class_labels": [7, 999], "guidance_scale": scale}
    given: dict[str, Any] = of if make is dit else {"batch_size": 2}
    made = pipeline(num_inference_steps=5, generator=torch.Generator().manual_seed(1),
                    output_type="np", **given).images  # fmt: skip
    start = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(1))
    denoise = model.denoiser(asked(model))
    if scale != 1:
        denoise = Guided(denoise, model.denoiser(), scale)
    ours = model.decode(walked(model, denoise, pipeline.scheduler.timesteps, start))
    want = (torch.as_tensor(made).permute(0, 3, 1, 2) * 255).round()
    assert (ours.float() - want).abs().max() <= 1  # float rounding may cross a half
    assert want.std() > 1


def test_a_folder_is_sampled_and_encoded_like_any(saved: tuple[Any, Path]) -> None:
    _, home = saved
    model = bench.load(home)
    sampler = DDPM("learned") if model.card.learned_variance else DDIM()
    made = bench.sample(model, sampler, Karras(), 2, range(2))
    assert made.dtype == torch.uint8 and tuple(made.shape[1:]) == model.codec.image
    assert tuple(model.encode(made).shape[1:]) == model.shape


def test_added_it_is_the_same_model(saved: tuple[Any, Path], tmp_path: Path) -> None:
    _, home = saved
    made = add_folder(home, "mine", tmp_path / "models")
    direct, added = bench.load(home), bench.load("mine", models=tmp_path / "models")
    assert made == tmp_path / "models" / "mine" and added.name == "mine"
    assert added.digest == direct.digest
    assert sorted(p.suffix for p in made.iterdir()) == sorted(
        [".json", ".safetensors"] + [".safetensors"] * (direct.card.codec is not None)
    )
    assert not list(made.parent.glob(".*"))


def test_pickled_weights_are_added_but_not_opened(tmp_path: Path) -> None:
    pipeline, home = kept(ldm(), tmp_path / "pipe")
    pipeline.save_pretrained(tmp_path / "old", safe_serialization=False)
    with pytest.raises(ValueError, match="has no .*bin, .*: crs-bench add .* --family diffusers"):
        bench.load(tmp_path / "old")
    made = add_folder(tmp_path / "old", "mine", tmp_path / "models")
    one, other = bench.load(home), bench.load(made)
    for mine, theirs in ((one.net, other.net), (one.codec.net, other.codec.net)):
        want = theirs.state_dict()
        assert all(torch.equal(value, want[key]) for key, value in mine.state_dict().items())


def changed(file: Path, **said: Any) -> None:
    """A config with other entries; those that are None are left out."""
    content = json.loads(file.read_text()) | said
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_a_network_alone_of_an_early_version(tmp_path: Path) -> None:
    """As published first: files side by side, attention under older names, options left out."""
    pipeline, pipe = kept(ddpm(), tmp_path / "pipe")
    home = tmp_path / "early"
    home.mkdir()
    (home / "config.json").write_text((pipe / "unet" / "config.json").read_text())
    scheduler = {"_class_name": "DDPMScheduler", "clip_sample": False, "tensor_format": "pt"}
    (home / "scheduler_config.json").write_text(json.dumps(scheduler))
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(key: str) -> str:
        for new, name in older.items():
            key = key.replace(f".{new}.", f".{name}.")
        return key

    weights = load_file(pipe / "unet" / pipelines.WEIGHTS)
    renamed = {old(key): value for key, value in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, home / pipelines.WEIGHTS)
    x = torch.randn(2, 3, 8, 8)
    one, other = bench.load(pipe), bench.load(home)
    assert torch.equal(one.denoiser()(x, 1.0), other.denoiser()(x, 1.0))
    assert one.process == other.process and other.card.training["pipeline"] is None


def test_a_vq_model_that_says_no_scale_has_none(tmp_path: Path) -> None:
    _, home = kept(ldm(), tmp_path / "pipe")
    assert bench.load(home).card.codec.scale == 0.5
    changed(home / "vqvae" / "config.json", scaling_factor=None)
    assert bench.load(home).card.codec.scale == 1
    _, home = kept(dit(), tmp_path / "dit")
    changed(home / "vae" / "config.json", scaling_factor=None)
    assert bench.load(home).card.codec.scale == 0.18215


def test_dit_of_the_class_it_once_had(tmp_path: Path) -> None:
    _, home = kept(dit(), tmp_path / "dit")
    digest = bench.load(home).digest
    changed(
        home / "transformer" / "config.json", _class_name="Transformer2DModel",
        only_cross_attention=False, attention_type="default",
    )  # fmt: skip
    assert bench.load(home).digest == digest


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "entries", "says"),
    [
        (SCHEDULER, {"thresholding": True}, "thresholding True"),
        (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "trained_betas"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "rescale_betas"),
        (SCHEDULER, {"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        (SCHEDULER, {"prediction_type": "flow"}, "prediction_type 'flow'"),
        (SCHEDULER, {"timestep_type": "continuous"}, "timestep_type 'continuous'"),
        (SCHEDULER, {"dynamic_thresholding": True}, "dynamic_thresholding True"),
        (SCHEDULER, {"sample_max_value": 2.0}, "sample_max_value 2.0"),
        (SCHEDULER, {"clip_sample_range": 2.0}, "clip_sample_range 2.0"),
        (SCHEDULER, {"sigma_min": 0.01}, "sigma_min 0.01"),
        (SCHEDULER, {"sigma_max": 80}, "sigma_max 80"),
        (SCHEDULER, {"final_sigmas_type": "sigma_min"}, "final_sigmas_type 'sigma_min'"),
        (SCHEDULER, {"invert_sigmas": True}, "invert_sigmas True"),
        (SCHEDULER, {"shift": 3.0}, "shift 3.0"),
        (SCHEDULER, {"use_flow_sigmas": True}, "use_flow_sigmas True"),
        (SCHEDULER, {"brand_new": 3}, "brand_new 3 is not supported"),
        (SCHEDULER, {"brand_new": False}, "brand_new False is not supported"),
        (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler is not supported"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        (SCHEDULER, {"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler"),
        (SCHEDULER, {"_class_name": "DDPMScheduler"}, "DDIMScheduler, but its config is of a DDPM"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ("unet/config.json", {"addition_embed_type": "text"}, "addition_embed_type .'text'"),
        (SCHEDULER, {"variance_type": "learned"}, "variance_type 'learned'"),
        (SCHEDULER, {"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVe"),
        (SCHEDULER, {"clip_sample": True}, "clip_sample of latents"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel; supp"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type 'fourier'"),
        ("unet/config.json", {"in_channels": 5}, "vqvae have 3 channels, the network takes 5"),
        ("unet/config.json", {"new_option": 3}, "refuses the card's network: .*new_option"),
        ("unet/config.json", {"layers_per_block": 2}, "keys are missing, extra or mis-shaped: "),
        ("vqvae/config.json", {"_class_name": "AutoencoderTiny"}, "is a AutoencoderTiny"),
        ("vqvae/config.json", {"num_vq_embeddings": 65}, "mis-shaped: quantize.embedding.weight"),
        ("model_index.json", {"_class_name": None}, "names no _class_name"),
        ("model_index.json", {"text_encoder": ["t", "CLIP"]}, "LDMPipeline with text_encoder"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused(
    file: str, entries: dict[str, Any], says: str, tmp_path: Path
) -> None:
    _, home = kept(ldm(), tmp_path / "pipe")
    changed(home / file, **entries)
    with pytest.raises(ValueError, match=says) as error:
        bench.load(home)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=says):
        add_folder(home, "mine", tmp_path / "models")
    assert not list((tmp_path / "models").glob("*"))


def test_options_that_only_decide_steps_are_ignored(tmp_path: Path) -> None:
    _, home = kept(ldm(), tmp_path / "pipe")
    digest = bench.load(home).digest
    steps = {"timestep_spacing": "trailing", "steps_offset": 1, "use_karras_sigmas": True,
             "set_alpha_to_one": False, "interpolation_type": "log_linear"}  # fmt: skip
    changed(home / SCHEDULER, **steps)
    assert bench.load(home).digest == digest


def test_a_class_that_does_not_clip_is_not_clipped(tmp_path: Path) -> None:
    _, home = kept(ddim(), tmp_path / "pipe")
    assert bench.load(home).card.clip
    changed(home / "scheduler" / "scheduler_config.json", _class_name="EulerDiscreteScheduler")
    changed(home / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    assert not bench.load(home).card.clip


@pytest.mark.parametrize("option", ["center_input_sample", "flip_sin_to_cos"])
def test_the_network_class_handles_its_own_options(option: str, tmp_path: Path) -> None:
    pipeline, home = kept(ddim(clip_sample=False), tmp_path / "pipe")
    flipped = not pipeline.unet.config[option]
    changed(home / "unet" / "config.json", **{option: flipped})
    opened, model = DDIMPipeline.from_pretrained(home), bench.load(home)
    x, sigma = torch.randn(1, 3, 8, 8), float(model.process.sigma(torch.tensor(300.0)))
    with torch.no_grad():
        raw = opened.unet(x / (1 + sigma**2) ** 0.5, 300).sample
    torch.testing.assert_close(model.denoiser()(x, sigma), x - sigma * raw, rtol=1e-4, atol=1e-4)


def test_sharded_weights_are_joined(tmp_path: Path) -> None:
    pipeline, home = kept(ldm(), tmp_path / "pipe")
    pipeline.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    parts = tmp_path / "parts"
    assert list(parts.glob("unet/*-of-*")) and list(parts.glob("vqvae/*-of-*"))
    x, one, other = torch.randn(1, 3, 8, 8), bench.load(home), bench.load(parts)
    assert torch.equal(one.denoiser()(x, 1.0), other.denoiser()(x, 1.0))
    added = add_folder(parts, "mine", tmp_path / "models")
    assert bench.load(added).digest == other.digest
    next(parts.glob("unet/*-00002-of-*")).unlink()
    with pytest.raises(ValueError, match="shards are missing"):
        bench.load(parts)


def test_a_config_with_a_mark_and_a_pointer(tmp_path: Path) -> None:
    _, home = kept(ddim(), tmp_path / "pipe")
    for path in home.rglob("*.json"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert bench.load(home).shape == (3, 8, 8)
    (home / "unet" / pipelines.WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        bench.load(home)


def test_missing_files_are_named(tmp_path: Path) -> None:
    _, home = kept(ddpm(), tmp_path / "pipe")
    (home / "unet" / pipelines.WEIGHTS).unlink()
    with pytest.raises(ValueError, match="has no unet/diffusion_pytorch_model.safetensors"):
        bench.load(home)
    (home / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ValueError, match="scheduler_config.json is missing"):
        bench.load(home)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _, home = kept(ddim(), tmp_path / "pipe")
    wanted = ("--nfe", 2, "--seeds", "0-1", "--device", "cpu")
    assert crs(monkeypatch, "sample", home, tmp_path / "a.npz", *wanted) == 0
    models = ("--models", tmp_path / "models")
    added = ("add", home, "--family", "diffusers", "--name", "mine", *models)
    assert crs(monkeypatch, *added) == 0
    assert crs(monkeypatch, "sample", "mine", tmp_path / "b.npz", *wanted, *models) == 0
    assert torch.equal(data.read_images(tmp_path / "a.npz"), data.read_images(tmp_path / "b.npz"))
    assert crs(monkeypatch, "schedule", home, "--schedule", "Native", "--nfe", 3) == 0
    capsys.readouterr()
    assert crs(monkeypatch, *added) == 2
    assert crs(monkeypatch, "add", tmp_path, *added[2:-3], "other", *models) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "is there already" in lines[0] and "no folder of dif" in lines[1]


def test_a_hub_id_is_opened_from_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline: a snapshot laid out as huggingface_hub does, then one that is not there."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--tiny-model"
    _, snapshot = kept(ldm(), home / "snapshots" / ("0" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    model = bench.load("someone/tiny-model")
    assert model.name == "someone/tiny-model" and model.digest == bench.load(snapshot).digest
    added = add_folder("someone/tiny-model", "mine", tmp_path / "models")
    assert checkpoints.read_card(added).training["source"] == "someone/tiny-model"
    (snapshot / "vqvae" / pipelines.WEIGHTS).unlink()
    with pytest.raises(ValueError, match="add someone/tiny-model --family diffusers"):
        bench.load("someone/tiny-model")
    with pytest.raises(ValueError, match="no model 'someone/other' here, and the hub") as error:
        bench.load("someone/other")
    assert "\n" not in str(error.value)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no model 'here/other' in "):
        bench.load("here/other")  # a path that is mistyped is no hub id
