"""What a person sees of a sweep in the MLflow UI."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import IN_A_BROWSER, Account

pytestmark = IN_A_BROWSER

Keep = Callable[[str], None]


def expand(page: Page, account: Account) -> None:
    """Show the children of the sweep's run."""
    parent = page.get_by_role("link", name=account.content["study"], exact=True)
    parent.locator("xpath=ancestor::*[@role='presentation'][1]//button").first.click()


def test_the_parent_its_children_and_their_curves(account: Account, page: Page, screenshot: Keep) -> None:
    page.goto(f"{account.url}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART")
    expand(page, account)
    for number in range(sum(account.content["trials"].values())):
        expect(page.get_by_role("link", name=f"sweep-{number:04d}", exact=True)).to_be_visible()
    search = page.get_by_placeholder("Search metric charts")
    for metric in ("val/accuracy", "val/loss", "val/f1", "train/loss"):
        search.fill(metric)  # the page makes only the charts that are in sight
        expect(page.get_by_role("heading", name=metric, exact=True).first).to_be_visible()
    search.fill("val/")
    expect(page.locator(".js-plotly-plot path.js-line").nth(10)).to_be_attached()  # one for each trial and chart
    page.wait_for_timeout(1_000)  # the curves slide into place
    screenshot("runs")


def test_the_metrics_of_a_trial(account: Account, page: Page) -> None:
    run_id = account.content["best"]["mlflow_run_id"]
    page.goto(f"{account.url}/#/experiments/1/runs/{run_id}/model-metrics?workflowType=machine_learning")
    expect(page.get_by_text("(train/loss)").first).to_be_visible()  # the page draws what is in sight
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def test_the_confusion_matrix(account: Account, page: Page) -> None:
    run_id = account.content["best"]["mlflow_run_id"]
    file = "confusion_matrix_validation.png"
    page.goto(f"{account.url}/#/experiments/1/runs/{run_id}/artifacts/{file}?workflowType=machine_learning")
    picture = page.locator(
        "img[src^='blob:'], img[src^='data:'], img[src*='get-artifact'], .js-plotly-plot image"
    ).first
    expect(picture).to_be_visible()
