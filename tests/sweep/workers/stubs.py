"""What workers perform in their own tests: nothing heavy, only what a task's tags say."""

import dataclasses
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from mnist_sweep.errors import Interrupted
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers import Task
from mnist_sweep.sweep.workers.messages import OnEpoch

_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "GLIBC_TUNABLES")
_hoard: list[bytearray] = []


def stub(task: Task, on_epoch: OnEpoch, stopped: Callable[[], int | None]) -> Result:
    """Report ``epochs`` times, then do as the tags say; ``once`` is done only at the first attempt."""
    tags: dict[str, Any] = task.tags
    ended = 0

    def result(status: str = "finished") -> Result:
        process: dict[str, Any] = {"process": os.getpid(), **{name: os.environ.get(name) for name in _ENVIRONMENT}}
        known = {"status": status, "reason": tags.get("reason"), "detail": json.dumps(process), "epochs": ended}
        others: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Result))
        return Result(**(others | known | {"command": task.command.shell()}))

    match tags.get("do") or (tags.get("once") if not task.resume else None):
        case "log":
            logging.getLogger("mnist_sweep.stub").debug("not this")
            logging.getLogger("mnist_sweep.stub").info("100%% of %s", "it")
        case "raise":
            raise ValueError("a bug")
        case "exit":
            sys.exit(3)
        case "hoard":
            _hoard.append(bytearray(os.urandom(1)) * (64 * 2**20))
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
    try:
        for epoch in range(1, tags.get("epochs", 1) + 1):
            go_on = on_epoch(epoch, {"val/accuracy": epoch / 7, "val/loss": float("inf")})
            ended = epoch
            if not go_on:
                return result("pruned")
        while tags.get("do") == "wait" and stopped() is None:
            time.sleep(0.01)
    except Interrupted:
        if tags.get("do") == "record":  # the signal comes to the whole process group, and more than once
            os.kill(os.getpid(), signal.SIGTERM)
    return result("interrupted" if stopped() else "finished")


if os.environ.get("CUDA_VISIBLE_DEVICES") == "broken":
    raise ImportError("no such library")
