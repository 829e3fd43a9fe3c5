"""What a terminal shows of a sweep."""

import contextlib
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from mnist_sweep.sweep.candidates import Candidate
from mnist_sweep.sweep.progress import Progress, Runs
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.workers import Finished, Report, Task
from tests import stubs
from tests.conftest import ROOT, SMALL
from tests.sweep import studies


def progress_of(folder: Path, *items: str) -> Progress:
    """The progress of a sweep of 16, of which three are complete, one is pruned and one was impossible."""
    trials = [studies.trial_of(folder, number, [0.9 + number / 100], [0.5, 0.9 + number / 100]) for number in range(3)]
    trials += [studies.trial_of(folder, 3, curve=[0.4])]
    trials += [studies.trial_of(folder, 4, attributes={"reason": "infeasible", "detail": "too large"})]
    config = studies.sweep_of(folder, *items).config
    assert config.sweep
    return Progress(config, studies.study_of(trials), Stopping(config.sweep, "maximize", 0.0), 16)


def candidate(folder: Path) -> Candidate:
    values = {"model.filters": [8, 16], "optimizer.lr": 0.0123456}
    return Candidate(values, studies.sweep_of(folder).with_(values), "its digest", {}, 9, None)


def test_the_table_has_counts_the_best_and_each_running_trial(tmp_path: Path) -> None:
    progress = progress_of(tmp_path)
    progress.began(5, candidate(tmp_path))
    progress.reported(5, 1, {"val/accuracy": 0.7777})
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(progress.picture())
    head, best, _, row = console.export_text().splitlines()
    counts = "3 done, 1 pruned, 1 broke a constraint, 0 running"
    assert head.startswith(f"4 of 16 trials: {counts}; 0:00 so far, time left: known when")
    assert best.strip() == "best 0.9200 (trial 2)"
    assert re.match(r"5\s+1 of 9\s+0\.7777\s+0\.7777\s+model.filters=\[8,16\]  optimizer.lr=0.0123", row)


def test_a_line_for_each_trial_that_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    with progress_of(tmp_path) as progress:
        progress.began(2, candidate(tmp_path))
        progress.tick()
        progress.ended(2, studies.result_of(tmp_path, "sweep-0002", 0.92))
        late = {"status": "failed", "reason": "timeout", "detail": "late"}
        progress.ended(3, studies.result_of(tmp_path, "sweep-0003", 0.4, **late))
        progress.ended(1, studies.result_of(tmp_path, "sweep-0001", 0.91, duplicate_of="sweep-0000", epochs=1))
    first, second, third = (line.strip() for line in caplog.messages)
    best = "best 0.9200 (trial 2)"
    assert first == f"4 of 16 trials  trial 2 finished  val/accuracy 0.9200  {best}  2 epochs, 1.0 s"
    assert second == f"4 of 16 trials  trial 3 failed (timeout: late)  no value  {best}  2 epochs, 1.0 s"
    assert third.startswith("4 of 16 trials  trial 1 finished, equal to sweep-0000  val/accuracy 0.9100  ")
    assert third.endswith("  1 epoch, 1.0 s")


@pytest.mark.usefixtures("fresh_stubs")
def test_while_trials_pause_the_best_so_far_is_of_one_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    stubs.search(tmp_path, "sweep.trials=4", "trainer.max_epochs=9", "sweep/pruner=asha")
    first = next(line.strip() for line in caplog.messages if "paused after epoch 1" in line)
    best = r"val/accuracy (0\.\d{4})  best \1 \(trial (\d), paused\)"
    assert re.fullmatch(rf"0 of 4 trials, 1 paused  trial \d paused after epoch 1  {best}", first)


def test_the_time_left_is_known_after_the_first_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    progress = progress_of(tmp_path)
    assert progress.time_left() == "starting the workers"
    progress._earlier = 0  # the four trials are of this session
    monkeypatch.setattr(time, "monotonic", lambda: 140.0)
    # ten seconds a trial, pruned ones included, for twelve more; then nine runs of the winner, a second each
    assert progress.time_left() == "about 2:09 left"
    short = progress_of(tmp_path, "sweep.budget_minutes=1")
    short._earlier, short._started = 0, 100.0
    assert short.time_left().startswith("about 1:09 left")


def test_a_running_trial_may_be_the_best_so_far(tmp_path: Path) -> None:
    progress = progress_of(tmp_path)
    progress.began(5, candidate(tmp_path))
    progress.reported(5, 2, {"val/accuracy": 0.95})
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(progress.picture())
    assert "best 0.9500 (trial 5, running)" in console.export_text()


def test_the_runs_of_the_winner_are_shown_as_the_trials_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    command = candidate(tmp_path).command.with_({"trainer.max_epochs": 9})
    tasks = [Task(seed, command.with_(seed=seed), tags={"trial": 3}) for seed in range(2)]
    runs = Runs("the race", tasks, "val/accuracy", 20.0)
    result = studies.result_of(tmp_path, "sweep-0003-seed0", 0.92)
    runs.show(tasks[1:], [Report(1, 4, {"val/accuracy": 0.9}, lambda _: None), Finished(tasks[0], result)])
    assert caplog.messages == [
        "the race: 1 of 2 runs  trial 3 with seed 0 finished val/accuracy 0.9200  2 epochs, 1.0 s"
    ]
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(runs.picture())
    head, _, row = console.export_text().splitlines()
    assert head.startswith("the race: 1 of 2 runs; 0:")
    assert row.split() == ["trial", "3", "with", "seed", "1", "4", "of", "9", "0.9000"]


@pytest.mark.slow
def test_a_sweep_on_a_terminal_comes_to_its_end(tmp_path: Path) -> None:
    """What only a terminal shows, and so what no other test has drawn by the program itself."""
    ours, theirs = os.openpty()
    few = ["sweep.trials=3", "sweep/pruner=none", "sweep.winner.top=1", "sweep.winner.seeds=1"]
    items = ["+sweep=optuna", *SMALL, "launcher=inline", *few, f"output={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "140"}
    program = [sys.executable, "-m", "mnist_sweep", *items]
    process = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    late = threading.Timer(300, process.kill)
    late.start()
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    code = process.wait()
    late.cancel()
    assert code == 0, shown.decode()
    assert b"of 3 trials: " in shown  # the live view
