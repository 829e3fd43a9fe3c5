"""The whole catalogue of faults, and kills at random moments: ``make chaos``, or ``python -m tests.faults.chaos``.

Prints a table: the fault, how often it was tried, and how often what is promised held (docs/promises.md).
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults.kills import Tally, endured

TITLES = {
    1: "the driver is killed", 2: "workers are killed", 3: "the driver dies between failure and repetition",
    4: "signals", 5: "loss NaN or inf", 6: "out of memory", 7: "a trial hangs", 8: "a damaged checkpoint",
    9: "the disk is full", 10: "a half-made, damaged or foreign database", 11: "the database is held by another",
    12: "two sweeps at once", 13: "the tracking server is away", 14: "a server of MLflow 2, asynchronous logging",
    15: "a damaged data set", 16: "the clock is set back", 17: "the study is changed by hand", 18: "two users",
    "fuzz": "inputs made up at random",
}  # fmt: skip
TWENTY = 20  #: kills of the driver of one sweep, whose time is told beside a quiet one's


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Have each report say which fault its test is of; this module is a plugin in pytest's processes."""
    report = (yield).get_result()
    if mark := item.get_closest_marker("fault"):
        report.user_properties.append(("fault", mark.args[0]))


class Counted:
    """A plugin of pytest that counts, by fault, the tests that were tried and that passed."""

    def __init__(self) -> None:
        self.tried, self.held = Counter[object](), Counter[object]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        fault = dict(report.user_properties).get("fault")
        if fault and ((report.when == "call" and not report.skipped) or report.failed):
            self.tried[fault] += 1
            self.held[fault] += report.passed


class Kills:
    """Kills at random moments, and what became of each sweep."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.lines, self.tried, self.held = list[str](), Counter[object](), Counter[object]()
        self.broken = 0  # trials lost or doubled, whatever was killed, and what else was not as promised
        self._folder, self._seed = folder, seed

    def _endured(self, name: str, kills: int, **how: float) -> Tally:
        folder = self._folder / name
        folder.mkdir()
        tally = endured(folder, self._seed, kills, **how)  # type: ignore[arg-type]
        broken = tally.lost + tally.doubled + len(tally.wrong)
        killed = f"{tally.driver} kills of the driver, {tally.workers} of workers, {tally.sessions} sessions"
        self.lines.append(
            f"seed {self._seed}: {killed}, {tally.lost} lost, {tally.doubled} doubled {tally.wrong or ''}"
        )
        self.tried += Counter({1: tally.driver, 2: tally.workers})
        self.held += Counter({1: max(0, tally.driver - broken), 2: max(0, tally.workers - broken)})
        self.broken += broken
        return tally

    def twenty(self) -> None:
        """Twenty kills of one sweep's driver, and how much longer that takes than the sweep alone."""
        quiet = self._endured("quiet", 0, trials=60, epoch=0.8)
        pause = 2 * quiet.seconds / TWENTY  # so that the kills are spread over the sweep
        killed = self._endured("killed", TWENTY, trials=60, drivers=1.0, pause=pause, epoch=0.8)
        ratio = f"{killed.seconds:.0f} s, and {quiet.seconds:.0f} s without, {killed.seconds / quiet.seconds:.2f} times"
        self.lines.append(f"{killed.driver} kills of the driver in one sweep: {ratio} as long (promised: at most 2.5)")
        self.broken += killed.seconds > 2.5 * quiet.seconds

    def more(self, kills: int) -> None:
        """Kills of drivers and of workers, until there are so many in all."""
        while (left := kills - self.tried.total()) > 0:
            self._endured(f"seed-{self._seed}", min(40, left), trials=20, pause=3.0)  # so that workers have begun, too
            self._seed += 1


def _test(fuzz: int, counted: Counted) -> int:
    """Run the tests of all faults, with so many inputs of each kind of the fuzzers; pytest's exit code."""
    os.environ["FUZZ"] = str(fuzz)
    arguments = ["-q", "-p", "no:randomly", "-p", "tests.faults.chaos", "-n", "2", "--dist", "worksteal"]
    arguments += [str(ROOT / "tests" / "faults")]
    arguments += [str(ROOT / "tests" / "faults" / "held.py")]  # too long for `make test`
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of hypothesis, which is imported by now
    arguments += [str(ROOT / "tests" / name) for name in ("sweep", "training", "test_run.py", "test_errors.py")]
    return int(pytest.main([*arguments, "-m", "fault"], plugins=[counted]))


def main() -> int:
    """Kill at random, run the tests of all faults, print the table; 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at random moments (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first sweep (default: %(default)s)")
    parser.add_argument("--fuzz", type=int, default=300, help="inputs of each kind (default: %(default)s)")
    parser.add_argument("--only", choices=["kills", "tests"], help="a half")
    options = parser.parse_args()
    counted, began, code = Counted(), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        kills = Kills(Path(folder), options.seed)
        if options.only != "tests":
            kills.twenty()  # alone, since its time is told
            ended = beside.submit(kills.more, options.kills)
        if options.only != "kills":
            code = _test(options.fuzz, counted)
        if options.only != "tests":
            ended.result()
    tried, held = counted.tried + kills.tried, counted.held + kills.held
    print("\n".join(kills.lines))
    print("\n| fault | | tried | held |\n|---|---|---:|---:|")
    for number, title in TITLES.items():
        print(f"| {number} | {title} | {tried[number]} | {held[number]} |")
    print(f"\n{time.monotonic() - began:.0f} seconds; inputs of each kind of the fuzzers: {options.fuzz}")
    return int(code != 0 or kills.broken > 0 or tried != held)


if __name__ == "__main__":
    sys.exit(main())
