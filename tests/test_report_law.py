"""The history of a law as a figure; rates whose quantiles are known by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.report import draw_law
from bench.report.law import History, _spaced, read_history

EDGES = np.geomspace(0.01, 80, 65)
ANGLE = np.degrees(np.arctan(EDGES))


def per_angle(weight: np.ndarray) -> np.ndarray:
    """Mean rate per unit sigma of each bin, where the rate per degree is `weight` there."""
    return weight * np.diff(ANGLE) / np.diff(EDGES)


def history(updates: int = 5, **changes: Any) -> dict[str, Any]:
    """A law.json: rates that tilt from update to update."""
    middle = (ANGLE[1:] + ANGLE[:-1]) / 2
    rates = [per_angle(1 + k * middle / 90).tolist() for k in range(updates)]
    steps = [1000 + 250 * k for k in range(updates)]
    return {"law": "Online()", "sigma": EDGES.tolist(), "steps": steps, "v": rates} | changes


def save(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "law.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("updates", [1, 2, 30])
def test_png_and_pdf_are_written_the_same_to_the_byte(tmp_path: Path, updates: int) -> None:
    folder = save(tmp_path / "m", history(updates))
    paths = draw_law(folder)
    assert paths == [folder / "law.png", folder / "law.pdf"]
    with Image.open(paths[0]) as picture:
        assert picture.format == "PNG" and picture.size == (6.9 * 60, 2.7 * 60)
    assert paths[1].read_bytes().startswith(b"%PDF")
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw_law(folder)] == first


def test_a_bin_without_any_rate_is_drawn(tmp_path: Path) -> None:
    content = history()
    content["v"][0][3] = 0.0
    assert len(draw_law(save(tmp_path, content))) == 2


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="law.json is missing"):
        draw_law(tmp_path)


def test_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "law.json").write_text('{"law": ')
    with pytest.raises(ValueError, match="law.json is not valid JSON"):
        draw_law(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"law": "Online()"},
        history(0),
        history(v=[[1.0]]),
        history(v=[[1.0], [1.0, 2.0]]),
        history(v="none"),
        history(steps=3),
        history(steps=[1, 2, 3, 4, 4]),
        history(sigma=EDGES[::-1].tolist()),
        history(sigma=[-1.0, *EDGES[1:]]),
        history(1, v=[[float("nan")] * 64]),
        history(1, v=[[0.0] * 64]),
        history(1, v=[[-1.0] + [1.0] * 63]),
    ],
)
def test_broken_history_is_named_and_nothing_is_written(tmp_path: Path, content: Any) -> None:
    save(tmp_path, content)
    with pytest.raises(ValueError, match=r"law\.json"):
        draw_law(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]


def test_quantiles_of_a_rate_constant_per_angle(tmp_path: Path) -> None:
    found = read_history(save(tmp_path, history(1)))
    low, high = ANGLE[0], ANGLE[-1]
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        np.testing.assert_allclose(found.quantile(share), low + share * (high - low))
    np.testing.assert_allclose(found.per_degree(), 1 / (high - low))


def test_quantiles_of_two_levels_by_hand() -> None:
    # degrees 0..45 hold three quarters of the rate, 45..60 the rest; the scale of v is free
    sigma = np.tan(np.radians([0.0, 45.0, 60.0]))
    for scale in (1.0, 7.0):
        v = scale * np.array([[0.75, 0.25]]) / np.diff(sigma)
        law = History("Online()", sigma, np.array([10.0]), v)
        found = [law.quantile(share)[0] for share in (0.25, 0.5, 0.75, 0.9)]
        np.testing.assert_allclose(found, [15, 30, 45, 54])
        np.testing.assert_allclose(law.per_degree()[0], [0.75 / 45, 0.25 / 15])


def test_rate_per_degree_is_v_times_one_plus_sigma_squared_and_of_unit_area() -> None:
    sigma = np.geomspace(0.01, 80, 4001)
    middle = np.sqrt(sigma[1:] * sigma[:-1])
    v = np.exp(-middle)[None]
    found = History("Online()", sigma, np.array([10.0]), v).per_degree()
    angle = np.degrees(np.arctan(sigma))
    expected = v * (1 + middle**2)
    np.testing.assert_allclose(found / found[:, :1], expected / expected[:, :1], rtol=1e-4)
    np.testing.assert_allclose(found @ np.diff(angle), 1)


@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 100])
def test_curves_are_few_and_hold_the_first_and_the_last(n: int) -> None:
    places = _spaced(n)
    assert len(places) == min(n, 12) and places[0] == 0 and places[-1] == n - 1
    assert set(np.diff(places)) <= {max(1, (n - 1) // 11), -(-(n - 1) // 11)}
