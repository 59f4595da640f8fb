"""The built wheel: what it carries, and that its verbs work where there is no checkout."""

import json
import os
import runpy
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.checkpoints import Models
from bench.report import published

ROOT = Path(__file__).resolve().parents[1]
SMALL = "fmnist-pixel-small"

# The verbs run in one process, because that imports torch once.
DRIVER = """
import contextlib, io, json, sys
from importlib.metadata import entry_points

(script,) = entry_points(group="console_scripts", name="crs-bench")
main, said = script.load(), []
for arguments in json.loads(sys.argv[1]):
    sys.argv, out, err, status = ["crs-bench", *arguments], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
    said.append([status, out.getvalue(), err.getvalue()])
json.dump(said, sys.stdout)
"""


@dataclass(frozen=True)
class Site:
    """A folder that the wheel is installed in, and an empty folder to work in."""

    site: Path
    here: Path
    data: Path

    def python(self, *arguments: str) -> str:
        """What Python prints; its search path begins with the installed wheel."""
        env = os.environ | {"PYTHONPATH": str(self.site), "CRS_BENCH_DATA": str(self.data)}
        env |= {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, *arguments], cwd=self.here, env=env,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def crs(self, *verbs: tuple[object, ...]) -> list[tuple[str, str]]:
        """What each verb says on stdout and on stderr. Each must succeed."""
        written = json.dumps([[str(part) for part in verb] for verb in verbs])
        said = json.loads(self.python("-c", DRIVER, written))
        for verb, (status, _, err) in zip(verbs, said, strict=True):
            assert status == 0, f"{verb}: {err}"
        return [(out, err) for _, out, err in said]

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every installed file, without those that Python itself writes."""
        return {
            path.relative_to(self.site).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.site.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }


def build(target: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist without network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def site(wheel: Path, tmp_path: Path) -> Site:
    """To unpack a wheel of Python files alone is to install it."""
    made = Site(*(tmp_path / name for name in ("site", "here", "data")))
    made.here.mkdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(made.site)
    return made


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def stated() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_carries_models_references_and_published_numbers(wheel: Path) -> None:
    held = contents(wheel)
    for path in sorted((ROOT / "models").rglob("*")):
        if path.suffix in (".json", ".safetensors") and not path.name.startswith("."):
            name = f"bench/shipped/{path.relative_to(ROOT).as_posix()}"
            assert held.get(name) == path.read_bytes(), name
    for path in (ROOT / "bench" / "references").glob("*.npz"):
        assert held[f"bench/references/{path.name}"] == path.read_bytes()
    assert held["bench/shipped/published.csv"] == (ROOT / "results/published.csv").read_bytes()
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bench").rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == source


def test_the_metadata_lead_to_paper_and_citation(wheel: Path) -> None:
    held = contents(wheel)
    info = f"crs_bench-{stated()['version']}.dist-info"
    text = held[f"{info}/METADATA"].decode()
    for line in ("Project-URL: Paper, https://arxiv.org/abs/2411.12188",
                 "Author: The crs-bench authors", "## Licence and citation"):  # fmt: skip
        assert line in text.splitlines(), line
    assert text.count("\nClassifier: ") == 10
    licences = held[f"{info}/licenses/bench/page/assets/vendor/LICENSES.txt"].decode()
    for name in ("d3 7", "Observable Plot", "Tabulator", "isoformat", "interval-tree-1d"):
        assert name in licences
    cited = held["bench/docs/CITATION.cff"]
    assert cited == (ROOT / "CITATION.cff").read_bytes()
    page = held["bench/docs/citation.md"].decode()
    version = f"version: {stated()['version']}"
    assert version in cited.decode().splitlines()
    assert f"version = {{{stated()['version']}}}" in page and "eprint        = {2411.12188}" in page


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    held = contents(wheel)
    info = f"crs_bench-{stated()['version']}.dist-info"
    assert {name.split("/")[0] for name in held} == {"bench", info}
    kinds = {Path(name).suffix for name in held if name.startswith("bench/")}
    page = {".html", ".css", ".js", ".txt", ".ipynb"}
    assert kinds == {".py", ".npz", ".json", ".safetensors", ".csv", ".md", ".cff", *page}
    assert not [name for name in held if "/." in name or "__pycache__" in name]


def test_the_sdist_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as file:
        file.extractall(tmp_path, filter="data")
    source = tmp_path / f"crs_bench-{stated()['version']}"
    assert contents(build("wheel", source, tmp_path / "again")) == contents(wheel)


def test_the_version_is_said_once(site: Site) -> None:
    asked = "import bench, sys; print(bench.__file__, bench.__version__, 'torch' in sys.modules)"
    where = site.site / "bench" / "__init__.py"
    assert site.python("-c", asked).split() == [str(where), stated()["version"], "False"]
    assert site.python("-m", "bench", "--version").strip() == stated()["version"]


def test_an_installed_wheel_works_and_writes_nothing_beside_itself(site: Site) -> None:
    before = site.files()
    grid = ("schedule", SMALL, "--schedule", "ConstantRate(v_x)", "--nfe", 4, "--json")
    rate = ("measure", SMALL, "--device", "cpu", "--measure")
    pictures = ("--data", "images.npz", "--images", 4, "--levels", 24)
    sample = ("--seeds", "0-3", "--nfe", 2, "--device", "cpu")
    said = site.crs(
        ("list", "models"),
        grid,
        ("sample", SMALL, "images", *sample),
        ("score", "images", "fashion-mnist", "--metrics", "fd", "--json", "--device", "cpu"),
        (*rate, "OfSchedule(Cosine())"),
        ("schedule", SMALL, "--schedule", "ConstantRate(v_cosine)"),
        ("sample", SMALL, "images.npz", *sample),
        (*rate, "DataPrediction", *pictures),
        grid,
        ("sample", "cifar-latent-crs", "latent", *sample),
    )
    assert {line.strip() for line in said[0][0].splitlines()} >= {
        path.parent.name for path in ROOT.glob("models/*/card.json")
    }
    scores = json.loads(said[3][0])
    assert scores["n"] == 4 and scores["fd"] > 0
    home = site.data / "models" / SMALL
    cosine, v_x = (home / "measures" / f"{name}.json" for name in ("v_cosine", "v_x"))
    assert said[4][0].strip() == str(cosine) and said[7][0].strip() == str(v_x)
    old = site.site / "bench" / "shipped" / "models" / SMALL / "measures" / "v_x.json"
    assert f"v_x of {SMALL} is this file from now on, not {old}" in said[7][1]
    sigmas = [json.loads(said[at][0])["sigma"] for at in (1, 8)]
    assert sigmas[0] != sigmas[1]  # the new measurement is the one that is used
    assert sorted(path.name for path in home.rglob("*") if path.is_file()) == [
        "v_cosine.json", "v_x.json"
    ]  # fmt: skip
    assert len(list((site.here / "latent").glob("*.png"))) == 4
    assert site.files() == before
    assert sorted(path.name for path in site.here.iterdir()) == ["images", "images.npz", "latent"]


def test_an_installed_wheel_has_the_published_numbers(site: Site) -> None:
    found = runpy.run_path(str(site.site / "bench" / "report" / "published.py"))
    assert found["shipped"]() == site.site / "bench" / "shipped" / "published.csv"
    rows = found["read"](site.here / "results" / "x", "LSUN Horse 256")
    assert rows and rows == published.read(ROOT / "results" / "x", "LSUN Horse 256")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quick", "quick-colour"])
def test_an_installed_wheel_runs_the_quick_experiments(name: str, site: Site) -> None:
    before = site.files()
    site.crs(("run", name, "--device", "cpu"))
    assert (site.here / "results" / name / "table.md").is_file()
    assert site.files() == before


def test_a_published_file_beside_the_experiments_goes_before_the_shipped_one(
    tmp_path: Path,
) -> None:
    assert published.read(tmp_path / "x", "LSUN Horse 256")
    head = (ROOT / "results" / "published.csv").read_text().splitlines()[0]
    (tmp_path / "published.csv").write_text(head + "\n")
    assert published.read(tmp_path / "x", "LSUN Horse 256") == []


def test_models_of_the_working_folder_go_before_those_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRS_BENCH_DATA", str(tmp_path))
    monkeypatch.chdir(ROOT)  # ./models is the folder of the shipped models too
    assert Models().places == [Path("models"), tmp_path / "models"]
    monkeypatch.chdir(tmp_path.parent)
    given = tmp_path / "given"
    assert Models(given).places == [
        given, Path("models"), tmp_path / "models", ROOT / "models"
    ]  # fmt: skip
