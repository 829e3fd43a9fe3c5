"""Digits drawn with the mouse, answered right."""

import math
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import IN_A_BROWSER

pytestmark = IN_A_BROWSER

Point = tuple[float, float]

#: Strokes in a box of 1 × 1, y downwards.
STROKES: dict[str, list[Point]] = {
    "1": [(0.52, 0.15), (0.5, 0.5), (0.48, 0.85)],
    "7": [(0.25, 0.2), (0.5, 0.19), (0.75, 0.2), (0.6, 0.5), (0.45, 0.85)],
    "0": [
        (0.5 + 0.23 * math.cos(2 * math.pi * t / 24), 0.5 + 0.33 * math.sin(2 * math.pi * t / 24)) for t in range(26)
    ],
}


@pytest.mark.parametrize("digit", list(STROKES))
def test_a_drawn_digit_is_recognised(demo: str, page: Page, digit: str, screenshot: Callable[[str], None]) -> None:
    page.goto(demo)
    canvas = page.locator("#sketch canvas").last
    expect(canvas).to_be_visible()
    page.wait_for_timeout(2_000)  # the canvas takes its size after it has appeared
    box = canvas.bounding_box()
    assert box is not None
    side = 0.8 * min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    points = [(left + x * side, top + y * side) for x, y in STROKES[digit]]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()
    answer = page.locator("#answer")
    expect(answer.locator("[data-testid='label-output-value']").first).to_have_text(digit)
    expect(page.locator("#seen img")).to_be_visible()
    expect(page.locator("#maps img")).to_be_visible()
    if digit == "7":
        page.wait_for_timeout(1_000)
        screenshot("demo")
