"""Oracles: cards whose denoiser is the law's own, checked against densities and closed forms."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from console import crs
from scipy.fft import idctn
from scipy.stats import multivariate_normal
from torch import Tensor

import bench
from bench import checkpoints, generate, run, store
from bench.checkpoints import Card
from bench.checkpoints.card import Data, VECard, VPCard
from bench.generate import Guided
from bench.noise import normal
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import Karras, LogSNR
from bench.types import Block, Experiment, Scoring

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = {
    "vp": VPCard(kind="vp", betas="cosine", sigma_min=0.01, sigma_max=80),
    "ve": VECard(kind="ve", sigma_min=0.02, sigma_max=80),
}
SIGMAS = (0.02, 0.1, 0.7, 3.3, 80.0)
COLOURED = {
    "shape": [2, 3, 4],
    "components": [
        {"weight": 0.5, "mean": [[[0.2, -0.3], [0.1, 0.4]]], "std": 0.4, "exponent": 2.0},
        {"weight": 0.2, "mean": [[[-0.5]], [[0.3]]], "std": 0.6},
        {"weight": 0.3, "mean": [[[0.1, 0.2, 0.3, -0.2]]], "std": 0.3, "exponent": 1.0},
    ],
}
WHITE = {"shape": [1, 4, 4], "components": [{"std": 0.5}]}
CENTRES = {
    "shape": [1, 4, 4],
    "components": [
        {"weight": w, "mean": [[[m]]], "std": 0.5}
        for w, m in zip(oracles.Mixture.weights, oracles.Mixture.centres, strict=True)
    ],
}


def card(network: dict, process: str = "ve", **changes: object) -> Card:
    fields = {
        "name": "known", "family": "oracle", "network": network, "process": PROCESSES[process],
        "prediction": "x0", "clip": False, "data": Data(name="none", digest="", licence="none"),
        "training": {}, "weights_sha256": "",
    }  # fmt: skip
    return Card.model_validate(fields | changes)


def opened(folder: Path, network: dict, process: str = "ve", dtype: str = "float32", **changes):
    checkpoints.write_card(folder / "known", card(network, process, **changes))
    return checkpoints.load("known", dtype=dtype, models=folder)


def states(shape: tuple[int, ...], sigma: float, n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(2, n, *shape, generator=generator, dtype=torch.float64)
    return 0.6 * noise[0] + sigma * noise[1]


def dense(component: dict, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and covariance [d, d] of a component, pixel by pixel and mode by mode."""
    c, h, w = shape
    amplitudes = np.asarray(component.get("mean", [[[0.0]]]))
    mean = np.zeros(shape)
    for i, j in np.ndindex(amplitudes.shape[1:]):
        for y, x in np.ndindex(h, w):
            wave = math.cos(math.pi * i * (y + 0.5) / h) * math.cos(math.pi * j * (x + 0.5) / w)
            mean[:, y, x] += amplitudes[:, i, j] * wave
    modes = [(i, j) for i in range(h) for j in range(w)]
    falls = np.array([(1 + i * i + j * j) ** (-component.get("exponent", 0) / 2) for i, j in modes])
    images = idctn(np.eye(h * w).reshape(-1, h, w), axes=(1, 2), norm="ortho").reshape(h * w, -1)
    one = images.T @ np.diag(falls / falls.mean() * component["std"] ** 2) @ images
    return mean.ravel(), np.kron(np.eye(c), one)


def bayes(network: dict, x: Tensor, sigma: float, of: int | None = None) -> Tensor:
    """E[x0|x] by linear algebra on the densities of x; of: of that component alone."""
    flat, shape = x.flatten(1).numpy(), tuple(network["shape"])
    logs, means = [], []
    for k, component in enumerate(network["components"]):
        if of in (None, k):
            mean, cov = dense(component, shape)
            noisy = cov + sigma**2 * np.eye(len(mean))
            means.append(mean + (flat - mean) @ np.linalg.solve(noisy, cov))
            prior = math.log(component.get("weight", 1.0))
            logs.append(prior + multivariate_normal(mean, noisy).logpdf(flat))
    share = torch.from_numpy(np.stack(logs)).softmax(0).numpy()
    return torch.from_numpy((share[..., None] * np.stack(means)).sum(0)).view_as(x)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("network", "known"), [(WHITE, oracles.Gaussian()), (CENTRES, oracles.Mixture())]
)
def test_white_laws_have_their_closed_form(
    network: dict, known: oracles.Gaussian, process: str, tmp_path: Path
) -> None:
    denoise = opened(tmp_path, network, process).denoiser()
    for sigma in SIGMAS:
        x = states(known.shape, sigma)
        want = known.denoiser()(x, sigma)
        torch.testing.assert_close(denoise(x, sigma), want, rtol=1e-12, atol=1e-12)
        found = denoise(x.float(), sigma)
        assert found.dtype == torch.float32
        want = known.denoiser()(x.float().double(), sigma).float()
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("of", [None, 0, 1, 2])
def test_coloured_mixture_and_its_classes_are_bayes(
    of: int | None, sigma: float, tmp_path: Path
) -> None:
    model = opened(tmp_path, COLOURED, classes=3, null_class=True)
    x = states(model.shape, sigma)
    labels = None if of is None else torch.full((len(x),), of)
    want = bayes(COLOURED, x, sigma, of)
    torch.testing.assert_close(model.denoiser(labels)(x, sigma), want, rtol=1e-10, atol=1e-11)


def test_std_is_that_of_a_pixel_whatever_the_exponent(tmp_path: Path) -> None:
    spectra = opened(tmp_path, COLOURED).net.spectra
    stds = [component["std"] for component in COLOURED["components"]]
    assert spectra.mean((1, 2)).sqrt().tolist() == pytest.approx(stds, rel=1e-14)
    assert spectra[0].max() > 2 * spectra[0].min() and spectra[1].max() == spectra[1].min()


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_the_closed_form_of_the_two(scale: float, tmp_path: Path) -> None:
    model = opened(tmp_path, COLOURED, classes=3, null_class=True)
    x, labels = states(model.shape, 0.7), torch.tensor([0, 1, 2, 0, 1, 2])
    found = Guided(model.denoiser(labels), model.denoiser(), scale)(x, 0.7)
    none = bayes(COLOURED, x, 0.7)
    given = torch.stack([bayes(COLOURED, x, 0.7, k)[i] for i, k in enumerate(labels.tolist())])
    torch.testing.assert_close(found, none + scale * (given - none), rtol=1e-10, atol=1e-11)


def test_guided_images_are_those_of_the_closed_form(tmp_path: Path) -> None:
    model = opened(tmp_path, COLOURED, classes=3, null_class=True)
    grid, seeds, labels = Karras()(6, model.process), torch.arange(6), [0, 1, 2, 0, 1, 2]

    def closed(x: Tensor, sigma: float) -> Tensor:
        at = x.double()
        none = bayes(COLOURED, at, sigma)
        given = torch.stack([bayes(COLOURED, at, sigma, k)[i] for i, k in enumerate(labels)])
        return (none + 1.5 * (given - none)).float()

    start = float(grid[0]) * normal(seeds, 0, model.shape)
    want = model.decode(DDIM()(closed, start, grid, lambda: torch.empty(0)))
    found = bench.sample(model, DDIM(), Karras(), 6, range(6), batch=4, guidance=1.5)
    assert (found.int() - want.int()).abs().max() <= 1  # float32 states, rounded
    assert not torch.equal(found, bench.sample(model, DDIM(), Karras(), 6, range(6)))


def test_ddim_converges_to_the_exact_flow(tmp_path: Path) -> None:
    """First order: half the error for twice the steps."""
    component = COLOURED["components"][0] | {"weight": 1.0}
    network = COLOURED | {"components": [component]}
    model, (mean, cov) = opened(tmp_path, network), dense(component, (2, 3, 4))
    value, vector = np.linalg.eigh(cov)
    x = states(model.shape, 80.0)
    away = (x.flatten(1).numpy() - mean) @ vector
    exact = mean + away * np.sqrt(value / (value + 80.0**2)) @ vector.T
    errors = []
    for steps in (20, 40, 80, 160):
        grid = LogSNR()(steps, model.process)
        end = DDIM()(model.denoiser(), x, grid, lambda: torch.empty(0)).flatten(1).numpy()
        errors.append(float(np.sqrt(((end - exact) ** 2).mean())))
    assert errors[-1] < 0.02
    assert all(1.6 < a / b < 2.4 for a, b in zip(errors, errors[1:], strict=False)), errors


def test_ddim_converges_to_the_flow_of_a_mixture(tmp_path: Path) -> None:
    model, known = opened(tmp_path, CENTRES), oracles.Mixture()
    x = states(model.shape, 80.0, 16)
    exact = known.exact(x, 80.0, 0.02)
    errors = []
    for steps in (20, 40, 80, 160):
        grid = LogSNR()(steps, model.process)[:-1]
        grid[-1] = 0.02
        end = DDIM()(model.denoiser(), x, grid, lambda: torch.empty(0))
        errors.append(float((end - exact).square().mean().sqrt()))
    assert all(a > 1.5 * b for a, b in zip(errors, errors[1:], strict=False)), errors


def test_sampled_mean_and_covariance_are_the_laws(tmp_path: Path) -> None:
    """Of a mixture, within five standard errors of 20,000 states."""
    model, n = opened(tmp_path, COLOURED), 20_000
    grid = LogSNR()(60, model.process)
    x = float(grid[0]) * normal(torch.arange(n), 0, model.shape).double()
    found = DPMpp2M()(model.denoiser(), x, grid, lambda: torch.empty(0)).flatten(1).numpy()
    parts = [dense(one, (2, 3, 4)) for one in COLOURED["components"]]
    weights = [one["weight"] for one in COLOURED["components"]]
    mean = sum(w * m for w, (m, _) in zip(weights, parts, strict=True))
    cov = sum(w * (c + np.outer(m - mean, m - mean)) for w, (m, c) in zip(weights, parts, strict=1))
    spread = np.sqrt(np.diag(cov))
    assert (np.abs(found.mean(0) - mean) < 5 * spread / n**0.5).all()
    bound = 5 * (2 / n) ** 0.5 * np.outer(spread, spread)
    assert (np.abs(np.cov(found.T) - cov) < bound).all()


def test_states_do_not_depend_on_the_batch_nor_the_dtype_asked_for(tmp_path: Path) -> None:
    model = opened(tmp_path, COLOURED)
    x = states(model.shape, 0.7, 40).float()
    whole = model.denoiser()(x, 0.7)
    assert torch.equal(model.denoiser()(x[7:8], 0.7), whole[7:8])
    half = checkpoints.load("known", dtype="float16", models=tmp_path)
    assert torch.equal(half.denoiser()(x, 0.7), whole)


def test_parameters_are_part_of_the_digest(tmp_path: Path) -> None:
    one, same = (opened(tmp_path / name, WHITE) for name in "ab")
    other = opened(tmp_path / "c", WHITE | {"components": [{"std": 0.6}]})
    assert one.digest == same.digest != other.digest


def changed(**of_first: object) -> dict:
    first, *rest = COLOURED["components"]
    return COLOURED | {"components": [first | of_first, *rest]}


@pytest.mark.parametrize(
    ("network", "changes", "says"),
    [
        (changed(weight=0.6), {}, "weights of the components add up to 1.1, not to 1"),
        (changed(weight=-0.5), {}, "components.0.weight: .*greater than 0"),
        (changed(std=0.0), {}, "components.0.std: .*greater than 0"),
        (changed(std=math.inf), {}, "components.0.std: .*finite"),
        (changed(exponent=-1), {}, "components.0.exponent"),
        (changed(rho=7), {}, "components.0.rho"),
        (changed(mean=[[[0.0]]] * 3), {}, r"mean of component 0 is \[3, 1, 1\], .*\[2, 3, 4\]"),
        (changed(mean=[[[0.0]] * 4]), {}, r"mean of component 0 is \[1, 4, 1\]"),
        (changed(mean=[[[0.0], [0.0, 1.0]]]), {}, "mean of component 0 must be a table"),
        (changed(mean=[[]]), {}, "mean of component 0 must be a table"),
        (COLOURED | {"shape": [1, 0, 4]}, {}, r"shape \[1, 0, 4\] must be positive"),
        (COLOURED | {"shape": [3, 4]}, {}, "shape"),
        (COLOURED | {"components": []}, {}, "components"),
        ({"shape": [1, 4, 4]}, {}, "components: Field required"),
        (COLOURED, {"classes": 2}, "classes must be 0, or 3"),
        (COLOURED, {"prediction": "eps"}, "prediction must be x0"),
        (COLOURED, {"clip": True}, "clip must be false"),
        (COLOURED, {"learned_variance": True}, "learned_variance must be false"),
        (COLOURED, {"weights_sha256": "ab"}, "weights_sha256 must be empty"),
    ],
)
def test_bad_parameters_are_refused_on_one_line(
    network: dict, changes: dict, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "known" / "card.json"
    path.parent.mkdir()
    content = card(WHITE).model_dump() | {"network": network} | changes
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"known/card.json is not a valid card: .*{says}") as error:
        checkpoints.load("known", models=tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the two oracles that come with the bench."""
    folder = tmp_path_factory.mktemp("models")
    for home in sorted((ROOT / "models").glob("oracle-*")):
        shutil.copytree(home, folder / home.name)
    return folder


def test_shipped_oracles_are_small_and_open(shipped: Path) -> None:
    homes = sorted(shipped.iterdir())
    assert [home.name for home in homes] == ["oracle-gaussian", "oracle-mixture"]
    for home, classes in zip(homes, (0, 10), strict=True):
        model = checkpoints.load(home)
        assert (model.shape, model.classes) == ((1, 28, 28), classes)
        assert [path.name for path in home.iterdir()] == ["card.json"]
        assert (home / "card.json").stat().st_size < 20_000
        network = model.card.network
        x = states(model.shape, 1.3, 2)
        want = bayes(network, x, 1.3)
        torch.testing.assert_close(model.denoiser()(x, 1.3), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["oracle-gaussian", "oracle-mixture"])
def test_commands_work_with_oracles(
    name: str, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    where, out = ("--models", str(shipped)), tmp_path / "images.npz"
    assert crs(monkeypatch, "list", "models", *where) == 0
    assert name in capsys.readouterr().out
    cpu = ("--device", "cpu", *where)
    assert crs(monkeypatch, "sample", name, str(out), "--nfe", "5", "--seeds", "0-7", *cpu) == 0
    images = np.load(out)["arr_0"]
    assert images.shape[:3] == (8, 28, 28) and images.std() > 20
    line = ("measure", name, "--measure", "DataPrediction", "--levels", "12", "--images", "8")
    assert crs(monkeypatch, *line, "--data", str(out), *cpu) == 0
    rate = store.read_json(shipped / name / "measures" / "v_x.json")
    assert min(rate["v"]) > 0
    grid = ("sample", name, str(out), "--nfe", "5", "--seeds", "0-7", "--schedule")
    assert crs(monkeypatch, *grid, "ConstantRate(v_x, 0.5)", *cpu) == 0
    assert np.load(out)["arr_0"].shape == images.shape


def test_an_experiment_runs_on_an_oracle_with_guidance(shipped: Path, tmp_path: Path) -> None:
    experiment = Experiment(
        name="known", title="known", model="oracle-mixture", samplers=(DDIM(),),
        lines={"Karras": Karras()}, blocks=(Block("1", range(24), (2, 3)),),
        scoring=Scoring(bank=20, batch=8), guidance=1.5,
    )  # fmt: skip
    run.run(experiment, tmp_path, shipped, "cpu", lambda model: model)
    records = store.load_records(tmp_path / "known")
    assert sorted(record["nfe"] for record in records.values()) == [2, 3]
    found = [score for record in records.values() for score in record["scores"].values()]
    assert len(found) == 6 and all(score["value"] > 0 for score in found if score["name"] == "fd")


def test_guidance_of_an_unconditional_oracle_is_refused(shipped: Path) -> None:
    with pytest.raises(ValueError, match="oracle-gaussian is unconditional: it takes no guidance"):
        generate.check_fits(checkpoints.load(shipped / "oracle-gaussian"), DDIM(), 2.0)
