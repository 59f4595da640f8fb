"""No silent wrong number from a file of weights: which were taken, and what is no weights."""

import errno
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from console import crs
from safetensors.torch import load_file, save_file
from torch import Tensor

import bench
from bench import checkpoints, store
from bench.checkpoints.files import read_json
from bench.zoo.add import add
from bench.zoo.adm import ADMNet, ADMPreset

FLAGS = {
    "image_size": 16, "num_channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1,
    "attention_resolutions": (8,), "num_head_channels": 16,
}  # fmt: skip
State = dict[str, Tensor]


def state(seed: int) -> State:
    torch.manual_seed(seed)
    return ADMNet(ADMPreset.model_validate({"flags": FLAGS}).flags).state_dict()


RAW, EMA, OTHER = state(0), state(1), state(2)


def under(prefix: str, given: State) -> State:
    return {prefix + key: value for key, value in given.items()}


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of that content and add it; the model folder."""
    preset = tmp_path / "tiny.json"
    preset.write_text(json.dumps({"flags": FLAGS, "data": "none"}))

    def made(content: object, key: str = "", name: str = "m", file: str = "a.pt") -> Path:
        path = tmp_path / file
        if content is not None:
            torch.save(content, path)
        return add(path, str(preset), name, tmp_path / "models", weights_key=key)

    return made


def holds(home: Path, want: State) -> bool:
    stored = load_file(home / "model.safetensors")
    return stored.keys() == want.keys() and all(torch.equal(stored[k], want[k]) for k in want)


N = torch.tensor(3)
AVERAGES = {
    **{key: ({"model": RAW, key: EMA}, key) for key in (
        "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "ema_params", "EMA",
        "model_ema_state_dict", "params_ema", "averaged_model", "swa_model", "modelEma", "netEMA",
    )},
    "counter": ({"model": RAW, "second": {"n_averaged": N, **under("module.", EMA)}},
                "second.module"),
    "nested": ({"state_dict": RAW, "ema": {"decay": 0.9, "shadow": EMA}}, "ema.shadow"),
    "backup": ({"model": RAW, "ema": {"shadow": EMA, "backup": OTHER}}, "ema.shadow"),
    "lucidrains": (
        {"model": under("model.", RAW), "step": 1, "ema": {
            "initted": N, "step": N, **under("ema_model.model.", EMA),
            **under("online_model.model.", RAW)}}, "ema.ema_model.model"),
    "lightning": ({"state_dict": under("model.", RAW) | under("model_ema.", EMA)},
                  "state_dict.model_ema"),
    "no dots": ({"state_dict": under("model.", RAW) | {
        "model_ema." + k.replace(".", ""): v for k, v in EMA.items()}}, "state_dict.model_ema"),
    "callback": ({"state_dict": under("net.", RAW), "callbacks": {"EMACallback": {"weights": EMA}}},
                 "callbacks.EMACallback.weights"),
    "mmgeneration": ({"state_dict": under("denoising.", RAW) | under("denoising_ema.", EMA)},
                     "state_dict.denoising_ema"),
    "suffix": ({"state_dict": RAW | {k + "_ema": v for k, v in EMA.items()}}, "state_dict.*_ema"),
    "root": ({**RAW, "ema": EMA}, "ema"),
    "counters": ({"model": RAW, "ema": EMA | {"decay": torch.tensor(0.9), "step": N}}, "ema"),
    "optimiser": ({"model": RAW, "model_ema": EMA, "optimizer": {"state": RAW}}, "model_ema"),
}  # fmt: skip


@pytest.mark.parametrize("kind", AVERAGES)
def test_the_moving_average_is_taken_and_said(kind: str, put, capsys) -> None:
    content, key = AVERAGES[kind]
    home = put(content)
    assert holds(home, EMA)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"those of {key}, a moving average; it also holds" in said
    assert checkpoints.read_card(home).training["weights_key"] == key


def test_it_is_taken_of_a_flat_safetensors_file_too(put, tmp_path: Path) -> None:
    save_file(under("model.", RAW) | under("model_ema.", EMA), tmp_path / "a.safetensors")
    assert holds(put(None, file="a.safetensors"), EMA)


def test_a_key_chooses(put, capsys) -> None:
    content = {"model": RAW, "ema": {"shadow": under("module.", EMA)}}
    assert holds(put(content, "model", "one"), RAW)
    assert "those of model" in capsys.readouterr().err
    assert holds(put(content, "ema.shadow", "two"), EMA)
    assert holds(put(content, "ema", "three"), EMA)
    with pytest.raises(ValueError, match="no --weights-key emma; it has model, ema"):
        put(content, "emma", "four")


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"first": RAW, "second": EMA}, "first, second"),
        ({"model": RAW, "ema_0.99": EMA, "ema_0.9999": OTHER}, "model, ema_0.99, ema_0.9999"),
        ([under("module.", RAW), {"state": {}}, 3, EMA], "0.module, 3"),
        ({"state_dict": EMA, "ema_state_dict": {"steps": N, **under("module.", RAW)}}, "mmengine"),
    ],
)
def test_a_doubt_is_refused_with_the_keys(content: object, keys: str, put) -> None:
    with pytest.raises(ValueError, match=f"{keys}.*--weights-key") as error:
        put(content)
    assert "\n" not in str(error.value)


def test_the_same_numbers_twice_are_no_doubt(put) -> None:
    assert holds(put({"model": RAW, "state_dict": {k: v.clone() for k, v in RAW.items()}}), RAW)


@pytest.mark.parametrize(
    ("average", "says"),
    [
        ({"shadow_params": list(EMA.values()), "decay": 0.9}, "shadow_params.*without names"),
        (list(EMA.values()), "ema.*without names"),
        ({"x" + key: value for key, value in EMA.items()}, "its names or shapes are not"),
    ],
)
def test_an_average_of_no_use_is_not_passed_over(average: object, says: str, put) -> None:
    with pytest.raises(ValueError, match=f"{says}.*--weights-key model$"):
        put({"model": RAW, "ema": average})
    assert holds(put({"model": RAW, "ema": average}, "model"), RAW)
    if isinstance(average, list):
        with pytest.raises(ValueError, match="without names"):
            put({"ema": {"shadow_params": average}}, name="n")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "ema_model.", "online_model.", "net.", "unet.",
     "module._orig_mod.", "model.module.net.", "_orig_mod.module.", "denoiser."],
)  # fmt: skip
def test_the_prefix_of_a_wrapper_is_removed_and_said(prefix: str, put, capsys) -> None:
    home = put(under(prefix, RAW))
    assert holds(home, RAW) and "was removed" in capsys.readouterr().err
    assert checkpoints.read_card(home).training["removed_prefix"]


def test_a_wrapper_within_the_names_is_removed(put) -> None:
    assert holds(put({k.replace("out.", "out._orig_mod."): v for k, v in RAW.items()}), RAW)


def test_keys_that_do_not_fit_have_a_hint(put) -> None:
    near = under("module.", RAW)
    near.pop("module.out.2.bias")
    with pytest.raises(ValueError, match="prefix module. .*; 1 missing: out.2.bias$"):
        put(near)
    with pytest.raises(ValueError, match="no key is one of the network's.*--family"):
        put({"other.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"1 mis-shaped: out.2.bias \[3\] for \[6\]"):
        put(RAW | {"out.2.bias": torch.zeros(3)})


def test_a_table_of_another_process_is_refused(put) -> None:
    alphas = torch.linspace(0.999, 0.01, 1000)
    with pytest.raises(ValueError, match="alphas_cumprod .*not the preset's process"):
        put(under("model.", RAW) | {"alphas_cumprod": alphas})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(bad: float, put, tmp_path: Path) -> None:
    wrong = RAW | {"out.2.bias": torch.full((6,), bad)}
    with pytest.raises(ValueError, match="out.2.bias holds (NaN|infinite)"):
        put(wrong)
    with pytest.raises(ValueError, match="out.2.bias holds infinite"):
        put(RAW | {"out.2.bias": torch.full((6,), 1e300, dtype=torch.float64)})
    path = put(RAW) / "model.safetensors"
    save_file(wrong, path)
    card = json.loads((path.parent / "card.json").read_text())
    card["weights_sha256"] = store.file_digest(path)
    (path.parent / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="m: .*out.2.bias holds"):
        bench.load(path.parent)


def test_integers_and_too_large_numbers_are_refused(put, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="integers .*quantised.*out.2.bias torch.int8"):
        put(RAW | {"out.2.bias": torch.zeros(6, dtype=torch.int8)})
    home = put(RAW | {"input_blocks.0.0.bias": torch.full((32,), 1e6)})
    assert bench.load(home).net
    with pytest.raises(ValueError, match="input_blocks.0.0.bias does not fit float16.*bfloat16"):
        bench.load(home, dtype="float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_advice_is_not_the_dtype_that_was_used(dtype: str, put) -> None:
    with pytest.raises(FloatingPointError) as error:
        bench.load(put(RAW), dtype=dtype).decode(torch.full((1, 3, 16, 16), torch.nan))
    assert ("try --dtype float32" in str(error.value)) == (dtype == "bfloat16")


def parts_of(folder: Path, given: State, stem: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    keys = sorted(given)
    place = {key: f"{stem}-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(place.values()):
        save_file({k: given[k].contiguous() for k in keys if place[k] == name}, folder / name)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}), encoding="utf-8-sig")
    return index


@pytest.mark.parametrize("of", ["folder", "index"])
def test_shards_are_joined(of: str, put, tmp_path: Path) -> None:
    index = parts_of(tmp_path / "sharded", RAW, "model")
    file = "sharded" if of == "folder" else f"sharded/{index.name}"
    assert holds(put(None, file=file), RAW)
    next(index.parent.glob("*-00002-*")).unlink()
    with pytest.raises(ValueError, match="1 shards are missing, such as model-00002"):
        put(None, file=file, name="n")


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "a.ckpt", "a.pt", "a.bin", "a", "a.pkl"])
def test_the_content_decides_not_the_suffix(name: str, put, tmp_path: Path) -> None:
    save_file(RAW, tmp_path / name)
    assert holds(put(None, file=name, name="one"), RAW)
    assert holds(put(RAW, file=f"{name}.safetensors", name="two"), RAW)
    assert holds(put(RAW, file=f"{name}.zip", name="three"), RAW)
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as archive:
        archive.write(tmp_path / "a.pt" if name == "a.pt" else tmp_path / name, "inner.PT")
    assert holds(put(None, file="b.ckpt", name="four"), RAW)


def tarred() -> bytes:
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pt"), io.BytesIO())
    return to.getvalue()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.zip"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; delete it"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML or XML page"),
        (b"\n <html>", "HTML or XML page"),
        (b"<?xml version='1.0'?><Error>", "HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (gzip.compress(b"x"), "gzip archive; unpack it"),
        (tarred(), "tar archive; unpack it"),
        (b"Entry not found", "it is text .'Entry not found'"),
        (b'{"error": "gated"}', "JSON text, not weights"),
        (b"GGUF1234", "GGUF"),
    ],
)
def test_what_is_no_weights_is_named(content: bytes, says: str, name: str, put, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        put(None, file=name)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)
    assert not (tmp_path / "models").exists()


def test_a_pointer_in_a_model_folder_is_named(put) -> None:
    home = put(RAW)
    (home / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        bench.load(home)


def test_folders_and_missing_paths_are_named(put, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder, not a file; it holds no weights"):
        put(None, file="folder")
    torch.save(RAW, tmp_path / "folder" / "in.pt")
    with pytest.raises(ValueError, match="give one of its files: in.pt"):
        put(None, file="folder")
    (tmp_path / "folder" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="--family diffusers"):
        put(None, file="folder")
    with pytest.raises(ValueError, match="no file .*gone.pt"):
        put(None, file="gone.pt")


def test_a_mark_at_the_start_of_json_is_read_over(put, tmp_path: Path) -> None:
    for path in (tmp_path / "tiny.json", put(RAW) / "card.json"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert holds(put(RAW, name="n"), RAW) and bench.load(tmp_path / "models" / "m").shape
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_a_full_disk_leaves_nothing(put, tmp_path: Path, monkeypatch) -> None:
    def full(_: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bench.zoo.add.save_file", full)
    with pytest.raises(ValueError, match="models/m cannot be written: no space is left"):
        put(RAW)
    assert not (tmp_path / "models").exists()
    monkeypatch.setattr("safetensors.torch.save_file", full)
    card = None
    with pytest.raises(ValueError, match="cannot be written: no space is left"):
        checkpoints.save(tmp_path / "out", card, RAW)
    assert not list((tmp_path / "out").iterdir())


def test_the_target_is_checked_before_the_file_is_read(put, tmp_path: Path, monkeypatch) -> None:
    read: list[object] = []
    for name in ("read_file", "published_digest"):
        monkeypatch.setattr(f"bench.zoo.add.{name}", lambda *given: read.append(given))
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ValueError, match="models/m cannot be written"):
        put(RAW)
    assert not read


def test_on_the_command_line(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps({"flags": FLAGS}))
    torch.save({"one": RAW, "two": EMA}, tmp_path / "a.pt")
    asked = ("add", tmp_path / "a.pt", "--preset", tmp_path / "tiny.json", "--models", tmp_path)
    assert crs(monkeypatch, *asked, "--name", "m") == 2
    assert "one, two; choose one with --weights-key KEY" in capsys.readouterr().err
    assert crs(monkeypatch, *asked, "--name", "m", "--weights-key", "two") == 0
    assert holds(tmp_path / "m", EMA)
    folder = ("add", tmp_path, "--family", "diffusers", "--name", "n", "--weights-key", "x")
    assert crs(monkeypatch, *folder) == 2
