"""What several tests of sweeps need."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep ends without its report, which has tests of its own and takes most of a small sweep's time."""
    from mnist_sweep.sweep import report

    monkeypatch.setattr(report, "report", lambda *_: None)


@pytest.fixture
def fresh_stubs() -> Iterator[None]:
    """Nothing has been performed by the stubs, and nothing twists their results."""
    from tests import stubs

    stubs.performed.clear()
    stubs.twist.clear()
    yield
    stubs.twist.clear()
