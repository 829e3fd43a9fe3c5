"""What a person sees: a sweep in the MLflow UI, its report, and the page to draw a digit on.

In one file, since one process should make the sweep that all look at.
"""

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
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM and not PICTURES, reason="Chromium is not installed"),
]

Keep = Callable[[str], None]

#: A seven in a box of 1 × 1, y downwards.
STROKE = [(0.25, 0.2), (0.5, 0.19), (0.75, 0.2), (0.6, 0.5), (0.45, 0.85)]


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
def screenshot(page: Page) -> Keep:
    """Keeps a picture of the page for the documentation, where it is wanted."""

    def keep(name: str) -> None:
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{name}.png")

    return keep


def expand(page: Page, served: Served) -> None:
    """Show the children of the sweep's run."""
    parent = page.get_by_role("link", name=served.sweep["study"], exact=True)
    parent.locator("xpath=ancestor::*[@role='presentation'][1]//button").first.click()


def test_the_parent_its_children_and_their_curves(served: Served, page: Page, screenshot: Keep) -> None:
    page.goto(f"{served.url}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART")
    expand(page, served)
    for number in range(sum(served.sweep["trials"].values())):
        expect(page.get_by_role("link", name=f"sweep-{number:04d}", exact=True)).to_be_visible()
    search = page.get_by_placeholder("Search metric charts")
    for metric in ("val/accuracy", "val/loss", "val/f1", "train/loss"):
        search.fill(metric)  # the page makes only the charts that are in sight
        expect(page.get_by_role("heading", name=metric, exact=True).first).to_be_visible()
    search.fill("val/")
    expect(page.locator(".js-plotly-plot path.js-line").nth(10)).to_be_attached()  # one for each trial and chart
    page.wait_for_timeout(1_000)  # the curves slide into place
    screenshot("runs")


def test_a_trials_metrics_its_confusion_matrix_and_the_report(served: Served, page: Page) -> None:
    run = f"{served.url}/#/experiments/1/runs/{served.sweep['best']['mlflow_run_id']}"
    page.goto(f"{run}/model-metrics?workflowType=machine_learning")
    expect(page.get_by_text("(best/train/loss)").first).to_be_visible()  # the page draws what is in sight
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    page.goto(f"{run}/artifacts/validation/confusion_matrix.png?workflowType=machine_learning")
    shown = "img[src^='blob:'], img[src^='data:'], img[src*='get-artifact'], .js-plotly-plot image"
    expect(page.locator(shown).first).to_be_visible()
    run = f"{served.url}/#/experiments/1/runs/{served.sweep['mlflow_run_id']}"
    page.goto(f"{run}/artifacts/report.html?workflowType=machine_learning")
    expect(page.frame_locator("iframe").first.locator(".js-plotly-plot .main-svg").first).to_be_attached()


def test_the_report_shows_each_plot(served: Served, page: Page, screenshot: Keep) -> None:
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    file = served.folder / "mlruns" / "runs" / served.sweep["study"] / "report.html"
    assert file.stat().st_size < 8_000_000
    page.context.set_offline(True)
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-drawn]")
    for name in ("found", "history", "parallel_coordinates", "slices_1", "learning_curves", "durations"):
        plot = page.locator(f"#{name} .js-plotly-plot .main-svg").first
        plot.scroll_into_view_if_needed()
        expect(plot).to_be_visible()
        assert page.locator(f"#{name} .js-plotly-plot path").count() > 1, name
    pictures = page.locator("img")
    ids = page.locator("figure").evaluate_all("all => all.map(each => each.id)")
    assert {"confusion_of_the_best", "winner-curves", "winner-filters"} <= set(ids)
    assert {"winner-activations", "winner-calibration_validation", "winner-confusion_matrix_validation"} <= set(ids)
    assert all(pictures.evaluate_all("all => all.map(each => each.complete && each.naturalWidth > 100)"))
    rows = page.locator("#leaderboard-table tbody tr")
    assert rows.count() == sum(served.sweep["trials"].values())
    table = page.locator("#leaderboard-table")
    assert table.evaluate("table => table.offsetWidth <= table.parentElement.clientWidth")  # nothing to scroll to
    for width in (1400, 400):
        page.set_viewport_size({"width": width, "height": 860})
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
    page.set_viewport_size({"width": 1400, "height": 860})
    expect(page.get_by_text(served.sweep["winner"]["command"]).first).to_be_visible()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.evaluate("scrollTo(0, 0)")
    screenshot("report")


def test_a_drawn_digit_is_recognised(demo: str, page: Page, screenshot: Keep) -> None:
    page.goto(demo)
    canvas = page.locator("#sketch canvas").last
    expect(canvas).to_be_visible()
    page.wait_for_timeout(2_000)  # the canvas takes its size after it has appeared
    box = canvas.bounding_box()
    assert box is not None
    side = 0.8 * min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    points = [(left + x * side, top + y * side) for x, y in STROKE]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)  # each takes the page some tenths of a second
    page.mouse.up()
    answer = page.locator("#answer")
    expect(answer.locator("[data-testid='label-output-value']").first).to_have_text("7")
    expect(page.locator("#seen img")).to_be_visible()
    page.wait_for_timeout(1_000)
    screenshot("demo")
