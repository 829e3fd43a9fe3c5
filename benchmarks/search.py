"""Which search finds more: python benchmarks/search.py [--tasks …] [--methods …] [--seeds 10] [--epochs 90] [--jobs 2]

With --neps PYTHON, of an environment that has NePS (see docs/speed.md), its PriorBand is among the methods.

Real sweeps on small real tasks. All methods search the default space, begin with the config's own values, and may
train as many epochs in all, in trainings of at most nine. Then the network that a sweep found and the config's own are
trained with the same two new seeds. Printed for each method:

  gain      by how much the found network is better than the config's (validation accuracy, mean over the two seeds),
            mean over the sweeps, and in how many of them it is
  ahead     by how much the first method's gain is above this one's, paired over the sweeps, with its 95% interval
  epochs    after how many epochs a sweep reached the value at which random search ended (`--goal-epochs`), the median

One worker with one thread on a processor, so that a sweep repeats. A training there repeats to the last digit: its
epochs are kept in `--cache` by config and seed, and each is trained once, for whichever sweep asks first.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import neps_search
from filelock import FileLock

from mnist_sweep import run
from mnist_sweep.config.command import CONF, CommandLine
from mnist_sweep.config.metrics import spread
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.session import Session, opened
from mnist_sweep.sweep.workers import Task, Workers

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
    # what is the pruner's share, and what the sampler's
    "random+asha": ["sweep/sampler=random"],
    "tpe+asha": ["sweep/sampler=tpe"],
    "neps": [],  # it asks NePS instead of the sampler and the pruner
}
LONGEST = 9
PACKAGE = Path(run.__file__).parent
COMMON = [
    "+sweep=optuna", f"trainer.max_epochs={LONGEST}", "tracking=none", "launcher=inline", "trainer.threads=1",
    "trainer.accelerator=cpu",
]  # fmt: skip
#: A config that is no good, for `--bad`: the search must do without it.
BAD_SPACE = "sweep.space.model.filters.each.low=1"
BAD = "# @package _global_\noptimizer: {lr: 0.1}\nmodel: {filters: [1], kernel_size: 3, pool_size: 2}\n"


class Trainings:
    """Trainings in a folder, by config and seed: each epoch is trained once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def perform(self, task: Task, on_epoch: Any) -> Any:
        """What a worker does with a task; epochs that are there are read, further ones are trained."""
        config = task.command.config
        key = hashlib.sha256(json.dumps(config.relevant(), sort_keys=True).encode()).hexdigest()[:20]
        command, history, decision = task.command.with_(name=key, output=str(self.folder)), [], True

        def heard(epoch: int, values: dict[str, float]) -> Any:
            nonlocal decision
            if epoch == len(history) + 1 and decision is True:
                history.append(values)
                decision = on_epoch(epoch, values)
            return True if decision is True else "pause"  # another sweep may go on

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{key}.lock"):
            there = RunFolder.of(command.config)
            for epoch, values in enumerate(there.progress().history, start=1):
                heard(epoch, values)
            result = there.result()
            if result is None or (decision is True and len(history) < config.trainer.max_epochs):
                result = run.train(command, on_epoch=heard, resume=True)
        if not history:  # it diverged in its first epoch
            return result
        best = max(range(len(history)), key=lambda index: history[index][config.objective])
        folder = RunFolder.of(config)
        folder.begin(config, task.command.overrides, resume=True)
        result = dataclasses.replace(
            result, history=history, epochs=len(history), best_epoch=best + 1, metrics=history[best],
            objective=history[best][config.objective], overrides=list(task.command.overrides), folder=str(folder.path),
        )  # fmt: skip
        if decision is not True:
            result = dataclasses.replace(result, status="interrupted" if decision == "pause" else "pruned")
        result.write()
        return result


@dataclasses.dataclass
class Current:
    """The sweep that this process runs."""

    trainings: Trainings
    study: Any = None
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)  # epochs spent, best value so far


current: Current  # a worker finds what it performs by its name in this module


def perform(task: Task, on_epoch: Any, _: Any) -> Any:
    """Perform a task of the sweep, and note its new epochs."""
    known, curve = len(current.study.trials()[task.id].intermediate_values), current.curve

    def heard(epoch: int, values: dict[str, float]) -> Any:
        if epoch > known:
            curve.append((len(curve) + 1, max([values["val/accuracy"], *(best for _, best in curve[-1:])])))
        return on_epoch(epoch, values)

    return current.trainings.perform(task, heard)


def search(session: Session, neps: str | None) -> tuple[Sequence[str], dict[str, Any]]:
    """Search, by NePS where its Python is given: the overrides of what was found, and what is kept of the search."""
    if neps:
        best, number, count = neps_search.search(session, neps, current.trainings.perform, current.curve)
        return best.command.overrides, {"trials": count, "winner": number, "params": dict(best.values)}
    current.study = session.study
    with Workers.inline(perform) as workers:
        session.begin(workers)
        session.tune(workers)
    count, found = len(session.study.trials()), session.study.contenders()[0]
    kept = {"trials": count, "winner": found.number, "params": found.params}
    return found.user_attrs["result"]["overrides"], kept


def sweep(
    task: str, method: str, seed: int, epochs: int, cache: Path, *, bad: bool, again: bool, neps: str | None
) -> dict[str, Any]:
    """One sweep: its curve, and how much better the found network is."""
    global current
    current = Current(Trainings(cache))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "conf"
        (directory / "experiment").mkdir(parents=True)
        (directory / "experiment" / "bad.yaml").write_text(BAD)
        items = [*TASKS[task], *COMMON, *METHODS[method], f"seed={seed}", f"sweep.budget_epochs={epochs}"]
        items += ["experiment=bad", BAD_SPACE] if bad else []
        with opened(CommandLine.of([*items, f"output={folder}/out"], directory)) as session:
            own = session.common
            overrides, kept = search(session, neps if method == "neps" else None)
        winner = CommandLine.of(overrides, directory)
        scores = []
        for fresh in (1000 + 2 * seed, 1001 + 2 * seed) if again else ():
            values = []
            for name, command in (("winner", winner), ("own", own)):
                where = {"seed": fresh, "name": f"{name}-{fresh}", "output": f"{folder}/again"}
                values.append(current.trainings.perform(Task(0, command.with_(where)), lambda *_: True).objective)
            scores.append(values[0] - values[1])
    gain = statistics.fmean(scores) if scores else None
    return {"gain": gain, "curve": current.curve, **kept}


def results(arguments: argparse.Namespace, tasks: list[str], methods: list[str], epochs: int, *, again: bool) -> Any:
    """The sweeps' results by task, method and seed; those that are not in the cache are run, several at a time."""
    # sweeps of other code may have proposed something else; their trainings are there still
    files = [*PACKAGE.rglob("*.py"), *CONF.rglob("*.yaml"), *Path(__file__).parent.glob("*search*.py")]
    code = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:8]
    folder = arguments.cache / "sweeps" / code
    folder.mkdir(parents=True, exist_ok=True)

    def one(job: tuple[str, str, int]) -> Any:
        file = folder / f"{'bad-' * arguments.bad}{'-'.join(map(str, job))}-{epochs}{'' if again else '-no-gain'}.json"
        if not file.exists():
            command = [sys.executable, __file__, "--one", *map(str, job), "--epochs", str(epochs)]
            command += ["--cache", str(arguments.cache), *["--bad"] * arguments.bad, *["--no-gain"] * (not again)]
            command += ["--neps", arguments.neps] if arguments.neps else []
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
            file.with_suffix(".part").write_text(out.splitlines()[-1])
            file.with_suffix(".part").replace(file)
            print(*job, epochs, out.splitlines()[-1][:40], file=sys.stderr, flush=True)
        return json.loads(file.read_text())

    jobs = [(task, method, seed) for task in tasks for seed in range(arguments.seeds) for method in methods]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        return dict(zip(jobs, pool.map(one, jobs), strict=True))


def table(task: str, arguments: argparse.Namespace) -> None:
    """Run what has not been run, and print the table of a task."""
    seeds, methods, epochs = range(arguments.seeds), arguments.methods, arguments.epochs
    found = results(arguments, [task], methods, epochs, again=True)
    goal = None
    if arguments.goal_epochs:
        ends = results(arguments, [task], ["random"], arguments.goal_epochs, again=False)
        goal = statistics.median(end["curve"][-1][1] for end in ends.values())
    begin = ", which begin with a bad config" * arguments.bad
    print(f"\n{task}: {epochs} epochs a sweep, {len(seeds)} sweeps a method{begin}")
    if goal:
        print(f"random search ends at {goal:.4f} in the median after {arguments.goal_epochs} epochs")
    gains = {method: [found[task, method, seed]["gain"] for seed in seeds] for method in methods}
    for method, each in gains.items():
        words = f"{method:<15} gain {statistics.fmean(each):+.4f}, above 0 in {sum(value > 0 for value in each)}"
        if method != methods[0]:
            ahead = spread([ours - theirs for ours, theirs in zip(gains[methods[0]], each, strict=True)])
            words += f"; ahead {ahead['mean']:+.4f}"
            words += f" ({ahead['low']:+.4f} … {ahead['high']:+.4f})" if ahead["low"] is not None else ""
        if goal:
            curves = [found[task, method, seed]["curve"] for seed in seeds]
            reached = [next((used for used, best in curve if best >= goal), float("inf")) for curve in curves]
            words += f"; epochs {statistics.median(reached):g}"
        print(words, "  ", " ".join(f"{value:+.4f}" for value in each))


def picture(arguments: argparse.Namespace, file: Path) -> None:
    """Draw the median best value against the epochs that were spent, for each task and method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(arguments.tasks), figsize=(5 * len(arguments.tasks), 3.6), squeeze=False)
    for task, axis in zip(arguments.tasks, axes[0], strict=True):
        found = results(arguments, [task], arguments.methods, arguments.epochs, again=True)
        for method in arguments.methods:
            curves = [found[task, method, seed]["curve"][: arguments.epochs] for seed in range(arguments.seeds)]
            length = min(map(len, curves))
            median = [statistics.median(curve[epoch][1] for curve in curves) for epoch in range(length)]
            axis.step(range(1, length + 1), median, where="post", label=method)
        axis.set(title=task, xlabel="epochs spent", ylabel="best validation accuracy, median")
        axis.set_ylim(bottom=axis.get_ylim()[1] - (axis.get_ylim()[1] - axis.get_ylim()[0]) / 4)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], help="all; neps where --neps is given")
    parser.add_argument("--neps", metavar="PYTHON", help="of an environment that has neural-pipeline-search")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=90, help="that the trials of a sweep train together")
    parser.add_argument("--goal-epochs", type=int, help="those of the random searches that set the goal")
    parser.add_argument("--jobs", type=int, default=2, help="sweeps at a time")
    parser.add_argument("--bad", action="store_true", help="begin with a config that is no good")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / ".search")
    parser.add_argument("--picture", type=Path, help="draw the curves into this file")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--no-gain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        (task, method, seed), again = arguments.one, not arguments.no_gain
        cache, bad = arguments.cache, arguments.bad
        found = sweep(task, method, int(seed), arguments.epochs, cache, bad=bad, again=again, neps=arguments.neps)
        print(json.dumps(found))
        return
    arguments.methods = arguments.methods or [name for name in METHODS if name != "neps" or arguments.neps]
    allowed = "allowed: the Python of an environment with the package neural-pipeline-search"
    if "neps" in arguments.methods and not arguments.neps:
        parser.error(f"--methods neps: --neps is missing; {allowed}")
    if arguments.neps and not neps_search.is_there(arguments.neps):
        parser.error(f"--neps {arguments.neps}: there is no NePS; {allowed}")
    for task in arguments.tasks:
        table(task, arguments)
    if arguments.picture:
        picture(arguments, arguments.picture)


if __name__ == "__main__":
    main()
