"""Which search finds more: python benchmarks/search.py [seeds] [epochs]

Real sweeps on a small real task, with the same compute (epochs of training in all): TPE with asynchronous successive
halving against random draws without pruning. Each trial may take nine epochs. Printed for each seed and in the median:
the best validation accuracy, and how many epochs it took to reach the median accuracy at which random search ended.
"""

import statistics
import sys
import tempfile

from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.session import opened
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.workers.resources import open_workers

TASK = ["data=mnist5k", "data.limit=1000", "trainer.max_epochs=9", "tracking=none", "sweep.trials=100000"]
SEARCHES = {
    "random, no pruning": ["sweep/sampler=random", "sweep/pruner=none"],
    "tpe + asha": ["sweep/sampler=tpe", "sweep/pruner=asha"],
}
#: Best accuracy so far, by the epochs that were spent until then.
Curve = list[tuple[int, float]]


def curve(search: str, seed: int, epochs: int) -> Curve:
    """Run one sweep until so many epochs are spent."""
    with tempfile.TemporaryDirectory() as folder:
        command = CommandLine.of(["+sweep=optuna", *TASK, *SEARCHES[search], f"seed={seed}", f"output={folder}"])
        with opened(command) as session:
            study = session.study

            def spent() -> int:
                return sum(len(trial.intermediate_values) for trial in study.trials())

            def over(_: Stopping) -> str | None:
                return "spent" if spent() >= epochs else None

            Stopping.over = over  # type: ignore[method-assign, assignment]
            with open_workers(command, session.resources, session.common) as workers:
                session.begin(workers)
                session.tune(workers)
            moments = {trial.datetime_complete: trial for trial in study.trials() if trial.datetime_complete}
            ended = [moments[moment] for moment in sorted(moments)]
    found: Curve = []
    used, best = 0, 0.0
    for trial in ended:
        for value in trial.intermediate_values.values():  # what a pruned trial had reached was reached, too
            used, best = used + 1, max(best, value)
        found.append((used, best))
    return [(used, best) for used, best in found if used <= epochs] or found[:1]


def main(seeds: int, epochs: int) -> None:
    """Run all sweeps in turn and print the table."""
    curves: dict[str, list[Curve]] = {search: [] for search in SEARCHES}
    for seed in range(seeds):
        for search in SEARCHES:
            curves[search].append(curve(search, seed, epochs))
            print(f"seed {seed}  {search:<20} best {curves[search][-1][-1][1]:.4f}", file=sys.stderr, flush=True)
    goal = statistics.median(each[-1][1] for each in curves["random, no pruning"])
    print(f"{epochs} epochs a sweep, {seeds} seeds; random search ends at {goal:.4f} in the median")
    print(f"{'search':<20} {'median best':>12} {'epochs to reach ' + format(goal, '.4f'):>24}   each seed")
    for search, each in curves.items():
        reached = [next((used for used, best in one if best >= goal), epochs) for one in each]
        ends = " ".join(f"{one[-1][1]:.4f}/{used}" for one, used in zip(each, reached, strict=True))
        median = statistics.median(one[-1][1] for one in each)
        print(f"{search:<20} {median:>12.4f} {statistics.median(reached):>24.0f}   {ends}")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*(arguments + [5, 270][len(arguments) :]))
