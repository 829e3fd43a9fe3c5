"""Random kills of a sweep's processes, and what must hold afterwards."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil

from mnist_sweep.result import Result
from tests.conftest import ROOT
from tests.faults.stub_sweep import EPOCHS, value_of


@dataclass
class Tally:
    """What a sweep went through."""

    driver: int = 0  # kills of it
    workers: int = 0
    sessions: int = 0
    doubled: int = 0  # trials that ended twice
    lost: int = 0  # that did not end
    wrong: list[str] = field(default_factory=list)  # anything else, in words
    seconds: float = 0.0  # of all its sessions together


def endured(
    folder: Path, seed: int, kills: int, trials: int, drivers: float = 0.3, pause: float = 1.5, epoch: float = 0.05
) -> Tally:
    """A sweep whose processes are killed at random, at most so many times.

    `drivers` is the share of its driver, `pause` the longest time between two kills, and `epoch` how long an epoch of
    its trials takes, both in seconds.
    """
    chance, tally = random.Random(seed), Tally()
    output, storage = folder / f"output-{seed}", f"sqlite:///{folder}/output-{seed}/optuna.db"
    arguments = [sys.executable, "-m", "tests.faults.stub_sweep", str(output), f"sweep.trials={trials}", f"seed={seed}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STUB_SECONDS": str(epoch)}
    began = time.monotonic()
    while True:
        tally.sessions += 1
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(arguments, env=environment, stderr=log, start_new_session=True)
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, pause))
            if process.returncode is None and tally.driver + tally.workers < kills:
                _kill(process, chance, tally, drivers)
        if process.returncode == 0:
            break
        said = (folder / "log").read_text()
        # three workers in a row that die before they are ready end a session, in order
        if process.returncode != -signal.SIGKILL and "a worker cannot start: killed by signal 9" not in said[-300:]:
            tally.wrong.append(f"exit code {process.returncode}: {said[-500:]}")
            break
    tally.seconds = time.monotonic() - began
    _judge(optuna.load_study(study_name="sweep", storage=storage), output, trials, tally)
    return tally


def _kill(process: subprocess.Popen[bytes], chance: random.Random, tally: Tally, drivers: float) -> None:
    workers: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = psutil.Process(process.pid).children()
    if chance.random() < drivers:
        process.kill()
        process.wait()
        tally.driver += 1
        _, alive = psutil.wait_procs(workers, timeout=10)
        if alive:
            tally.wrong.append(f"{len(alive)} workers outlived their driver")
    else:
        for worker in workers if chance.random() < 0.2 else workers[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
                tally.workers += 1


def _judge(study: optuna.Study, output: Path, trials: int, tally: Tally) -> None:
    states = [trial.state.name for trial in study.trials]
    tally.lost += trials - sum(state in ("COMPLETE", "FAIL") for state in states[:trials])
    tally.doubled += max(0, len(states) - trials)
    for trial in study.trials:
        name = f"sweep-{trial.number:04d}"
        result = Result.found(output / "runs" / name)
        if result is None or (trial.state.name, result.status) not in (("COMPLETE", "finished"), ("FAIL", "failed")):
            tally.wrong.append(f"{name}: {trial.state.name}, {result and result.status}")
        elif trial.state.name == "FAIL" and result.reason != "crashed":
            tally.wrong.append(f"{name}: failed by {result.reason}")
        elif trial.state.name == "COMPLETE":
            values = {epoch: value_of(result.overrides, epoch) for epoch in range(1, EPOCHS + 1)}
            if trial.intermediate_values != values or trial.value != values[EPOCHS] or result.epochs != EPOCHS:
                tally.wrong.append(f"{name}: {trial.intermediate_values}")
    left = [*output.glob(".sweep-*"), *output.glob("runs/*/.result*"), *output.glob("runs/.sweep-*")]
    tally.wrong.extend(f"left over: {path}" for path in left)
    seconds, search = (study.user_attrs.get(key, 0.0) for key in ("seconds", "search_seconds"))
    if seconds < search:
        tally.wrong.append(f"{seconds} seconds, but {search} of the search")
