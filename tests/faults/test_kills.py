"""Processes that are killed at random: nothing is lost, nothing doubled. `chaos` does the same for longer."""

from pathlib import Path

import pytest

from tests.faults.kills import endured

pytestmark = pytest.mark.slow


@pytest.mark.fault(1)
def test_a_driver_that_is_killed_again_and_again(tmp_path: Path) -> None:
    tally = endured(tmp_path, seed=0, kills=4, trials=6, drivers=1.0)
    assert (tally.lost, tally.doubled, tally.wrong) == (0, 0, [])
    assert tally.driver >= 1


@pytest.mark.fault(2)
def test_workers_that_are_killed_one_by_one_and_together(tmp_path: Path) -> None:
    tally = endured(tmp_path, seed=1, kills=6, trials=10, drivers=0.0)
    assert (tally.lost, tally.doubled, tally.wrong) == (0, 0, [])
    assert tally.workers >= 1
