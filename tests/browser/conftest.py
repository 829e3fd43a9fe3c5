"""The notebook's sweep, MLflow's own server on it, the page to draw on, and Chromium."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.notebook import Shown, shown
from tests.servers import serving

__all__ = ["shown"]  # a fixture

#: The program of Debian's or the system's.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Names a folder for the documentation's pictures, where they are wanted: these need Chromium.
PICTURES = os.environ.get("SCREENSHOTS")
#: What each test here is marked with.
IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM and not PICTURES, reason="Chromium is not installed"),
]

expect.set_options(timeout=90_000)  # MLflow's first page can take long where two cores serve and show it


@dataclass(frozen=True)
class Served:
    """A finished sweep and the address of the UI that shows it."""

    sweep: dict[str, Any]
    url: str
    folder: Path


@pytest.fixture(scope="module")
def served(shown: Shown) -> Iterator[Served]:
    """MLflow's UI on the notebook's sweep."""
    with serving(shown.folder, "mnist_sweep.ui", path="/health") as url:
        yield Served(shown.sweep, url, shown.folder)


@pytest.fixture(scope="module")
def demo(shown: Shown) -> Iterator[str]:
    """The address of the page to draw on, with the champion of the sweep."""
    with serving(shown.folder, "mnist_sweep.demo", path="/") as url:
        yield url


@pytest.fixture
def page() -> Iterator[Page]:
    """An empty page of Chromium."""
    assert CHROMIUM, "the pictures are taken in Chromium, which is not installed"
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        fresh = browser.new_page(viewport={"width": 1400, "height": 860})
        fresh.set_default_timeout(90_000)
        for key in ("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "mlflow.assistant.panelOpen_v1"):
            state = str("autoOpened" in key).lower()  # the assistant's panel would cover half of the page
            fresh.add_init_script(f"localStorage.setItem({key!r}, {state!r})")
        yield fresh
        browser.close()


@pytest.fixture
def screenshot(page: Page) -> Callable[[str], None]:
    """Keeps a picture of the page for the documentation, where it is wanted."""

    def keep(name: str) -> None:
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{name}.png")

    return keep
