"""What a terminal shows of a sweep."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from mnist_sweep.sweep.progress import View
from tests import stubs


def test_the_live_view_has_counts_the_best_and_each_running_trial(tmp_path: Path) -> None:
    driver = stubs.search(tmp_path, "sweep.trials=12")
    proposal = stubs.a_proposal()
    view = View(driver.config, driver.study, driver.budget, driver.settings.trials)
    view.began(12, proposal)
    view.reported(12, 3, {"val/accuracy": 0.7777})
    console = Console(width=110, record=True, file=(tmp_path / "terminal").open("w"))
    console.print(view._picture())
    text = console.export_text()
    counts = driver.study.counts()
    assert text.startswith(f"12 of 12 trials: {counts['complete']} done, {counts['pruned']} pruned")
    best = driver.study.best()
    assert best is not None
    assert f"best {best.values[0]:.4f} (trial {best.number})" in text
    row = next(line for line in text.splitlines() if line.startswith("12 ") and "0.7777" in line)
    at_three = max(t.intermediate_values[3] for t in driver.study.trials() if 3 in t.intermediate_values)
    assert re.match(rf"12\s+3 of {proposal.epochs}\s+0\.7777\s+{max(at_three, 0.7777):.4f}\s+model", row)
    console.file.close()


def test_the_time_left_is_known_after_the_first_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = stubs.search(tmp_path, "sweep.trials=4")
    view = View(driver.config, driver.study, driver.budget, driver.settings.trials)
    assert view._left() == "starting the workers"
    view.already, view.started = 0, 100.0
    monkeypatch.setattr("mnist_sweep.sweep.progress.time.monotonic", lambda: 140.0)
    view.total = 16
    assert view._left() == "about 2:00 left"  # ten seconds a trial, pruned ones included, for twelve more
