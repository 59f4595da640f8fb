"""`fetch` finds out before the download whether it can make the model."""

from pathlib import Path

import pytest
from console import crs

from bench import fetch


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("dit-xl-2-256",), "needs --codec"),
        (("dit-xl-2-256", "--codec", "gone"), "--codec gone is no file"),
        (("lsun-horse", "--codec", "gone"), "takes no --codec"),
        (("lsun-horse",), "lsun-horse cannot be written"),
        (("lsun-horze",), "did you mean lsun-horse"),
    ],
)
def test_nothing_is_downloaded_in_vain(
    options: tuple, says: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(fetch, "download", lambda *_, **__: pytest.fail("downloaded"))
    models = tmp_path / "models"
    models.write_text("a file") if "written" in says else models.mkdir()
    assert crs(monkeypatch, "fetch", *options, "--models", models) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
