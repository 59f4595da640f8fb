"""Published files to model folders: safely, strictly, and then sampled."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from console import crs
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import bench
from bench import checkpoints, store
from bench.samplers import DDPM
from bench.schedules import Karras
from bench.types import VarianceDenoiser
from bench.zoo.add import add
from bench.zoo.adm import PRESETS, ADMFlags, ADMNet, ADMPreset
from bench.zoo.presets import all_presets, preset_lines, preset_of
from bench.zoo.torch_files import read_file

FLAGS = {
    "image_size": 16, "num_channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1,
    "attention_resolutions": (8,), "num_head_channels": 16,
}  # fmt: skip


def weights(**flags: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return ADMNet(ADMPreset.model_validate({"flags": FLAGS | flags}).flags).state_dict()


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A preset of a network that a CPU runs, and next to it its `tiny.pt`."""
    torch.save(weights(), tmp_path / "tiny.pt")
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"flags": FLAGS, "data": "none"}))
    return str(path)


def test_from_a_file_to_images(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    models = tmp_path / "models"
    asked = ("add", tmp_path / "tiny.pt", "--family", "adm", "--preset", tiny)
    asked += ("--name", "my-tiny", "--models", models)
    assert crs(monkeypatch, *asked) == 0
    for sampler in ("DDPM(variance='learned')", "DPMpp2M"):
        out = tmp_path / f"{sampler[:4]}.npz"
        wanted = ("--sampler", sampler, "--nfe", 4, "--seeds", "0-2", "--models", models)
        assert crs(monkeypatch, "sample", "my-tiny", out, *wanted, "--device", "cpu") == 0
        assert out.is_file()
    capsys.readouterr()
    assert crs(monkeypatch, *asked) == 2
    said = capsys.readouterr().err
    assert "is there already" in said and said.count("\n") == 1
    assert not list(models.glob(".*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tensors_come_through_exactly(dtype: torch.dtype, tiny: str, tmp_path: Path) -> None:
    given = {key: value.to(dtype) for key, value in weights().items()}
    torch.save(given, tmp_path / "a.pt")
    torch.save(given, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(given, tmp_path / "a.safetensors")
    digests = set()
    for i, name in enumerate(("a.pt", "old.pt", "a.safetensors")):
        home = add(tmp_path / name, tiny, f"m{i}", tmp_path / "models")
        stored = load_file(home / "model.safetensors")
        assert stored.keys() == given.keys()
        assert all(torch.equal(stored[k], v) and stored[k].dtype == dtype for k, v in given.items())
        card = checkpoints.read_card(home)
        assert card.weights_sha256 == store.file_digest(home / "model.safetensors")
        assert card.training["file_sha256"] == store.file_digest(tmp_path / name)
        assert card.family == "adm" and card.learned_variance and card.prediction == "eps"
        model = checkpoints.load(home)
        loaded = model.net.state_dict()
        assert all(torch.equal(loaded[key], value.float()) for key, value in given.items())
        assert not model.net.training and not any(p.requires_grad for p in model.net.parameters())
        digests.add(model.digest)
    assert len(digests) == 1


def test_the_denoiser_is_the_network_behind_its_edge(tiny: str, tmp_path: Path) -> None:
    given = {k: v + 0.02 * torch.randn(v.shape) for k, v in weights().items()}
    torch.save(given, tmp_path / "a.pt")
    model = checkpoints.load(add(tmp_path / "a.pt", tiny, "m", tmp_path / "models"))
    assert model.shape == (3, 16, 16)
    sigma = float(model.process.sigma(torch.tensor(500.0)))
    x = sigma * torch.randn(2, 3, 16, 16)
    net = ADMNet(model.card.arguments(ADMFlags))
    net.load_state_dict(given)
    with torch.no_grad():
        raw = net(x / (1 + sigma**2) ** 0.5, torch.full((2,), 500.0)).sample
    denoise = model.denoiser()
    assert isinstance(denoise, VarianceDenoiser)
    x0, v = denoise.with_variance(x, sigma)
    torch.testing.assert_close(x0, (x - sigma * raw[:, :3]).clamp(-1, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(v, (raw[:, 3:] + 1) / 2, rtol=1e-4, atol=1e-4)
    half = checkpoints.load(tmp_path / "models" / "m", dtype="bfloat16").denoiser()(x, sigma)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, x0, rtol=0, atol=0.1 * sigma)
    made = bench.sample(model, DDPM("learned"), Karras(), 3, range(3), batch=2)
    assert torch.equal(made, bench.sample(model, DDPM("learned"), Karras(), 3, range(3), batch=3))


def test_images_are_cut_off_as_the_authors_do(tiny: str, tmp_path: Path) -> None:
    """guided-diffusion's own script truncates: half a grey level darker than rounding."""
    torch.save(weights(), tmp_path / "a.pt")
    home = add(tmp_path / "a.pt", tiny, "m", tmp_path / "models")
    model = checkpoints.load(home)
    x = torch.linspace(-1.1, 1.1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    want = ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    assert (model.decode(x).int() - want.int()).abs().max() == 0
    card = json.loads((home / "card.json").read_text())
    assert card["quantiser"] == model.quantiser == "floor"
    (home / "card.json").write_text(json.dumps(card | {"quantiser": "round"}))
    other = checkpoints.load(home)
    assert other.digest != model.digest
    assert 0.4 < (other.decode(x).float() - want.float()).mean() < 0.6


@pytest.mark.parametrize("key", ["ema", "state_dict", "model"])
def test_weights_within_a_trainers_state_are_found(key: str, tiny: str, tmp_path: Path) -> None:
    torch.save({key: weights(), "opt": {"state": {}}, "step": 3}, tmp_path / "a.pt")
    home = add(tmp_path / "a.pt", tiny, "m", tmp_path / "models")
    assert checkpoints.load(home).shape == (3, 16, 16)


def test_tied_tensors_are_saved_and_sparse_ones_refused(tiny: str, tmp_path: Path) -> None:
    given = weights()
    one, *_, other = [k for k, v in given.items() if v.shape == given["out.0.weight"].shape]
    torch.save(given | {other: given[one]}, tmp_path / "tied.pt")
    add(tmp_path / "tied.pt", tiny, "m", tmp_path / "models")
    torch.save(given | {one: given[one].to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(ValueError, match="sparse or meta"):
        add(tmp_path / "sparse.pt", tiny, "n", tmp_path / "models")


def test_a_broken_card_hides_no_other_model(tiny: str, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pt")
    for name in ("good", "bad"):
        add(tmp_path / "a.pt", tiny, name, tmp_path / "models")
    path = tmp_path / "models" / "bad" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction": "foo"}))
    lines = preset_lines(checkpoints.models_of(tmp_path / "models"))
    assert lines[0].startswith("model bad cannot be used: ") and "prediction: " in lines[0]
    assert all("\n" not in line for line in lines) and len(lines) > 5


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple:
        return (open, (str(self.at), "w"))


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(form: str, tiny: str, tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "evil.pt"
    content = weights() | {"evil": Evil(ran)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(ran)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        ValueError, match="refused: reading it would run its code.*safetensors"
    ) as error:
        add(path, tiny, "m", tmp_path / "models")
    assert "\n" not in str(error.value)
    assert not ran.exists() and not (tmp_path / "models").exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert ran.exists()  # it would have


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("out.2.bias"), "; 1 missing: out.2.bias$"),
        (lambda w: w.update(other=torch.zeros(1)), "; 1 extra: other$"),
        (
            lambda w: w.update({"out.2.bias": torch.zeros(3)}),
            r"; 1 mis-shaped: out.2.bias \[3\] for \[6\]$",
        ),
        (lambda w: w.update({"out.2.bias": torch.zeros(6).int()}), "1 mis-shaped: out.2.bias"),
        (lambda w: w.clear(), r"missing: .*, \.\.\.$"),
        (lambda w: w.update(x=torch.zeros(1), **{"out.0.bias": torch.zeros(1)}), "extra: x; 1 mis"),
        (lambda w: w.update(step=3), "no plain state dict"),
    ],
)
def test_other_keys_and_shapes_are_listed(change, says: str, tiny: str, tmp_path: Path) -> None:
    given = weights()
    change(given)
    torch.save(given, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=says):
        add(tmp_path / "a.pt", tiny, "m", tmp_path / "models")
    assert not (tmp_path / "models").exists()


@given(legacy=st.booleans(), place=st.floats(0, 0.999), cut=st.booleans(), flip=st.integers(1, 255))
def test_any_damage_of_a_torch_file_is_an_error_of_ours(
    legacy: bool, place: float, cut: bool, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "x.pt"
    torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=not legacy)
    raw = bytearray(file.read_bytes())
    at = int(place * len(raw))
    file.write_bytes(raw[:at] if cut else bytes([*raw[:at], raw[at] ^ flip, *raw[at + 1 :]]))
    try:
        found = read_file(file).readable().tensors
    except ValueError as error:
        assert str(file) in str(error)
    else:  # it was no byte that counts, or one of the numbers
        assert all(isinstance(value, Tensor) for value in found.values())


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short"])
def test_damaged_files_are_one_line(name: str, content: bytes, tiny: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        add(tmp_path / name, tiny, "m", tmp_path / "models")
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "of", "name", "says"),
    [
        ("tiny.pt", "lsun-257", "m", "did you mean lsun-256"),
        ("tiny.pt", "gone.json", "m", "gone.json is not a valid preset"),
        (
            "gone.pt",
            "lsun-horse",
            "m",
            "no file .*fetch lsun-horse --only-file --to . .from https://openaipublic.*/lsun_horse.pt",
        ),
        ("tiny.pt", "imagenet-256-uncond", "m", "not the published file"),
        ("tiny.pt", "lsun-256", "m", "not of this preset's network"),
        ("tiny.pt", "lsun-256", "../m", "plain folder name"),
        ("tiny.pt", "lsun-256", "", "plain folder name"),
    ],
)
def test_what_cannot_be_added_is_said(
    file: str, of: str, name: str, says: str, tiny: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        add(tmp_path / file, of, name, tmp_path / "models")


def test_classes_want_labels(tiny: str, tmp_path: Path, monkeypatch, capsys) -> None:
    given = {k: v + 0.05 * torch.randn(v.shape) for k, v in weights(num_classes=4).items()}
    torch.save(given, tmp_path / "c.pt")
    Path(tiny).write_text(json.dumps({"flags": FLAGS | {"num_classes": 4}}))
    home = add(tmp_path / "c.pt", tiny, "classes", tmp_path / "models")
    model, x = checkpoints.load(home), torch.randn(3, 3, 16, 16)
    labels = torch.tensor([0, 3, 1])
    found = model.denoiser(labels)(x, 1.0)
    alone = torch.cat([model.denoiser(labels[i : i + 1])(x[i : i + 1], 1.0) for i in range(3)])
    torch.testing.assert_close(found, alone)
    assert not torch.allclose(found, model.denoiser(labels.flip(0))(x, 1.0))
    with pytest.raises(
        ValueError, match=r"without a class.*--rates.*denoiser\(labels\), each 0\.\.3"
    ):
        model.denoiser()
    with pytest.raises(ValueError, match="a label lies outside"):
        model.denoiser(torch.tensor([0, 4, 1]))
    with pytest.raises(ValueError, match="takes integer labels"):
        model.denoiser(torch.tensor([0.0]))
    with pytest.raises(ValueError, match="3 labels for 2 images"):
        model.denoiser(labels)(x[:2], 1.0)
    out = tmp_path / "out"
    asked = ("sample", home, out, "--device", "cpu", "--seeds", "0-4", "--nfe", "2")
    assert crs(monkeypatch, *asked) == 0 and len(list(out.glob("*.png"))) == 5
    assert crs(monkeypatch, *asked, "--guidance", "1.5") == 2
    assert "no unconditional prediction" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["network"].update(num_heads=2), "one of the two"),
        (lambda c: c["network"].update(layers=2), "layers"),
        (lambda c: c.update(learned_variance=False), "learn_sigma"),
        (lambda c: c.update(family="unknown"), "family"),
    ],
)
def test_bad_cards_are_named(change, says: str, tiny: str, tmp_path: Path) -> None:
    home = add(tmp_path / "tiny.pt", tiny, "m", tmp_path / "models")
    card = json.loads((home / "card.json").read_text())
    change(card)
    (home / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=f"(?s)card.json is not a valid card.*{says}"):
        checkpoints.load(home)


def test_presets_make_cards_and_are_listed(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, (family, chosen) in all_presets().items():
        assert preset_of(name, family) == chosen
        assert type(chosen).model_validate_json(chosen.model_dump_json()) == chosen
    for name, chosen in PRESETS.items():
        card = chosen.converted(name, {}).card
        assert card.arguments(ADMFlags) == chosen.flags
        assert card.classes == chosen.flags.num_classes
        assert card.process.betas == ("cosine" if name == "imagenet-64" else "linear")
    models = tmp_path / "models"
    home = add(tmp_path / "tiny.pt", tiny, "my-horse", models)
    card = checkpoints.read_card(home)
    made = card.model_copy(update={"training": card.training | {"file": "lsun_horse.pt"}})
    checkpoints.write_card(home, made)
    assert crs(monkeypatch, "list", "models", "--models", models) == 0
    said = capsys.readouterr().out
    assert "  my-horse\n" in said.partition("\npreset")[0]
    assert "preset lsun-horse: present as my-horse\n" in said
    assert "preset lsun-cat: absent; crs-bench fetch lsun-cat, from https://" in said
    assert "lsun_cat.pt; or with lsun_cat.pt on disk: crs-bench add lsun_cat.pt" in said
    assert said.count(" absent;") == sum(bool(one.file) for _, one in all_presets().values()) - 1
