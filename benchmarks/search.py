"""Which search finds more: python benchmarks/search.py [--tasks …] [--methods …] [--seeds 10] [--epochs 90] [--jobs 2]

Real sweeps on small real tasks. All methods search the same space, begin with the config's own values, and may train
the same number of epochs in all, in trainings of at most nine. For each sweep the network that was found and the
config's own are trained again with the same two new seeds; printed is by how much the found one is better (validation
accuracy, mean over the two seeds), and after how many epochs a sweep had reached what random search reaches at its end.

One worker with one thread, so that a sweep repeats. A training on a processor repeats to the last digit: its epochs are
kept in `--cache` by config and seed, and each is trained once, for whichever sweep asks first.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASKS = {
    "mnist2000": ["data=mnist", "data.limit=2000"],
    "mnist5k1000": ["data=mnist5k", "data.limit=1000"],
    "fashion2000": ["data=fashion_mnist", "data.limit=2000"],
}
METHODS = {
    "ours": [],
    "random": ["sweep/sampler=random", "sweep/pruner=none"],
    "tpe": ["sweep/sampler=tpe", "sweep/pruner=none"],
    "tpe+hyperband": ["sweep/sampler=tpe", "sweep/pruner=hyperband"],
}
LONGEST = 9
COMMON = [
    "+sweep=optuna", f"trainer.max_epochs={LONGEST}", "tracking=none", "launcher=inline", "trainer.threads=1",
    "trainer.accelerator=cpu",
]  # fmt: skip
#: A config that is no good: the search must do without it.
BAD = ["+experiment=bad", "sweep.space.model.filters.each.low=1"]
BAD_CONFIG = "# @package _global_\noptimizer: {lr: 0.1}\nmodel: {filters: [1], kernel_size: 3, pool_size: 2}\n"


class Cache:
    """Trainings by config and seed: the metrics of each epoch, and a checkpoint to go on from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(
        self, task: Any, on_epoch: Callable[[int, dict[str, float]], Any], stopped: Callable[[], int | None]
    ) -> Any:
        """What a worker does with a task, but that epochs which have been trained are read."""
        from mnist_sweep import run
        from mnist_sweep.config import schema
        from mnist_sweep.run_folder import RunFolder

        config = task.command.config
        relevant = json.dumps(config.relevant(), sort_keys=True)
        import hashlib

        key = hashlib.sha256(relevant.encode()).hexdigest()[:20]
        command = task.command.with_(name=key, output=str(self.folder))
        there = RunFolder.of(command.config)
        decision: Any = True
        history = there.progress().history
        answered = 0
        for epoch, values in enumerate(history, start=1):
            decision, answered = on_epoch(epoch, values), epoch
            if decision is not True:
                break

        def heard(epoch: int, values: dict[str, float]) -> Any:
            nonlocal decision
            if epoch <= answered:
                return True
            decision = on_epoch(epoch, values)
            return True if decision is True else "pause"

        done = decision is not True or len(history) == config.trainer.max_epochs
        result = there.result() if done else run.train(command, on_epoch=heard, resume=True, stopped=stopped)
        if result is None:  # the first process that trained it died
            result = run.train(command, on_epoch=lambda *_: "pause", resume=True)
        assert isinstance(config, schema.Config)
        status = result.status
        if decision is not True:
            status = "interrupted" if decision == "pause" else "pruned"
            shown = history[:answered] or result.history
            shown = result.history[: max(answered, 0)] if done else result.history
            best = max(range(len(shown)), key=lambda index: shown[index][config.objective])
            result = dataclasses.replace(
                result, history=shown, epochs=len(shown), best_epoch=best + 1, metrics=dict(shown[best]),
                objective=shown[best][config.objective],
            )  # fmt: skip
        folder = RunFolder.of(config)
        folder.begin(config, task.command.overrides, resume=True)
        result = dataclasses.replace(
            result, status=status, folder=str(folder.path), overrides=list(task.command.overrides)
        )
        result.write()
        return result


STATE: dict[str, Any] = {}


def train(job: Any, on_epoch: Any, stopped: Any) -> Any:
    """Perform a task of the sweep, and note its new epochs."""
    known = len(STATE["study"].trials()[job.id].intermediate_values)
    curve = STATE["curve"]

    def heard(epoch: int, values: dict[str, float]) -> Any:
        if epoch > known:
            curve.append((len(curve) + 1, max([values["val/accuracy"], *(best for _, best in curve[-1:])])))
        return on_epoch(epoch, values)

    return STATE["store"].train(job, heard, stopped)


def sweep(task: str, method: str, seed: int, epochs: int, cache: Path, bad: bool) -> dict[str, Any]:
    """One sweep: the curve (epochs spent, best value so far), and how much better the found network is."""
    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.sweep.session import opened
    from mnist_sweep.sweep.workers import Task, Workers

    store, curve = Cache(cache), list[tuple[int, float]]()
    STATE.update(store=store, curve=curve)
    with tempfile.TemporaryDirectory() as folder:
        items = [*TASKS[task], *COMMON, *METHODS[method], f"seed={seed}", f"sweep.budget_epochs={epochs}"]
        directory = None
        if bad:
            directory = Path(folder) / "conf"
            (directory / "experiment").mkdir(parents=True)
            (directory / "experiment" / "bad.yaml").write_text(BAD_CONFIG)
            items += BAD
        command = CommandLine.of([*items, f"output={folder}/out"], directory)
        with opened(command) as session, Workers.inline(train) as workers:
            STATE["study"] = session.study
            session.begin(workers)
            session.tune(workers)
            trials = session.study.trials()
            found = session.study.best() or max(
                (t for t in trials if t.intermediate_values),
                key=lambda t: (max(t.intermediate_values), max(t.intermediate_values.values())),
            )
            own = session.common
            winner = CommandLine.of(found.user_attrs["result"]["overrides"], directory)
        scores = []
        for again in (1000 + 2 * seed, 1001 + 2 * seed):
            pair = []
            for one in (winner, own):
                job = Task(0, one.with_(seed=again, name=f"again{len(scores)}{len(pair)}", output=f"{folder}/again"))
                pair.append(store.train(job, lambda *_: True, lambda: None).objective)
            scores.append(pair[0] - pair[1])
        sources = [t.user_attrs.get("source", "-") for t in trials]
        return {
            "gain": statistics.fmean(scores), "curve": curve, "trials": len(trials), "winner": found.number,
            "first": curve[-1][1], "params": found.params, "sources": sources, "epochs": len(curve),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS])
    parser.add_argument("--methods", nargs="+", default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--bad", action="store_true", help="begin with a config that is no good")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/.search"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        task, method, seed = arguments.one
        print(json.dumps(sweep(task, method, int(seed), arguments.epochs, arguments.cache, arguments.bad)))
        return
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    (arguments.cache / "sweeps").mkdir(parents=True, exist_ok=True)
    jobs = [(t, m, s) for t in arguments.tasks for s in range(arguments.seeds) for m in arguments.methods]
    files = {
        job: arguments.cache / "sweeps" / f"{'bad-' * arguments.bad}{job[0]}-{job[1]}-{job[2]}-{arguments.epochs}.json"
        for job in jobs
    }
    left = [job for job in jobs if not files[job].exists()]
    running: dict[Any, subprocess.Popen[str]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while left or running:
        while left and len(running) < arguments.jobs:
            job = left.pop(0)
            command = [sys.executable, __file__, "--one", *map(str, job), "--epochs", str(arguments.epochs)]
            command += ["--cache", str(arguments.cache), *(["--bad"] if arguments.bad else [])]
            running[job] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        job, process = next(iter(running.items()))
        out, _ = process.communicate()
        del running[job]
        if process.returncode:
            sys.exit(f"{job} failed")
        files[job].write_text(out.splitlines()[-1])
        found = json.loads(files[job].read_text())
        print(
            f"{' '.join(map(str, job))}  gain {found['gain']:+.4f}  first {found['first']:.4f}",
            file=sys.stderr,
            flush=True,
        )
    for task in arguments.tasks:
        table(task, arguments, {job: json.loads(file.read_text()) for job, file in files.items()})


def table(task: str, arguments: argparse.Namespace, found: dict[Any, Any]) -> None:
    from mnist_sweep.config.metrics import spread

    seeds = range(arguments.seeds)
    gains = {method: [found[task, method, seed]["gain"] for seed in seeds] for method in arguments.methods}
    goal = None
    if "random" in gains:
        goal = statistics.median(found[task, "random", seed]["curve"][-1][1] for seed in seeds)
    print(f"\n{task}, {arguments.epochs} epochs, {arguments.seeds} seeds; random's median at the end: {goal}")
    for method, each in gains.items():
        curves = [found[task, method, seed]["curve"] for seed in seeds]
        reached = [
            next((used for used, best in curve if goal and best >= goal), arguments.epochs + 1) for curve in curves
        ]
        ahead = spread([a - b for a, b in zip(gains[arguments.methods[0]], each, strict=True)])
        words = (
            ""
            if method == arguments.methods[0]
            else f"  first ahead by {ahead['mean']:+.4f} ({ahead['low']} … {ahead['high']})"
        )
        above = sum(value > 0 for value in each)
        print(
            f"{method:15} gain {statistics.fmean(each):+.4f}  above 0: {above}  reached after {statistics.median(reached)}{words}"
        )
        print("               ", " ".join(f"{value:+.4f}" for value in each))


if __name__ == "__main__":
    main()
