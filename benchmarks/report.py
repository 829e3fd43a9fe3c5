"""What a sweep's report costs: python benchmarks/report.py [trials]

A real sweep of many small trials (one epoch, or two, of 300 images), all of them complete, so that there is as much as
possible to draw; then the report is made once more and timed: the interactive plots, the error analysis, the winner's
pictures, and what MLflow keeps of them.
"""

import sys
import tempfile
import time
from pathlib import Path

from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.report import report
from mnist_sweep.sweep.session import opened, sweep
from mnist_sweep.tracking import MLflowRun

SMALL = ["data=mnist5k", "data.limit=300", "model.hidden=[16]", "sweep.space.trainer.max_epochs={low: 1, high: 2}"]
SWEEP = ["+sweep=optuna", "sweep/pruner=none", "sweep/sampler=random", "sweep.winner.top=1", "sweep.winner.seeds=1"]


def main(trials: int) -> None:
    """Run the sweep and print what its report took."""
    with tempfile.TemporaryDirectory() as folder:
        command = CommandLine.of([*SWEEP, *SMALL, f"sweep.trials={trials}", f"output={folder}"])
        sweep(command)
        with opened(command) as session:
            run = MLflowRun(command.config.tracking, Path(folder), "report")
            started = time.perf_counter()
            path = report(command, session.study, session.study.recall("winner"), session.folder, 60.0, run)
            took = time.perf_counter() - started
            run.end("FINISHED")
        assert path is not None
        print(f"the report of {trials} trials: {took:.1f} s, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
