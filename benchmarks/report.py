"""What a sweep's report costs: python benchmarks/report.py [trials]

A real sweep of many small trials (one epoch, or two, of 300 images), all of them complete, so that there is as much as
possible to draw; then the time of its report, which includes the interactive plots, their PNG files, the tables and
pictures on the sweep's run in MLflow and the winner's pictures.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mnist_sweep.config.command import compose
from mnist_sweep.sweep import driver, report

SMALL = ["data=mnist5k", "data.limit=300", "model.hidden=[16]", "sweep.space.trainer.max_epochs={low: 1, high: 2}"]
SWEEP = ["+sweep=optuna", "sweep/pruner=none", "sweep/sampler=random", "sweep.winner.top=1", "sweep.winner.seeds=1"]


def main(trials: int) -> None:
    """Run the sweep and print what its report took."""
    took: list[float] = []
    made = report.report

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return made(*arguments, **named)
        finally:
            took.append(time.perf_counter() - started)

    report.report = timed  # type: ignore[assignment]  # the driver looks it up when it comes to it
    with tempfile.TemporaryDirectory() as folder:
        given = [*SWEEP, *SMALL, f"sweep.trials={trials}", f"output={folder}"]
        driver.sweep(compose(given), given)
        size = (Path(folder) / "runs" / "sweep" / report.FILE).stat().st_size
    print(f"the report of {trials} trials: {took[0]:.1f} s, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
