"""What a person sees of a sweep's report: one file, without a network."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import IN_A_BROWSER, Account

pytestmark = IN_A_BROWSER


def test_the_report_shows_each_plot(account: Account, page: Page, screenshot: Callable[[str], None]) -> None:
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    file = account.folder / "mlruns" / "runs" / account.content["study"] / "report.html"
    assert file.stat().st_size < 5_000_000
    page.context.set_offline(True)
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-drawn]")
    for name in ("history", "importances", "parallel_coordinates", "slices_1", "learning_curves", "timeline"):
        plot = page.locator(f"#{name} .js-plotly-plot .main-svg").first
        plot.scroll_into_view_if_needed()
        expect(plot).to_be_visible()
        assert page.locator(f"#{name} .js-plotly-plot path").count() > 1, name
    pictures = page.locator("img")
    ids = page.locator("figure").evaluate_all("all => all.map(each => each.id)")
    assert {"confusion_of_the_best", "hyperparameters_by_class", "winner-curves", "winner-filters"} <= set(ids)
    assert {"winner-activations", "winner-calibration_validation", "winner-confusion_matrix_validation"} <= set(ids)
    assert all(pictures.evaluate_all("all => all.map(each => each.complete && each.naturalWidth > 100)"))
    rows = page.locator("#leaderboard-table tbody tr")
    assert rows.count() == sum(account.content["trials"].values())
    expect(page.get_by_text(account.content["winner"]["command"]).first).to_be_visible()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.evaluate("scrollTo(0, 0)")
    screenshot("report")


def test_an_interactive_plot_within_mlflow(account: Account, page: Page) -> None:
    run_id = account.content["mlflow_run_id"]
    page.goto(f"{account.url}/#/experiments/1/runs/{run_id}/artifacts?workflowType=machine_learning")
    page.get_by_text("study", exact=True).click()
    page.get_by_text("history.html", exact=True).click()
    inside = page.frame_locator("iframe").first
    expect(inside.locator(".js-plotly-plot .main-svg").first).to_be_visible()
