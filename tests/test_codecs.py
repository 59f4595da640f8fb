"""Latent models: an autoencoder between images and states, and what its card must say."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import bench
from bench import checkpoints
from bench.checkpoints import Card
from bench.checkpoints.card import CodecCard, Data, VPCard
from bench.checkpoints.codecs import CPU_CHUNK, Latents, autoencoder, cpu_chunk, in_chunks
from bench.checkpoints.weights import write_half
from bench.types import Extractor

NETWORK = {
    "sample_size": 4, "in_channels": 2, "out_channels": 2, "block_out_channels": [8, 8],
    "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 4,
}  # fmt: skip
CODEC = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
    "latent_channels": 2, "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
KINDS = {"AutoencoderKL": CODEC, "VQModel": CODEC | {"num_vq_embeddings": 16, "vq_embed_dim": 2}}


def latent_model(home: Path, kind: str = "AutoencoderKL", **changes: object) -> Path:
    torch.manual_seed(0)
    said = {
        "kind": kind, "network": KINDS[kind], "image": (1, 8, 8), "state": (2, 4, 4),
        "scale": 0.5, "shift": 0.25, "weights_sha256": "",
    } | changes  # fmt: skip
    codec = CodecCard.model_validate(said)
    sha256 = write_half(home / codec.file, autoencoder(codec).state_dict())
    card = Card(
        name=home.name, network=NETWORK, prediction="v", clip=False, training={},
        codec=codec.model_copy(update={"weights_sha256": sha256}), weights_sha256="",
        process=VPCard(kind="vp"), data=Data(name="none", digest="", licence="none"),
    )  # fmt: skip
    checkpoints.save(home, card, checkpoints.network(NETWORK).state_dict())
    return home


@pytest.fixture(params=KINDS)
def home(request, tmp_path: Path) -> Path:
    return latent_model(tmp_path / "latent", request.param)


def pictures(n: int) -> Tensor:
    return torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()


def test_states_are_scaled_latents_and_images_are_decoded_ones(home: Path) -> None:
    model, images = checkpoints.load(home), pictures(5)
    assert isinstance(model.codec, Latents)
    net, x = model.codec.net, images.float() / 127.5 - 1
    found = net.encode(x)
    latent = found.latents if hasattr(found, "latents") else found.latent_dist.mean
    state = model.encode(images)
    torch.testing.assert_close(state, 0.5 * (latent - 0.25))
    assert state.dtype == torch.float32 and tuple(state.shape[1:]) == model.shape == (2, 4, 4)
    want = (net.decode(latent).sample * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    decoded = model.decode(state)
    assert decoded.dtype == torch.uint8 and decoded.shape == images.shape
    assert (decoded.int() - want.int()).abs().max() <= 1  # float rounding may cross a half


def test_bytes_do_not_depend_on_the_batch(home: Path) -> None:
    model = checkpoints.load(home)
    state = torch.randn(CPU_CHUNK + 5, 2, 4, 4)
    whole = model.decode(state)
    parts = [model.decode(part) for part in state.split(7)]
    assert torch.equal(torch.cat(parts), whole)
    images = pictures(CPU_CHUNK + 5)
    assert torch.equal(
        torch.cat([model.encode(part) for part in images.split(3)]), model.encode(images)
    )


def test_a_latent_model_is_sampled_and_measured_like_any(home: Path) -> None:
    model = checkpoints.load(home)
    made = bench.sample(
        model, bench.samplers.DDIM(), bench.schedules.LogSNR(), nfe=3, seeds=range(3)
    )
    assert made.dtype == torch.uint8 and tuple(made.shape) == (3, 1, 8, 8)
    rate = bench.measures.measure(model, bench.measures.DataPrediction(), pictures(8), levels=5)
    assert (rate.v > 0).all()
    flat = bench.features.Flatten()
    for space, dim in (("image", 64), ("state", 32)):
        seen = []

        class Watched(Extractor):
            name = digest = "watched"

            def __call__(self, x: Tensor, seen: list = seen) -> Tensor:
                seen.append(x[0].numel())
                return flat(x)

        measure = bench.measures.FeatureFrechet(Watched(), space=space)
        bench.measures.measure(model, measure, pictures(8), levels=5)
        assert set(seen) == {dim}


def test_two_models_share_one_codec(home: Path) -> None:
    twin = home.parent / "twin"
    twin.mkdir()
    (twin / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes())
    card = json.loads((home / "card.json").read_text())
    card["codec"]["file"] = f"../{home.name}/codec.safetensors"
    (twin / "card.json").write_text(json.dumps(card))
    images = pictures(2)
    one, other = checkpoints.load(home), checkpoints.load(twin)
    assert torch.equal(one.encode(images), other.encode(images))
    assert one.digest == other.digest  # where a file lies is no part of what a model is


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(clip=True), "clip must be false with a codec"),
        (lambda c: c["codec"].update(state=[2, 8, 8]), r"\[2, 8, 8\] is not the network's"),
        (lambda c: c["codec"].update(weights_sha256="0"), "codec.safetensors is not the file"),
        (lambda c: c["codec"].update(file="gone.safetensors"), "gone.safetensors are missing"),
        (lambda c: c["codec"]["network"].update(latent_channels=3), "mis-shaped"),
        (lambda c: c["codec"]["network"].update(nonsense=3), "refuses the card's codec network"),
        (lambda c: c["codec"].update(scale=0), "scale"),
        (lambda c: c.update(null_class=True), "null_class needs classes"),
    ],
)
def test_bad_codecs_are_named(change, says: str, tmp_path: Path) -> None:
    home = latent_model(tmp_path / "latent")
    card = json.loads((home / "card.json").read_text())
    change(card)
    (home / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=says):
        checkpoints.load(home)


def test_other_images_and_states_that_are_not_finite(tmp_path: Path) -> None:
    model = checkpoints.load(latent_model(tmp_path / "latent"))
    with pytest.raises(ValueError, match=r"takes uint8 images \[1, 8, 8\]"):
        model.encode(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(FloatingPointError, match="latent made NaN"):
        model.decode(torch.full((1, 2, 4, 4), torch.nan))


def test_large_images_go_through_a_network_a_few_at_a_time() -> None:
    sizes = []

    def double(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return 2 * x

    assert [cpu_chunk(n, n) for n in (4, 28, 32, 64, 256)] == [32, 32, 32, 8, 1]
    x = torch.randn(9, 3, 64, 64)
    assert torch.equal(in_chunks(double, x), 2 * x) and sizes == [8, 8]  # the last is padded
