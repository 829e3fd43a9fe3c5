"""What the recipes reach, over seeds: ``python -m mnist_sweep.scores [RECIPE …] [--seeds N] [--data NAME …]``."""

import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnist_sweep import cli as console
from mnist_sweep.config import schema
from mnist_sweep.config.command import CONF, compose
from mnist_sweep.config.overrides import key_of, override, without
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.run_record import differences, folder_of
from mnist_sweep.training import datasets

log = logging.getLogger("mnist_sweep.scores")  # __name__ is __main__ here

RECIPES = ("tutorial", "fast99", "balanced", "accurate", "tiny")
SEEDS = 5
#: What a row and a column of the table stand for, which no override may change.
_OWN = ("experiment", "data", "data.name", "seed", "name")
#: So many differences from an earlier request are told.
_TOLD = 3
#: Between these lines of a file the table is put.
MARKS = ("<!-- scores -->", "<!-- /scores -->")


@dataclass(frozen=True)
class Published:
    """What others report of a recipe on MNIST's test set.

    Attributes:
        accuracy: as they state it.
        source: where.
        chosen: on which images the reported network was chosen.
    """

    accuracy: str
    source: str
    chosen: str


_AN = ("An et al. 2020, arXiv 2008.10400", "the test set (the epoch with its best accuracy)")
PUBLISHED = {
    "fast99": Published("99.04 ± 0.07%", "github.com/tuomaso/train_mnist_fast", "not at all: one epoch, 60,000 images"),
    **{
        f"simple_m{kernel}": Published("99.87% as three that vote, 99.91% in two layers of votes", *_AN)
        for kernel in (3, 5, 7)
    },
}


@dataclass(frozen=True)
class Score:
    """What one recipe reached on one data set.

    Attributes:
        recipe: option of ``experiment``.
        dataset: name.
        results: one a seed.
    """

    recipe: str
    dataset: str
    results: list[Result]

    @property
    def accuracies(self) -> list[float]:
        """On the test set, 0 … 1, one a seed."""
        return [result.metrics["test/accuracy"] for result in self.results]

    def said(self) -> str:
        """Mean and standard deviation over the seeds, per cent."""
        deviation = f" ± {100 * statistics.stdev(self.accuracies):.2f}" if len(self.accuracies) > 1 else ""
        return f"{100 * statistics.fmean(self.accuracies):.2f}{deviation}%"


def overrides_of(recipe: str, dataset: str, seeds: int, more: Sequence[str]) -> list[list[str]]:
    """The overrides of a recipe's runs, with seeds 0, 1, …

    Args:
        recipe: option of ``experiment``.
        dataset: its name.
        seeds: how many.
        more: further overrides.
    """
    return [
        [f"experiment={recipe}", f"data={dataset}", f"seed={seed}", *more,
         override("name", f"score-{recipe}-{dataset}-{seed}")]
        for seed in range(seeds)
    ]  # fmt: skip


def check(config: schema.Config) -> None:
    """Refuse a run whose folder is that of another request: its result, or its checkpoint, would pass for this one's.

    Raises:
        RequestError: the folder's config has other values, of which the first are told.
    """
    if changes := differences(config):
        more = f" and {len(changes) - _TOLD} more" if len(changes) > _TOLD else ""
        raise RequestError(
            f"{folder_of(config)} is there already, of another request ({', '.join(changes[:_TOLD])}{more}); "
            "allowed: the same request, another output=, or this folder taken away"
        )


def score(recipe: str, dataset: str, seeds: int, more: Sequence[str]) -> Score:
    """Train a recipe with seeds 0, 1, … one after another on the whole machine, each measured once on the test set.

    Runs that are there already, from a call before with the same request (see `check`), are not repeated.

    Args:
        recipe, dataset, seeds, more: as for `overrides_of`.

    Raises:
        RunFailure: a run failed.
    """
    from mnist_sweep.run import run

    results = []
    for seed, items in enumerate(overrides_of(recipe, dataset, seeds, more)):
        config = compose(items)
        result = run(config, items, open_test=True, progress=True, resume=True)
        if result.status != "finished":
            raise RunFailure(str(result.reason), f"{config.name}: {result.detail}")
        log.info(
            "%s, seed %d: test/accuracy %.4f, %.0f s", recipe, seed, result.metrics["test/accuracy"], result.seconds
        )
        results.append(result)
    return Score(recipe, dataset, results)


def table(scores: Sequence[Score], others: Sequence[str] = ()) -> str:
    """The scores in Markdown: a row for each recipe, a column of accuracies for each data set.

    Args:
        scores: at least one.
        others: recipes that were not measured, which have a row that says so.
    """
    sets = list(dict.fromkeys(score.dataset for score in scores))
    head = ["recipe", "parameters", "epochs", "seconds", *sets, "published for MNIST", "source", "chosen on"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (3 + len(sets)) + "---|" * 3]
    for recipe in dict.fromkeys(score.recipe for score in scores):
        own = {score.dataset: score for score in scores if score.recipe == recipe}
        first = next(iter(own.values())).results
        seconds = f"{statistics.fmean(result.train_seconds for result in first):.0f}"
        reached = [own[name].said() if name in own else "–" for name in sets]
        lines.append(_row(recipe, first[0].parameters or 0, first[0].epochs, [seconds, *reached]))
    for recipe in others:
        config = compose([f"experiment={recipe}"])
        parameters = sum(layer.parameters for layer in config.model.layers())
        lines.append(_row(recipe, parameters, config.trainer.max_epochs, ["–", *(["not measured"] * len(sets))]))
    return "\n".join(lines)


def _row(recipe: str, parameters: int, epochs: int, measured: Sequence[str]) -> str:
    known = PUBLISHED.get(recipe, Published("–", "–", "–"))
    cells = [f"`{recipe}`", f"{parameters:,}", str(epochs), *measured, known.accuracy, known.source, known.chosen]
    return "| " + " | ".join(cells) + " |"


def put(text: str, file: Path) -> None:
    """Put a table between the two marks of a file.

    Raises:
        RequestError: the file has no marks.
    """
    before, _, rest = _marked(file)
    file.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{rest}", encoding="utf-8")


def _marked(file: Path) -> tuple[str, str, str]:
    try:
        content = file.read_text(encoding="utf-8")
        before, rest = content.split(MARKS[0])
        within, after = rest.split(MARKS[1])
    except (OSError, ValueError) as error:
        raise RequestError(f"--into {file}: allowed: a file with one line {MARKS[0]} and one {MARKS[1]}") from error
    return before, within, after


def _check_into(file: Path) -> None:
    """Refuse a file that the table cannot be put into, before anything is trained for it."""
    _marked(file)
    try:
        file.open("r+b").close()
    except OSError as error:
        raise RequestError(
            f"--into {file}: cannot be written ({error.strerror}); allowed: a file that can, with its two marks"
        ) from error


def perform(arguments: Sequence[str]) -> int:
    """Run the recipes and print the table."""
    known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    parser = console.parser("scores", "Train recipes over several seeds and print their test accuracies as a table.")
    parser.add_argument(
        "recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(known)} (default: {', '.join(RECIPES)})"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds: 0, 1, … (default: %(default)s)")
    parser.add_argument("--data", nargs="+", default=["mnist"], metavar="NAME", help="data sets (default: mnist)")
    parser.add_argument("--set", nargs="+", default=[], metavar="OVERRIDE", help="further overrides, such as output=…")
    parser.add_argument("--into", type=Path, metavar="FILE", help=f"put the table between {MARKS[0]} and {MARKS[1]}")
    options = parser.parse_args(arguments)
    recipes = options.recipes or list(RECIPES)
    if unknown := [recipe for recipe in recipes if recipe not in known]:
        raise RequestError(f"{unknown[0]}: no such recipe; allowed: {', '.join(known)}")
    if options.seeds < 1:
        raise RequestError(f"--seeds {options.seeds}: allowed: at least 1")
    for item in options.set:
        if key_of(item) in _OWN or not without([item], "sweep"):
            raise RequestError(
                f"--set {item}: RECIPE, --data and --seeds say which runs there are; "
                f"allowed: any key but {', '.join(_OWN)} and sweep"
            )
    if options.into:
        _check_into(options.into)
    configs = {name: compose([f"data={name}", *options.set]) for name in options.data}
    for recipe in recipes:  # before the first of them takes minutes
        for name in options.data:
            for items in overrides_of(recipe, name, options.seeds, options.set):
                check(compose(items))
    output = configs[options.data[0]].output
    console.check_writable(f"output={output}", Path(output))
    at_hand = [name for name, config in configs.items() if _at_hand(config)]
    if not at_hand:
        raise RequestError(f"--data {' '.join(options.data)}: none of them is at hand or to be had")
    others = [] if options.recipes else [recipe for recipe in known if recipe not in RECIPES]
    found = table([score(recipe, name, options.seeds, options.set) for recipe in recipes for name in at_hand], others)
    print(found)
    if options.into:
        put(found, options.into)
    return console.DONE


def _at_hand(config: schema.Config) -> bool:
    """Whether a data set is on disk now, downloaded if need be; a line where it is not."""
    own = config.data.model_copy(update={"fallback": None})
    try:
        datasets.obtain(own)
    except RequestError as error:
        log.warning("%s: left out (%s)", config.data.name, error)
        return False
    return True


if __name__ == "__main__":
    console.leave(lambda: console.run(lambda: perform(sys.argv[1:])))
