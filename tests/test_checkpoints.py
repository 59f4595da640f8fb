"""Model folders: saved and loaded strictly, one denoiser at the edge."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import checkpoints, store
from bench.checkpoints import Card
from bench.checkpoints.card import Data, VECard, VPCard
from bench.process import VE, VP, denoised
from bench.types import Model

NETWORK = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
    "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 4,
}  # fmt: skip
PROCESSES = [
    VPCard(kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80),
    VECard(kind="ve", sigma_data=0.5),
]


def card(**changes: object) -> Card:
    fields = {
        "name": "tiny", "network": NETWORK, "process": PROCESSES[0], "prediction": "v",
        "data": Data(name="none", digest="", licence="none"), "training": {},
        "weights_sha256": "",
    }  # fmt: skip
    return Card(**(fields | changes))


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return checkpoints.network(NETWORK).state_dict()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one saved model, `tiny`."""
    checkpoints.save(tmp_path / "tiny", card(), weights())
    return tmp_path


def edit(models: Path, change) -> None:
    path = models / "tiny" / "card.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_weights(models: Path, change) -> None:
    """Other weights, with the digest that the card wants."""
    path = models / "tiny" / "model.safetensors"
    content = load_file(path)
    change(content)
    save_file(content, path)
    edit(models, lambda c: c.update(weights_sha256=store.file_digest(path)))


def test_weights_come_back_rounded_to_half(models: Path) -> None:
    model = checkpoints.load("tiny", models=models)
    have, want = model.net.state_dict(), weights()
    assert have.keys() == want.keys()
    for key, value in want.items():
        assert have[key].dtype == torch.float32
        assert torch.equal(have[key], value.half().float()), key
    stored = load_file(models / "tiny" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert not list((models / "tiny").glob(".*"))
    assert (models / "tiny" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_it_is_a_model_found_by_name_or_path(models: Path) -> None:
    by_name = checkpoints.load("tiny", models=models)
    by_path = checkpoints.load(models / "tiny", models=models / "elsewhere")
    assert by_name.digest == by_path.digest
    assert by_name.shape == (1, 8, 8) and by_name.name == "tiny" and by_name.device == "cpu"
    assert by_name.process == VP("cosine", 1000, 0.01, 80.0)
    assert isinstance(by_name, Model) and not by_name.predicts_variance and by_name.classes == 0


def test_card_round_trip(tmp_path: Path) -> None:
    for process in PROCESSES:
        saved = card(process=process, training={"steps": 3}, clip=False)
        checkpoints.write_card(tmp_path, saved)
        assert checkpoints.read_card(tmp_path) == saved
    assert checkpoints.read_card(tmp_path).process.build() == VE()


@pytest.mark.parametrize(
    "change",
    [{"prediction": "eps"}, {"process": PROCESSES[1]}, {"clip": False}, {"weights": 1}],
    ids=lambda change: next(iter(change)),
)
def test_digest_is_of_what_decides_the_images(change: dict, tmp_path: Path) -> None:
    seed = change.pop("weights", 0)
    checkpoints.save(tmp_path / "a", card(), weights())
    checkpoints.save(tmp_path / "b", card(**change), weights(seed))
    checkpoints.save(tmp_path / "c", card(name="renamed", training={"a": 1}), weights())
    a, b, c = (checkpoints.load(name, models=tmp_path).digest for name in "abc")
    assert a != b and a == c


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.kind)
@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm"])
@pytest.mark.parametrize("sigma", [0.02, 1.0, 70.0])
def test_denoiser_is_the_network_behind_its_edge(
    process, prediction: str, sigma: float, tmp_path: Path
) -> None:
    made = card(process=process, prediction=prediction, clip=False)
    checkpoints.save(tmp_path / "m", made, weights())
    model = checkpoints.load(tmp_path / "m")
    x = sigma * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    clock = model.process.timestep(torch.tensor(sigma, dtype=torch.float64)).float()
    scale = (1 + sigma**2) ** -0.5 if process.kind == "vp" else (sigma**2 + 0.25) ** -0.5
    with torch.no_grad():
        output = model.net(x * scale, clock.expand(3)).sample
    want = denoised(prediction, output, x, sigma, 0.5 if process.kind == "ve" else 1.0)
    found = model.denoiser()(x, sigma)
    assert found.dtype == torch.float32 and found.shape == x.shape
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    clipped = checkpoints.save(tmp_path / "c", made.model_copy(update={"clip": True}), weights())
    assert clipped.clip
    inside = checkpoints.load(tmp_path / "c").denoiser()(x, sigma)
    torch.testing.assert_close(inside, want.clamp(-1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_networks_keep_a_float32_state(dtype: str, models: Path) -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    want = checkpoints.load("tiny", models=models).denoiser()(x, 1.0)
    found = checkpoints.load("tiny", dtype=dtype, models=models).denoiser()(x, 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=0, atol=0.05)


def test_labels_are_refused(models: Path) -> None:
    with pytest.raises(ValueError, match="takes no labels"):
        checkpoints.load("tiny", models=models).denoiser(torch.zeros(1))


def test_all_grey_levels_survive_encode_and_decode(models: Path) -> None:
    model = checkpoints.load("tiny", models=models)
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    x = model.encode(images)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(model.decode(x), images)
    nearly = x + 0.49 / 127.5 * torch.where(images % 2 == 0, 1, -1)
    assert torch.equal(model.decode(nearly), images)
    assert model.decode(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_decode_names_the_model_that_made_nan(bad: float, models: Path) -> None:
    with pytest.raises(FloatingPointError, match="tiny"):
        checkpoints.load("tiny", models=models).decode(torch.tensor([0.0, bad]))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
)
def test_encode_refuses_other_images(images: Tensor, models: Path) -> None:
    with pytest.raises(ValueError, match="tiny takes uint8"):
        checkpoints.load("tiny", models=models).encode(images)


def test_wrong_digest(models: Path) -> None:
    path = models / "tiny" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        checkpoints.load("tiny", models=models)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("conv_in.bias"), "1 keys .* conv_in.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 keys .* extra"),
        (lambda w: w.update({"conv_in.bias": torch.zeros(3)}), "1 keys .* conv_in.bias"),
        (lambda w: w.clear(), "keys are missing, .*, \\.\\.\\."),
    ],
    ids=["missing", "extra", "shape", "none"],
)
def test_keys_are_strict(change, says: str, models: Path) -> None:
    replace_weights(models, change)
    with pytest.raises(ValueError, match=f"tiny: .*{says}"):
        checkpoints.load("tiny", models=models)


def test_missing_and_damaged_weights(models: Path) -> None:
    path = models / "tiny" / "model.safetensors"
    path.write_bytes(b"not safetensors at all")
    edit(models, lambda c: c.update(weights_sha256=store.file_digest(path)))
    with pytest.raises(ValueError, match="tiny: .*not a safetensors file"):
        checkpoints.load("tiny", models=models)
    path.unlink()
    with pytest.raises(ValueError, match="tiny: weights .* are missing"):
        checkpoints.load("tiny", models=models)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(prediction="score"), "prediction"),
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c.pop("data"), "data"),
        (lambda c: c["process"].update(kind="vq"), "process"),
        (lambda c: c["process"].update(timesteps=1), "timesteps"),
        (lambda c: c["process"].update(sigma_min=-1), "sigma_min"),
        (lambda c: c["process"].update(sigma_max=1e9), "leaves the trained range"),
        (lambda c: c["process"].update(sigma_min=90), "sigma_min"),
        (lambda c: c["process"].update(sigma_data=1), "sigma_data"),
        (lambda c: c.update(network={"bogus": 1}), "bogus"),
        (lambda c: c["network"].update(down_block_types=["Nothing"] * 2), "Nothing"),
        (lambda c: c["network"].pop("sample_size"), "sample_size"),
        (lambda c: c["network"].pop("in_channels"), "in_channels|keys"),
    ],
)
def test_bad_card_fields_are_named(change, says: str, models: Path) -> None:
    edit(models, change)
    with pytest.raises(ValueError, match=says):
        checkpoints.load("tiny", models=models)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_broken_card_is_named(text: str, models: Path) -> None:
    (models / "tiny" / "card.json").write_text(text)
    with pytest.raises(ValueError, match="card.json is not a valid card"):
        checkpoints.load("tiny", models=models)


def test_unknown_names_are_answered(models: Path) -> None:
    with pytest.raises(ValueError, match="did you mean tiny"):
        checkpoints.load("tinny", models=models)
    with pytest.raises(ValueError, match="no model 'tiny' in .*nowhere .*known: .*fmnist-pixel"):
        checkpoints.load("tiny", models=models / "nowhere")  # the shipped ones are still known
    with pytest.raises(ValueError, match="known: float32, float16, bfloat16"):
        checkpoints.load("tiny", dtype="float8", models=models)
    with pytest.raises(ValueError, match="no card.json"):
        checkpoints.read_card(models)


def test_loading_leaves_the_network_frozen(models: Path) -> None:
    net = checkpoints.load("tiny", models=models).net
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
