"""The console entry point, called as a shell would call it."""

import sys

import pytest

from bench import cli


def crs(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit status of `crs-bench arguments`."""
    monkeypatch.setattr(sys, "argv", ["crs-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)
