"""What the recipes reach, over seeds: ``mnist-sweep scores [RECIPE …] [--seeds N] [--data NAME …]``."""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence

from mnist_sweep import api, cli
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import key_of
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder

log = logging.getLogger(__name__)

#: The recipes that are measured where none is named; the others take hours on a processor.
RECIPES = ("tutorial", "fast99", "balanced", "accurate", "tiny")
#: What a row and a column of the table stand for, which no override may change.
_OWN = ("experiment", "data", "data.name", "seed", "name", "sweep")


def commands(recipe: str, dataset: str, seeds: int, more: Sequence[str]) -> list[CommandLine]:
    """The runs of a recipe with seeds 0, 1, …; a RequestError where one cannot be composed, or has another's folder."""
    common = CommandLine.of([f"experiment={recipe}", f"data={dataset}", *more])
    runs = [common.with_(seed=seed, name=f"score-{recipe}-{dataset}-{seed}") for seed in range(seeds)]
    for run in runs:
        folder = RunFolder.of(run.config)
        if changes := folder.differences(run.config):
            allowed = "allowed: the same request, another output=, or this folder taken away"
            changed = "; ".join(changes)
            raise RequestError(f"{folder.path} is there already, of another request ({changed}); {allowed}")
    return runs


def score(runs: Sequence[CommandLine]) -> list[Result]:
    """Train the runs one after another and measure each on the test set; those that are done are not repeated."""
    from mnist_sweep.run import train

    results = []
    for run in runs:
        result = train(run, test=True, progress=True, resume=True)
        if result.status != "finished":
            raise RunFailure(str(result.reason), f"{run.config.name}: {result.detail}")
        log.info("%s: test/accuracy %.4f, %.0f s", run.config.name, result.metrics["test/accuracy"], result.seconds)
        results.append(result)
    return results


def accuracy(results: Sequence[Result]) -> str:
    """Mean and standard deviation on the test set over the seeds, per cent."""
    shares = [100 * result.metrics["test/accuracy"] for result in results]
    deviation = f" ± {statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.2f}{deviation}%"


def table(scores: Mapping[tuple[str, str], Sequence[Result]]) -> str:
    """The results of each recipe on each data set as Markdown."""
    sets = list(dict.fromkeys(dataset for _, dataset in scores))
    rows = [["recipe", "parameters", "epochs", "seconds", *sets], ["---", *["---:"] * (3 + len(sets))]]
    for recipe in dict.fromkeys(recipe for recipe, _ in scores):
        first, *_ = reached = [scores[recipe, dataset] for dataset in sets]
        seconds = statistics.fmean(result.train_seconds for result in first)
        counts = [f"{first[0].parameters:,}", str(first[0].epochs), f"{seconds:.0f}"]
        rows.append([f"`{recipe}`", *counts, *map(accuracy, reached)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def perform(options: argparse.Namespace) -> int:
    """Train the recipes and print the table."""
    if options.seeds < 1:
        raise RequestError(f"--seeds {options.seeds}: allowed: at least 1")
    for item in options.set:
        if key_of(item) in _OWN or key_of(item).startswith(("sweep.", "sweep/")):
            own = f"RECIPE, --data and --seeds say which runs there are; allowed: any key but {', '.join(_OWN)}"
            raise RequestError(f"--set {item}: {own}")
    runs = {  # all are checked before the first takes minutes
        (recipe, dataset): commands(recipe, dataset, options.seeds, options.set)
        for recipe in options.recipes or RECIPES
        for dataset in options.data
    }
    for first, *_ in runs.values():
        command = first if first.config.data.own else first.with_({"data.fallback": None})
        api.check(command.without("name"))
        api.prepare(command)
    print(table({key: score(each) for key, each in runs.items()}))
    return cli.DONE


if __name__ == "__main__":
    cli.module_main("scores")
