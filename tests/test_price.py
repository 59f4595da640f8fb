"""A part of an experiment, and what a run will take: before anything is sampled or downloaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from console import crs

from bench import checkpoints, experiments, plan, price, records, run, store
from bench.price import probe
from bench.price.probing import Probe
from bench.progress import Progress
from bench.report import figures
from bench.types import Experiment, Limit
from bench.zoo.adm import ADMFlags, ADMPreset

FLAGS = {
    "image_size": 16, "num_channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1,
    "attention_resolutions": (8,), "num_head_channels": 16,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No figures, a cache of its own, and metrics that are timed with few features."""
    monkeypatch.setattr(figures, "write", lambda *_: [])
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.price.probing._ROWS", 40)


# ---------------------------------------------------------------- a part of an experiment


@pytest.fixture(scope="module")
def fmnist() -> Experiment:
    return experiments.fmnist(checkpoints.Models())


def test_no_limit_changes_nothing(fmnist: Experiment) -> None:
    assert Limit().of(fmnist) is fmnist


def test_a_limit_keeps_the_first_images_and_the_nfes_of_each_block(fmnist: Experiment) -> None:
    found = Limit(256, (5, 10, 100, 7)).of(fmnist)
    assert found.name == "fmnist-part-256-5-10-100-7"
    for i, block in enumerate(found.blocks):
        kept = set(block.nfes) - ({7} if i == 0 else set())
        assert kept <= {5, 10, 100}
        assert any(
            block.seeds == one.seeds[:256] and block.lines == one.lines and kept <= set(one.nfes)
            for one in fmnist.blocks
        )
    assert {nfe for block in found.blocks for nfe in block.nfes} == {5, 7, 10, 100}
    assert found.tuning and found.tuning.nfes == (5, 10) and len(found.tuning.seeds) == 256
    assert found.scoring.converged and found.scoring.converged.images == 256
    assert found.lines == fmnist.lines


def test_a_limit_keeps_ranges_that_it_has_nfes_of(fmnist: Experiment) -> None:
    whole = replace(fmnist, ranges=((1, 8), (9, 1000)))
    found = Limit(nfes=(50,)).of(whole)
    assert found.ranges == ((9, 1000),) and found.tuning and fmnist.tuning
    assert found.tuning.nfes == tuple(nfe for nfe in fmnist.tuning.nfes if nfe > 8)


def test_a_limit_keeps_lines_whose_names_have_commas(fmnist: Experiment) -> None:
    found = Limit(lines=("native", "CRS(v_x, xi=1)")).of(fmnist)
    assert list(found.lines) == ["native", "CRS(v_x, xi=1)"]
    assert all(set(block.lines) <= set(found.lines) for block in found.blocks)
    quick = experiments.quick(checkpoints.Models())
    found = Limit(lines=("latent", "native", "native")).of(quick)
    assert list(found.lines) == ["latent, native", "native"]
    assert found.name == "quick-part-latent-native-native"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--images", 1), "--images must be at least 2"),
        (("--images", -3), "--images must be at least 2"),
        (("--nfe", "0"), "--nfe must be at least 1"),
        (("--nfe", "a"), "--nfe 'a': write whole numbers"),
        (("--lines", "nativ"), "quick has no line 'nativ' (known: native; log-SNR;"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(
    options: tuple[object, ...], says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert crs(monkeypatch, "run", "quick", *options) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_trial_has_a_folder_of_its_own(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(tiny.__file__).parent)
    how = ("--models", tiny_models, "--results", tmp_path, "--device", "cpu")
    trial = ("--images", 5, "--nfe", 2, "--lines", "Karras")
    assert crs(monkeypatch, "run", "tiny:pooled", *trial, *how) == 0
    folder = tmp_path / "tiny-part-5-2-Karras"
    rows = store.load_plan(folder)["rows"]
    assert {(row["line"], row["nfe"], row["n"]) for row in rows if row["role"] == "score"} == {
        ("Karras", 2, 5)
    }
    assert not (tmp_path / "tiny").exists()


# ---------------------------------------------------------------- what a run will take


def test_what_is_left_is_counted_as_the_run_makes_it(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = replace(tiny.pooled(tiny_models), tuning=None, lines={"Karras": tiny.Karras()})
    before = price.outlook(experiment, tmp_path, tiny_models)
    assert not (tmp_path / "tiny").exists(), "a look writes results"
    assert {role: (one.cells, one.recorded, one.missing) for role, one in before.work.items()} == {
        "tuning": (0, 0, 0), "converged": (2, 0, 6), "scored": (4, 0, 12),
    }  # fmt: skip
    assert before.work["scored"].evaluations == 2 * 12 * (2 + 3)
    assert before.work["converged"].images == 2 * 9
    monkeypatch.setattr("bench.price.probing._measured", lambda *_: pytest.fail("probed again"))
    run.run(experiment, tmp_path, tiny_models)
    key = next(row["key"] for row in store.load_plan(tmp_path / "tiny")["rows"]
               if row["role"] == "score")  # fmt: skip
    (tmp_path / "tiny" / "records" / f"{key}.json").unlink()
    bench = plan.open_bench(experiment, tmp_path / "tiny", tiny_models)
    one = next(bench.shelf.home(key).iterdir())
    one.unlink()
    after = price.outlook(experiment, tmp_path, tiny_models)
    assert after.work["scored"].recorded == 3 and after.work["scored"].missing == 1
    assert after.work["scored"].images == 4 and after.work["converged"].missing == 0
    assert "1 of them missing" in after.text and "estimate: " in after.text


def test_the_price_of_a_published_plan_needs_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    preset = ADMPreset(flags=ADMFlags.model_validate(FLAGS), address="https://example.org/a.pt")
    monkeypatch.setattr("bench.price.standin.find_preset", lambda name: ("adm", preset))
    asked = ("run", "lsun-horse-256", "--dry-run", "--models", tmp_path / "models")
    assert crs(monkeypatch, *asked, "--results", tmp_path / "results", "--device", "cpu") == 0
    said = capsys.readouterr().out
    lines, samplers, evaluations = 5, 4, sum(experiments.lsun_horse_256.nfes)
    assert f"{lines * samplers * 10} cells, 0 of them recorded" in said
    assert f"{lines * samplers * evaluations * 50_000:,} evaluations" in said
    assert "missing: no model lsun-horse: crs-bench fetch lsun-horse" in said
    assert "missing: no weights for inception-v3-compat" in said and "estimate: " in said
    assert not (tmp_path / "results").exists() and not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["lsun-horse", "edm-cifar10-uncond-vp", "lsun-churches",
                                  "dit-xl-2-256"])  # fmt: skip
def test_every_plan_has_an_architecture_without_a_file(name: str) -> None:
    from bench.checkpoints import find_family
    from bench.zoo.presets import find_preset

    family, chosen = find_preset(name)
    card = chosen.draft(name)
    assert find_family(card.family).network(card) and len(find_family(card.family).shape(card)) == 3


def test_scores_grow_with_the_pairs_of_images() -> None:
    found = Probe(1.0, 1.0, 2.0, 0.5, 0.25, 1, 4, "CPU")
    assert found.score(8, 100) == 2 + 0.5 * 8 + 0.25 * 8 * 100
    assert found.score(200, 100) == 2 + 0.5 * 200 + 0.25 * 100 * 100


def test_a_probe_is_kept_by_model_and_protocol(tiny_models: Path, tmp_path: Path) -> None:
    experiment = tiny.pooled(tiny_models)
    bench = plan.open_bench(experiment, tmp_path / "r", tiny_models)
    ask = (bench.judge, experiment.scoring, None, False, lambda model: model)
    first = probe(bench.models["small"], *ask)
    assert first.evaluation >= 0 and first.batch == experiment.scoring.batch
    assert probe(bench.models["small"], *ask) == first
    other = replace(experiment.scoring, batch=2)
    assert probe(bench.models["small"], bench.judge, other, *ask[2:]).where != first.where
    assert len(list((tmp_path / "cache" / "probes").iterdir())) == 2


# ---------------------------------------------------------------- the bar


def test_the_time_left_counts_all_cells_and_their_scoring() -> None:
    with Progress(disable=True) as bar:
        bar.n = 0
        bar.expect(100, 4)
        assert bar.left(10.0) is None
        bar.n = 50
        assert bar.left(10.0) == 10.0
        bar.scored(3.0)
        assert bar.left(10.0) == 10.0 + 3 * 3.0
        bar.expect(0, 3)
        assert bar.left(10.0) == 3 * 3.0


def test_the_bar_knows_all_phases_from_the_start(tiny_models: Path, tmp_path: Path) -> None:
    told = list[tuple[int, int]]()

    class Noted(Progress):
        def expect(self, evaluations: int, cells: int) -> None:
            told.append((evaluations, cells))
            super().expect(evaluations, cells)

    bench = plan.open_bench(tiny.pooled(tiny_models), tmp_path / "tiny", tiny_models)
    tuning, anchors = plan.tuning(bench), plan.converged(bench)
    scored = plan.scored(bench, plan.first_tries(bench), anchors)
    left = records.left(bench, [*tuning, *anchors.values(), *scored])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Progress", Noted)
        run.run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    assert told[0] == (left.evaluations, len(left.images))
    assert told[1][0] == told[0][0] - 2 * 12 * 3  # the tuning is done
