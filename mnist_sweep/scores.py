"""What the recipes reach, over seeds: ``mnist-sweep scores [RECIPE …] [--seeds N] [--data NAME …]``."""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence

from mnist_sweep import api, cli
from mnist_sweep.config.command import CONF, CommandLine
from mnist_sweep.config.overrides import key_of
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder

log = logging.getLogger(__name__)

#: The recipes that are measured where none is named; the others take hours on a processor.
RECIPES = ("tutorial", "fast99", "balanced", "accurate", "tiny")
#: What a row and a column of the table stand for, which no override may change.
_OWN = ("experiment", "data", "data.name", "seed", "name", "sweep")
_AN = ("99.87% as three that vote, 99.91% in two layers of votes", "An et al. 2020, arXiv 2008.10400",
       "the test set (the epoch with its best accuracy)")  # fmt: skip
#: What others report of a recipe on MNIST's test set; where; on which images that network was chosen.
_PUBLISHED = {"simple_m3": _AN, "simple_m5": _AN, "simple_m7": _AN}
_PUBLISHED["fast99"] = (
    "99.04 ± 0.07%", "github.com/tuomaso/train_mnist_fast", "not at all: one epoch, 60,000 images"
)  # fmt: skip


def commands(recipe: str, dataset: str, seeds: int, more: Sequence[str]) -> list[CommandLine]:
    """The runs of a recipe with seeds 0, 1, …

    Raises:
        RequestError: one cannot be composed, or has a folder that is of another request.
    """
    common = CommandLine.of([f"experiment={recipe}", f"data={dataset}", *more])
    runs = [common.with_(seed=seed, name=f"score-{recipe}-{dataset}-{seed}") for seed in range(seeds)]
    for run in runs:
        folder = RunFolder.of(run.config)
        if changes := folder.differences(run.config):
            allowed = "the same request, another output=, or this folder taken away"
            said = f"{folder.path} is there already, of another request ({'; '.join(changes)})"
            raise RequestError(f"{said}; allowed: {allowed}")
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


def table(scores: Mapping[tuple[str, str], Sequence[Result]], others: Sequence[str] = ()) -> str:
    """The results of each recipe on each data set as Markdown, with a row for each of the recipes that have none."""
    sets = list(dict.fromkeys(dataset for _, dataset in scores))
    head = ["recipe", "parameters", "epochs", "seconds", *sets, "published for MNIST", "source", "chosen on"]
    rows = [head, ["---", *["---:"] * (3 + len(sets)), *["---"] * 3]]
    for recipe in dict.fromkeys([*(recipe for recipe, _ in scores), *others]):
        config = CommandLine.of([f"experiment={recipe}"]).config
        parameters = sum(layer.parameters for layer in config.model.layers())
        reached = {dataset: scores[recipe, dataset] for dataset in sets if (recipe, dataset) in scores}
        seconds, epochs, cells = "–", config.trainer.max_epochs, ["not measured"] * len(sets)
        if reached:
            first = next(iter(reached.values()))
            parameters, epochs = first[0].parameters or 0, first[0].epochs
            seconds = f"{statistics.fmean(result.train_seconds for result in first):.0f}"
            cells = [accuracy(reached[dataset]) if dataset in reached else "–" for dataset in sets]
        published = _PUBLISHED.get(recipe, ("–", "–", "–"))
        rows.append([f"`{recipe}`", f"{parameters:,}", str(epochs), seconds, *cells, *published])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def perform(options: argparse.Namespace) -> int:
    """Train the recipes and print the table."""
    known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    if unknown := [recipe for recipe in options.recipes if recipe not in known]:
        raise RequestError(f"{unknown[0]}: no such recipe; allowed: {', '.join(known)}")
    if options.seeds < 1:
        raise RequestError(f"--seeds {options.seeds}: allowed: at least 1")
    for item in options.set:
        if key_of(item) in _OWN or key_of(item).startswith(("sweep.", "sweep/")):
            own = f"RECIPE, --data and --seeds say which runs there are; allowed: any key but {', '.join(_OWN)}"
            raise RequestError(f"--set {item}: {own}")
    recipes = options.recipes or RECIPES
    runs = {  # all are checked before the first takes minutes
        (recipe, dataset): commands(recipe, dataset, options.seeds, options.set)
        for recipe in recipes
        for dataset in options.data
    }
    api.check(runs[recipes[0], options.data[0]][0].without("name"))
    here = []
    for dataset in options.data:
        try:
            api.prepare(runs[recipes[0], dataset][0].with_({"data.fallback": None}))
            here.append(dataset)
        except RequestError as error:
            log.warning("%s: left out (%s)", dataset, error)
    if not here:
        raise RequestError(f"--data {' '.join(options.data)}: none of them is at hand or to be had")
    others = [] if options.recipes else [recipe for recipe in known if recipe not in RECIPES]
    print(table({key: score(each) for key, each in runs.items() if key[1] in here}, others))
    return cli.DONE


if __name__ == "__main__":
    cli.module_main("scores")
