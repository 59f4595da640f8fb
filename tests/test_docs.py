"""What the README and the pages of the documentation show works as it stands there."""

import re
import shlex
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from console import crs

from bench import cli, experiments, features
from bench.cli.docs import pages, reference, summary
from bench.types import Block, Experiment

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README": ROOT / "README.md"} | {
    path.stem: path for path in sorted((ROOT / "bench" / "docs").glob("*.md"))
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

RUN = {"rank", "measure", "schedule", "train", "train-codec", "reconstruct", "sample", "run",
       "rescore", "score", "reference", "add"}  # fmt: skip
NEED_DATA = {"measure", "train", "train-codec", "reconstruct"}
NEED_CPU = RUN - {"schedule", "add"}
LESS = {"--images": "8", "--levels": "6", "--nfe": "3", "--batch": "4", "--seeds": "0-7",
        "--bank": "8", "--bootstrap": "2"}  # fmt: skip
SMALLER = {"range(200, 400)": "range(8, 16)", "range(200)": "range(8)", "range(64)": "range(4)",
           "(5, 10)": "(2,)", "nfe=200": "nfe=20", "subset_size=50": "subset_size=4"}  # fmt: skip
TABLES = {  # page -> what stands in the table that its experiment ends in
    "own-data": ("rank-mine/table.md", [
        rf"\| {re.escape(line)} +\| +\**[0-9.]+"
        for line in ("Native", "Karras(rho=7)", "ConstantRate(v_x, xi=0.5)")
    ]),
    "own-measure": ("compare/table.md", [
        rf"\| {re.escape(line)} +\| +\**[0-9.]+"
        for line in ("native", "CRS(v_edges, xi=0.5)", "trained under v_edges, native")
    ]),
    "own-metric": ("quick/table.md", ["## mean_shift", "## KID"]),
    "own-schedule": ("compare/table.md", [r"\| power tuned +\| +\**[0-9.]+"]),
}  # fmt: skip
ABSENT = {"lsun-horse", "lsun-horse-256", "church", "fmnist", "fmnist-pixel"}  # large, or not here


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of a page."""
    return FENCE.findall(PAGES[page].read_text())


def words_of(text: str) -> Iterator[list[str]]:
    """Words of each `crs-bench` line, without the command's own name."""
    for line in text.splitlines():
        if line.startswith("crs-bench "):
            yield shlex.split(line, comments=True)[1:]


def small_quick(models: object) -> Experiment:
    """`quick` with one line, 8 images and NFE 2."""
    whole = experiments.fashion_mnist.quick(models)
    lines = {"native": whole.lines["native"]}
    block = Block("1", range(8), (2,))
    return replace(whole, lines=lines, baselines=None, samplers=whole.samplers[:1], blocks=(block,))


@pytest.fixture
def bench_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader: one shipped model, 64 images, none of the modules yet."""
    name = "fmnist-pixel-small"
    shutil.copytree(ROOT / "models" / name, tmp_path / "models" / name)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)
    head = struct.pack(">IIII", 0x803, *pixels.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRS_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(experiments, "quick", small_quick)
    monkeypatch.setattr("bench.report.figures.write", lambda *_: [])  # other tests draw them
    load = features.load_reference
    monkeypatch.setattr(features, "load_reference", lambda name, extractor, keep, layers: load(
        name, extractor, min(keep, 64), layers
    ))  # fmt: skip
    for module in ("mylab", "mynet", "mymetric", "compare"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def is_run(words: list[str]) -> bool:
    """Whether a line needs nothing but what is in the folder."""
    asked = words[0] in RUN and not ABSENT & set(words)
    made = words[0] != "add" or Path(words[1]).is_file()
    return asked and made and (words[0] != "run" or words[1] == "quick" or ":" in words[1])


def less(words: list[str]) -> list[str]:
    """The same command with fewer images, levels and steps."""
    found = [
        LESS.get(words[i - 1], word) if i and word[0].isdigit() else word
        for i, word in enumerate(words)
    ]
    if "--minutes" in found:
        at = found.index("--minutes")
        found[at : at + 2] = ["--steps", "2"]
        found += [] if "--batch" in found else ["--batch", "4"]
    found += ["--data", "."] if words[0] in NEED_DATA and "--data" not in found else []
    found += ["--seeds", "0-7"] if words[0] == "sample" and "--seeds" not in found else []
    found += ["--device", "cpu"] if words[0] in NEED_CPU else []
    return found


def runnable(page: str) -> bool:
    """Whether a page has a Python block or a line that runs."""
    found = blocks(page)
    return any(kind == "python" or (kind == "bash" and any(map(is_run, words_of(text))))
               for kind, text in found)  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_snippets_run(page: str, bench_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are written, scripts and commands run, in the order of the page."""
    if any(words[0] == "reference" for _, text in blocks(page) for words in words_of(text)):
        monkeypatch.setenv("CRS_BENCH_CACHE", str(bench_folder / "cache"))
    for kind, text in blocks(page):
        for usual, small in SMALLER.items():
            text = text.replace(usual, small)
        if kind == "python":
            if head := re.match(r"# (\w+\.py)\n", text):
                (bench_folder / head[1]).write_text(text)
            else:
                exec(compile(text, page, "exec"), {})
        elif kind == "bash":
            for words in filter(is_run, words_of(text)):
                assert crs(monkeypatch, *less(words)) == 0, words
    if page in TABLES:
        file, wanted = TABLES[page]
        table = (bench_folder / "results" / file).read_text()
        for part in wanted:
            assert re.search(part, table), part


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_known(page: str) -> None:
    """Every `crs-bench` line has a verb and options that there are."""
    root = typer.main.get_command(cli.app)
    for _, text in blocks(page):
        for words in words_of(text):
            command, rest = root, words[: words.index(">")] if ">" in words else words
            while rest and hasattr(command, "commands"):
                assert rest[0] in command.commands, words
                command, rest = command.commands[rest[0]], rest[1:]
            command.make_context(words[0], list(rest))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text())
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", [*PAGES.values(), ROOT / "results" / "README.md"], ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{path.name}: {target}"


def test_readme_is_short() -> None:
    """At most 150 lines of 100 characters. Only tables are wider."""
    lines = PAGES["README"].read_text().splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 100 and not line.startswith("|")]


def test_docs_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert crs(monkeypatch, "docs") == 0
    listed = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in listed} == {*pages(), "reference"}
    assert pages().keys() == PAGES.keys() - {"README"} | {"tour"}  # a notebook
    assert crs(monkeypatch, "docs", "concepts") == 0
    assert capsys.readouterr().out == PAGES["concepts"].read_text()
    assert crs(monkeypatch, "docs", "concept") == 2
    assert "did you mean concepts" in capsys.readouterr().err


def test_pages_say_in_one_sentence_what_they_are() -> None:
    for name, text in pages().items():
        assert text.startswith("# ") and 20 < len(summary(text)) < 120, name


def test_reference_has_every_public_part() -> None:
    text = reference()
    for name in ("bench.Schedule", "ConstantRate", "DPMpp2M", "DataPrediction", "FrechetDistance"):
        assert f"### {name}\n" in text
    assert " at 0x" not in text
