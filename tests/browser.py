"""Headless Chromium for tests of the page. Without it, or without playwright, they skip."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
          "--disable-component-update", "--no-first-run"]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright. The system's Chromium is used if there is one."""
    reason = "needs playwright: uv pip install -e '.[browser]'"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    own = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=own, args=_QUIET)
        except sync_api.Error as error:
            pytest.skip(f"needs Chromium: apt-get install chromium ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


class Watched:
    """A browser tab on a file, with what it complained about and what it asked for."""

    def __init__(self, browser: Any, address: str, width: int = 1280, height: int = 900) -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": height})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda said: self.errors.append(said.text))
        self.tab.on("request", lambda asked: self.requests.append(asked.url))
        self.open(address)

    def open(self, address: str) -> None:
        """Open the page anew and wait until it is drawn."""
        self.tab.goto("about:blank")
        self.tab.goto(address)
        self.tab.wait_for_selector("html[data-ready]")

    @property
    def asked_for(self) -> list[str]:
        """Addresses outside the file."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "about:"))]
