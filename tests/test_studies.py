"""A training study: a queue that can be killed, paired intervals, and a plan that stays."""

import json
import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from nursery import Nursery
from scipy import stats

from bench import checkpoints, measures, store, studies, training
from bench.data import Ready, open_images
from bench.report import report_study
from bench.report.intervals import holm
from bench.report.study import Difference
from bench.studies import queue
from bench.training import loop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files of 8 x 8 pixels: 40 training images, 16 test images."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for stem, n in (("train", 40), ("t10k", 16)):
        images = draw.integers(0, 256, (n, 8, 8), np.uint8)
        raw = struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(raw)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `tiny.study`, run at once."""
    folder = tmp_path_factory.mktemp("whole")
    assert studies.run(tiny.study(), data, folder / "state", folder) == []
    return folder / "tiny-study"


def content(folder: Path) -> dict[str, dict[str, Any]]:
    """The records, without what differs between two runs of one training."""
    return {key: {name: value for name, value in record.items() if name != "seconds"}
            for key, record in store.load_records(folder).items()}  # fmt: skip


def test_every_training_has_a_record(whole: Path) -> None:
    records = store.load_records(whole)
    assert set(records) == {f"{arm}-{seed}" for arm in ("cosine", "online", "back")
                            for seed in (0, 1)}  # fmt: skip
    one = records["back-1"]
    assert one["law"] == "ConstantRate(v_fid, xi=1, coordinate='alpha')"
    assert one["weighting_spec"]["fields"] == {"target": {"class": "Native", "fields": {}}}
    assert one["steps"] == 12 and one["sampled"] == {
        "first": 1_000_012,
        "images": 12,
        "dtype": "float32",
    }
    assert set(one["scores"]) == {"converged", "DDIM 2"}
    assert set(one["scores"]["converged"]) == {"tiny:Pooled", "flatten"}
    assert all(0 < loss < 10 for loss in one["v_loss"]) and len(one["v_loss"]) == 5
    assert one["density"] != records["cosine-1"]["density"]
    digest = measures.load_rate(whole / "measures" / "v_fid.json").spec()["fields"]["digest"]
    assert one["law_spec"]["fields"]["rate"]["fields"]["digest"] == digest
    assert one["protocol"]["flatten"]["fd"]["reference_n"] == 40
    assert len({record["weights_sha256"] for record in records.values()}) == 6
    homes = list((whole.parent / "state").glob("*/*/"))
    assert all((home / "model.safetensors").is_file() for home in homes) and len(homes) == 6
    assert not any((home / "state.pt").exists() for home in homes)


class Killed(Exception):
    """Stands for a kill."""


def _after(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, calls: int) -> None:
    """Be killed at a call of a function, before it does anything."""
    inner: Callable[..., Any] = getattr(where, name)
    left = [calls]

    def watched(*args: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return inner(*args, **named)

    monkeypatch.setattr(where, name, watched)


def test_a_study_that_is_killed_goes_on_to_the_same_records(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(where: Any, name: str, calls: int) -> None:
        with monkeypatch.context() as patch:
            _after(patch, where, name, calls)
            with pytest.raises(Killed):
                studies.run(tiny.study(), data, tmp_path / "state", tmp_path)

    save = loop._Run.save
    with monkeypatch.context() as patch:  # a state in the middle of a training
        patch.setattr(loop._Run, "advance", lambda run, *loss: (
            loop.Resumable.advance(run, *loss),
            run.step == 7 and save(run, next((tmp_path / "state").glob("*")) / "cosine-0/state.pt"),
        ))  # fmt: skip
        killed(loop._Run, "update", 9)
    assert not (tmp_path / "tiny-study" / "records").exists()
    killed(queue, "_scores", 0)  # after the first training
    killed(queue, "_scores", 1)  # between its evaluations
    killed(queue, "_record", 0)
    assert not (tmp_path / "tiny-study" / "records").exists()
    killed(queue, "_finish", 2)
    assert len(content(tmp_path / "tiny-study")) == 2
    assert studies.run(tiny.study(), data, tmp_path / "state", tmp_path) == []
    assert content(tmp_path / "tiny-study") == content(whole)
    tables = [report_study(folder)[1].read_bytes() for folder in (whole, tmp_path / "tiny-study")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_two_processes_take_different_trainings(
    nursery: Nursery, data: Path, whole: Path, tmp_path: Path
) -> None:
    """One of them is killed and started again."""
    command = ["study", "tiny:study", "--data", data, "--state", tmp_path / "state", "--results",
               tmp_path, "--device", "cpu"]  # fmt: skip
    one, two = nursery.start(*command), nursery.start(*command)
    records = tmp_path / "tiny-study" / "records"
    while nursery.running(one) and len(list(records.glob("*.json"))) < 2:
        time.sleep(0.05)
    os.kill(one, signal.SIGKILL)
    assert nursery.wait(one) in (0, -signal.SIGKILL)
    assert nursery.wait(two) == 0, (nursery.folder / f"{two}.log").read_text()
    nursery.run(*command)
    assert content(tmp_path / "tiny-study") == content(whole)
    said = (nursery.folder / f"{two}.log").read_text()
    assert said.count('"converged"') <= 5  # the other process did some


def test_names_choose_trainings(data: Path, whole: Path, tmp_path: Path) -> None:
    plan, state = tiny.study(), tmp_path / "state"
    left = studies.run(plan, data, state, tmp_path, only=["cosine"])
    assert left == ["online-0", "back-0", "online-1", "back-1"]
    left = studies.run(plan, data, state, tmp_path, only=["online,1"])
    assert left == ["online-0", "back-0", "back-1"]
    have = content(tmp_path / "tiny-study")
    assert have == {key: one for key, one in content(whole).items() if key in have}
    with pytest.raises(ValueError, match="its arms are cosine, online, back, its seeds 0 to 1"):
        studies.run(plan, data, state, tmp_path, only=["online,2"])
    for only in (["online,2"], ["online", "onlin"]):  # each must be one, before rates are measured
        with pytest.raises(ValueError, match=f"--only {only[-1]} names no training"):
            studies.run(plan, data, tmp_path / "other", tmp_path / "others", only=only)
    assert not (tmp_path / "other").exists() and not (tmp_path / "others").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 13}, "a study with other steps; give another --results"),
        ({"arms": (*tiny.study().arms, studies.Arm("late", "Karras"))}, "other arms"),
    ],
)
def test_another_plan_is_refused(change: dict, says: str, data: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match=says):
        studies.run(replace(tiny.study(), **change), data, whole.parent / "x", whole.parent)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        (studies.Arm("x", "Nativ"), "did you mean Native"),
        (studies.Arm("x", "ConstantRate(v_none)"), "unknown name 'v_none'"),
        (studies.Arm("x", "Native", "Importance(v_fid)"), "target must be a law"),
        (studies.Arm("x", "MinSNR"), "no 'MinSNR' in"),
    ],
)
def test_a_bad_law_is_refused_before_training(
    arm: studies.Arm, says: str, data: Path, tmp_path: Path
) -> None:
    plan = replace(tiny.study(), arms=(studies.Arm("cosine"), arm))
    with pytest.raises(ValueError, match=says):
        studies.run(plan, data, tmp_path / "state", tmp_path)
    assert not list((tmp_path / "state").glob("*/*/"))


def test_the_projects_studies_can_be_read(data: Path, tmp_path: Path) -> None:
    """Every law and weighting of the plans, on the rates that they name."""
    every = (studies.cifar10_training(), studies.fmnist_training(), studies.cifar10_long())
    for plan in every:
        rates = {"v_fid": measures.FeatureFrechet(tiny.Pooled()), "v_cos": plan.rates["v_cos"]}
        small = replace(plan, name="x", rates=rates, features=("flatten",), images=4, held_out=4,
                        rate_images=40, channels=(8, 8), layers=1)  # fmt: skip
        desk = queue.open_desk(
            small, data, tmp_path / plan.name, tmp_path / plan.name, "cpu", False
        )
        assert len(desk.jobs) == plan.seeds * len(plan.arms)
        assert json.loads(json.dumps(plan.content()))["features"] == [
            "effnet-lite0",
            "effnet-lite2",
        ]
        assert not plan.arms[0].primary and plan.baseline == "cosine"


def test_a_study_of_latents(data: Path, tmp_path: Path) -> None:
    """The rates are those of the latents, and the networks work on them."""
    images = Ready.of(open_images(data, "train"))
    codec = tmp_path / "codec"
    training.train_codec(training.CodecRecipe("codec", (8, 8), 2, steps=2, batch=8), images, codec)
    plan = replace(tiny.study(), latent=True, seeds=1, steps=2, arms=tiny.study().arms[::2])
    with pytest.raises(ValueError, match="trains on latents: give --codec"):
        studies.run(plan, data, tmp_path / "state", tmp_path)
    with pytest.raises(ValueError, match="trains on pixels: leave --codec out"):
        studies.run(tiny.study(), data, tmp_path / "state", tmp_path, codec=codec)
    wide = store.read_json(codec / "codec.json") | {"image": [1, 16, 16], "state": [2, 8, 8]}
    store.write_json(tmp_path / "wide" / "codec.json", wide)
    with pytest.raises(ValueError, match=r"images \[1, 16, 16\], and those of .*1, 8, 8\]"):
        studies.run(plan, data, tmp_path / "state", tmp_path, codec=tmp_path / "wide")
    assert studies.run(plan, data, tmp_path / "state", tmp_path, codec=codec) == []
    folder = tmp_path / "tiny-study"
    weights = checkpoints.read_codec(codec).weights_sha256
    assert store.read_json(folder / "study.json")["codec_sha256"] == weights
    (home,) = (tmp_path / "state").glob("*/back-0")
    card = checkpoints.read_card(home)
    assert card.codec and card.codec.weights_sha256 == weights
    assert card.codec.state == (2, 4, 4) and card.network["in_channels"] == 2
    loaded = checkpoints.load(home)
    assert loaded.encode(images.pixels[:2]).shape == (2, 2, 4, 4)


def test_a_study_needs_arms_with_names() -> None:
    with pytest.raises(ValueError, match="two arms or more with names of their own"):
        replace(tiny.study(), arms=(studies.Arm("a"), studies.Arm("a")))
    with pytest.raises(ValueError, match="no comma"):
        replace(tiny.study(), arms=(studies.Arm("a"), studies.Arm("b,1")))


# ---------------------------------------------------------------- the report


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    one, two = np.array([3.0, 4.5, 5.0]), np.array([4.0, 4.7, 6.5])
    want = stats.ttest_rel(one, two)
    found = Difference.of(list(one - two))
    ends = want.confidence_interval(0.95)
    np.testing.assert_allclose((found.p, found.low, found.high), (want.pvalue, ends.low, ends.high))
    assert np.isnan(Difference.of([1.0]).low) and Difference.of([1.0]).mean == 1
    assert np.isnan(Difference.of([]).mean)


def test_holm() -> None:
    found = holm([0.01, 0.04, 0.03, float("nan"), 0.005])
    np.testing.assert_allclose(found, [0.04, 0.09, 0.09, np.nan, 0.025])
    assert list(holm([0.6, 0.7])) == [1.0, 1.0]


def test_the_report_tells_primaries_from_other_arms(whole: Path) -> None:
    paths = report_study(whole)
    assert [path.name for path in paths] == ["table.md", "table.csv", "study.png", "study.pdf"]
    text = paths[0].read_text()
    assert "6 of 6 trainings, 12 steps of 8" in text and "Decided before the run" in text
    primary = text.split("|primary arm|")[1].split("\n\n")[0].splitlines()
    assert len(primary) == 3 and primary[2].startswith("|online|")
    records = store.load_records(whole)
    values = [records[f"online-{seed}"]["scores"]["converged"]["flatten"]["fd"]
              - records[f"cosine-{seed}"]["scores"]["converged"]["flatten"]["fd"]
              for seed in (0, 1)]  # fmt: skip
    found = Difference.of(values)
    assert f"{found.mean:#.4g}".rstrip(".") in primary[2]
    assert "|back|`ConstantRate(v_fid)`|`Importance(Native)`|" in text
    rows = paths[1].read_text().splitlines()
    assert len(rows) == 1 + 6 * 2 * 2 * 3
    assert [path.read_bytes() for path in report_study(whole)] == [p.read_bytes() for p in paths]
