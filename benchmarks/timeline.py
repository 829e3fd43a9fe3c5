"""Where the time of a sweep goes: python benchmarks/timeline.py [override …] | FOLDER

A default sweep, or the one that left a folder such as mlruns/runs/sweep, done in one session on this machine's CPU. Of
the time of all its cores, from the first moment to the last: what the runs spent within epochs (training steps and the
evaluation that ends each), what they spent on the rest of a run (figures, the kept model, files), and what is left.
"""

import json
import sys
import tempfile
from pathlib import Path

import optuna

from mnist_sweep import api, hardware
from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result
from mnist_sweep.sweep.session import sweep


def main(arguments: list[str]) -> None:
    """Run the sweep, unless there is one, and print where its time went."""
    if arguments and Path(arguments[0]).is_dir():
        show(Path(arguments[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        show(sweep(api.prepare(CommandLine.of([*arguments, "+sweep=optuna", f"output={folder}"]))).parent)


def show(folder: Path) -> None:
    """Print where the time went of a finished sweep of one session."""
    content = json.loads((folder / "sweep.json").read_text())
    name, wall = content["study"], content["seconds"]
    results = [Result.read(path.parent) for path in folder.parent.glob(f"{name}-*/result.json")]
    trials = [result for result in results if "-seed" not in Path(result.folder).name]
    epochs = sum(result.threads * result.train_seconds for result in results)
    runs = sum(result.threads * result.seconds for result in results)
    searched = sum(result.threads * result.seconds for result in trials)
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder.parent.parent}/optuna.db")
    times = [moment for trial in study.trials for moment in (trial.datetime_start, trial.datetime_complete) if moment]
    search = (max(times) - min(times)).total_seconds()
    cores = hardware.cores()
    whole = cores * wall
    total = sum(result.epochs for result in results)
    print(f"{len(trials)} trials, {len(results) - len(trials)} runs of winners, {total} epochs; "
          f"{wall:.0f} s on {cores} cores")  # fmt: skip
    for said, seconds in (
        ("within epochs: training steps and evaluation", epochs),
        ("the rest of the runs: figures, models, files", runs - epochs),
        ("cores without work while trials were searched", cores * search - searched),
        ("before, between and after: starting, the end of the winner's race, the report",
         whole - cores * search - (runs - searched)),
    ):  # fmt: skip
        print(f"    {100 * seconds / whole:5.1f}%  {seconds:7.1f} s  {said}")


if __name__ == "__main__":
    main(sys.argv[1:])
