"""What workers perform in the launchers' tests: nothing heavy, only what a task's overrides say."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.sweep.workers import Task

Report = Callable[[int, dict[str, float]], bool]
#: The epoch that a run reports while it records its interruption, with ``do=record``.
RECORDING = 99
_hoard: list[bytearray] = []


def stub(task: Task, report: Report) -> dict[str, Any]:
    """Report `epochs` times, then do as told."""
    told = dict(item.partition("=")[::2] for item in task.overrides)
    result: dict[str, Any] = {"name": told.get("name"), "process": os.getpid(), "epochs": 0, "status": "finished"}
    result["reason"] = told.get("reason")
    result["environment"] = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    result["tunables"] = os.environ.get("GLIBC_TUNABLES")
    if "log" in told:
        logging.getLogger("mnist_sweep.stub").debug("not this")
        logging.getLogger("mnist_sweep.stub").info(told["log"])
    match told.get("do"):
        case "refuse":
            raise RequestError("optimizer.lr=-1: allowed: above 0")
        case "raise":
            raise ValueError("a bug")
        case "exit":
            sys.exit(3)
        case "hoard":
            _hoard.append(bytearray(os.urandom(1)) * (64 * 2**20))
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        for epoch in range(1, int(told.get("epochs", 1)) + 1):
            go_on = report(epoch, {"val/accuracy": epoch / 7, "val/loss": float("inf")})
            result["epochs"] = epoch
            if not go_on:
                result["status"] = "pruned"
                break
        while told.get("do") == "wait":
            time.sleep(0.01)
    except Interrupted as interruption:
        if told.get("do") == "record":
            report(RECORDING, {})
        interruption.result = result | {"status": "interrupted"}
        raise
    return result


if os.environ.get("CUDA_VISIBLE_DEVICES") == "broken":
    raise ImportError("no such library")
