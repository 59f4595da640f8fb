"""Files are seen whole or not at all; keys are stable; errors name the file."""

import math
import os
from pathlib import Path

import pytest

from bench import store

CONTENT = {"b": [1, 2.5], "a": {"z": None, "y": "text"}}


def test_key_is_the_canonical_json() -> None:
    again = {"a": {"y": "text", "z": None}, "b": [1, 2.5]}
    assert store.digest(CONTENT) == store.digest(again)
    # a constant: keys of published records must not change between versions
    assert store.digest({"a": 1}) == "015abd7f5cc57a2dd94b"
    assert len(store.digest(CONTENT)) == 20


@pytest.mark.parametrize(
    "other",
    [
        {"b": [1, 2.5], "a": {"z": None, "y": "Text"}},
        {"b": [2.5, 1], "a": {"z": None, "y": "text"}},
        {"b": [1, 2.5000000000000004], "a": {"z": None, "y": "text"}},
        {"b": [1, 2.5], "a": {"z": None}},
    ],
)
def test_key_changes_with_the_content(other: dict) -> None:
    assert store.digest(other) != store.digest(CONTENT)


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    path = store.write_bytes(tmp_path / "x", b"abc")
    assert store.file_digest(path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.write_bytes(tmp_path / "record.json", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        store.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_whole_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.write_bytes(tmp_path / "x", b"old")
    replace, seen = os.replace, []

    def watched(source: str, goal: Path) -> None:
        seen.append((Path(goal).read_bytes(), Path(source).read_bytes(), Path(source).parent))
        replace(source, goal)

    monkeypatch.setattr(os, "replace", watched)
    store.write_bytes(path, b"new")
    assert seen == [(b"old", b"new", tmp_path)]
    assert path.read_bytes() == b"new"


def test_written_files_can_be_read_by_others(tmp_path: Path) -> None:
    path = store.write_text(tmp_path / "deep" / "er" / "x.txt", "sigma \u03c3")
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_text(encoding="utf-8") == "sigma \u03c3"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(bad: float, tmp_path: Path) -> None:
    path = store.write_json(tmp_path / "x.json", {"fd": 1.0})
    with pytest.raises(ValueError):
        store.write_json(path, {"fd": bad})
    with pytest.raises(ValueError):
        store.digest({"fd": bad})
    assert store.read_json(path) == {"fd": 1.0}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b'{"a": 1'])
def test_a_broken_json_file_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(data)
    with pytest.raises(ValueError, match="broken.json"):
        store.read_json(tmp_path / "broken.json")


def test_floats_survive_to_the_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 80.00000000000001, 2**60]
    path = store.write_json(tmp_path / "x.json", {"v": values})
    assert store.read_json(path)["v"] == values


def test_a_results_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ValueError, match="--results"):
            store.check_writable(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_results_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="--results"):
        store.check_writable(tmp_path)


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    store.check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_records_come_back_by_key(tmp_path: Path) -> None:
    assert store.load_records(tmp_path) == {}
    for key in ("k1", "k2"):
        assert not store.has_record(tmp_path, key)
        store.save_record(tmp_path, {"key": key, "scores": {"s": 1.5}}, b"png")
        assert store.has_record(tmp_path, key)
    found = store.load_records(tmp_path)
    assert list(found) == ["k1", "k2"] and found["k2"]["scores"] == {"s": 1.5}


def test_packed_records_are_read_like_single_ones(tmp_path: Path) -> None:
    for key in ("k2", "k1"):
        store.save_record(tmp_path, {"key": key, "scores": {"s": 0.1}}, b"png")
    before = store.load_records(tmp_path)
    store.save_plan(tmp_path, plan := {"rows": [{"key": "k1"}]})
    path = store.pack_records(tmp_path)
    assert sorted(one.name for one in path.parent.iterdir()) == ["k1.png", "k2.png", path.name]
    assert not (tmp_path / "plan.json").exists() and plan_of(tmp_path) == plan
    store.save_plan(tmp_path, other := {"rows": []})  # planned again, later
    assert plan_of(tmp_path) == other
    assert store.load_records(tmp_path) == before and store.has_record(tmp_path, "k2")
    assert not store.has_record(tmp_path, "k3")
    packed = path.read_bytes()
    assert store.pack_records(tmp_path).read_bytes() == packed  # again, the same bytes
    store.save_record(tmp_path, {"key": "k2", "scores": {"s": 0.2}}, None)  # run again, later
    store.save_record(tmp_path, {"key": "k3", "scores": {"s": 0.3}}, None)
    assert [r["scores"]["s"] for r in store.load_records(tmp_path).values()] == [0.1, 0.2, 0.3]
    store.pack_records(tmp_path)
    assert [r["scores"]["s"] for r in store.load_records(tmp_path).values()] == [0.1, 0.2, 0.3]
    path.write_bytes(packed[:-9])
    with pytest.raises(ValueError, match="records.jsonl.gz is damaged"):
        store.load_records(tmp_path)
    (tmp_path / "plan.json.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="plan.json.gz is damaged"):
        store.load_plan(tmp_path)


def test_the_record_marks_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        store.save_record(tmp_path, {"key": "k"}, b"png")
    assert (tmp_path / "records" / "k.png").read_bytes() == b"png"
    assert not store.has_record(tmp_path, "k")
    assert store.load_records(tmp_path) == {}


def test_a_record_of_another_cell_is_detected(tmp_path: Path) -> None:
    store.save_record(tmp_path, {"key": "k1"}, b"")
    (tmp_path / "records" / "k1.json").rename(tmp_path / "records" / "k2.json")
    with pytest.raises(ValueError, match="k2.json.*another cell"):
        store.load_records(tmp_path)


def plan_of(folder: Path) -> dict:
    """A plan without its version."""
    plan = store.load_plan(folder)
    assert plan.pop("version") == store.PLAN_VERSION == 2
    return plan


def test_plan_round_trip_and_absence(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    with pytest.raises(ValueError, match="crs-bench run EXPERIMENT"):
        store.load_plan(folder)
    store.save_plan(folder, CONTENT)
    assert plan_of(folder) == CONTENT


@pytest.mark.parametrize("old", [{"rows": []}, {"version": 1, "rows": []}, {"version": "2"}])
@pytest.mark.parametrize("packed", [False, True])
def test_a_plan_of_another_version_is_refused(old: dict, packed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    store.write_json(folder / "plan.json", old)
    if packed:
        store.pack_records(folder)
    with pytest.raises(ValueError, match="another version; the command that ran it"):
        store.load_plan(folder)


def test_a_score_has_a_key_of_its_images_and_its_metric() -> None:
    keys = {store.score_key(images, metric) for images in ("a", "b") for metric in ("c", "d")}
    assert len(keys) == 4 and all(len(key) == 20 for key in keys)
    # a constant: keys of published scores must not change between versions
    assert store.score_key("a", "b") == store.digest({"images": "a", "metric": "b"})
    assert store.score_key("a", "b") == "8f5ac4b77ce638b58b88"
