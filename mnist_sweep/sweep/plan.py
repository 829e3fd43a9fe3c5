"""What a sweep would be, before anything is trained: its space, its waste, its time."""

import contextlib
import logging
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FixedTrial

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.pruners import ASHA, Pruner
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import write_json
from mnist_sweep.sweep import samplers, storage, summary
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.promotion import Promotion
from mnist_sweep.sweep.session import prepared
from mnist_sweep.sweep.space import Space, same
from mnist_sweep.sweep.study import BASELINE
from mnist_sweep.sweep.workers.resources import Resources

log = logging.getLogger(__name__)

_DRAWS = 1_000
_NUMBERS = {2: "two", 3: "three", 4: "four"}
#: Spaces with more points than this are called "more than".
_POINTS = 100_000
#: Training images of a probe on a processor, and on a GPU, which is much faster.
_PROBE_IMAGES, _PROBE_IMAGES_ON_GPU = 2_000, 20_000
#: What a training image costs in forward passes (one forward, about two backward).
_TRAINING = 3
#: Candidates of the sweep's own sampler whose mean stands for a trial's time.
_PROPOSED = 100
#: Seconds of work beside the epochs, measured on one core of an AMD EPYC: of a trial and of a winner's run, each with
#: MLflow and without; of the workers' start; of the report.
_TRIAL, _TRIAL_UNTRACKED, _WINNER, _WINNER_UNTRACKED, _START, _REPORT = 1.0, 0.2, 6.0, 0.3, 8.0, 8.0
#: Of a checkpoint, for each parameter of its network.
_BYTES = 4


def plan(command: CommandLine) -> Path:
    """Look ahead: three short probes are trained, and nothing is left but ``plan.json`` in the sweep's folder.

    Raises:
        RequestError: the sweep could not be begun.
        RunFailure: none of the draws is possible, or a probe failed.
    """
    config = command.config
    assert config.sweep is not None
    space, resources, common, first, explained = prepared(command)
    folder, minutes = Path(config.output) / "runs" / config.sweep.name, config.sweep.budget_minutes
    storage.check_folders(config.sweep, folder, new=config.sweep.name not in storage.study_names(config.sweep))
    for line in explained:
        log.info("%s", line)
    candidates = Candidates(common, config.sweep.constraints or {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    possible, why = list[Candidate](), ""
    for _ in range(_DRAWS):
        try:
            possible.append(candidates.make(space.suggest(study.ask())))
        except RequestError as error:
            why = str(error)
    if not possible:
        raise RunFailure("infeasible", f"none of {_DRAWS} proposals is possible; the last: {why}")
    drawn = _proposed(config.sweep, space, candidates, config.seed) or possible
    own = [candidates.make(space.suggest(FixedTrial(point))) for point, known in first if BASELINE in known]
    *each, its_own = _seconds(config, [*drawn, *own], _PROBE_IMAGES_ON_GPU if resources.gpus else _PROBE_IMAGES)
    if not own:  # your config is no point of the space
        each.append(its_own)
        its_own = statistics.fmean(each)
    seconds = {"mean": statistics.fmean(each), "shortest": min(each), "longest": max(each)}
    total, points = samplers.total(config.sweep, space), space.points(_POINTS)
    full = statistics.fmean(candidate.epochs for candidate in drawn)
    several = len(config.sweep.objectives or ()) > 1  # which no pruner judges
    first_seed = full if several else statistics.fmean(_epochs(config.sweep.pruner, c.epochs, total) for c in drawn)
    reach = 1.0 if several else _stretches(config.sweep.pruner, full, total)[-1][1]  # the share that comes to its end
    further = reach * (config.sweep.seeds - 1)  # trainings of a trial after that of its first seed
    epochs = first_seed + further * full
    trials = int(min(total, max(1, (config.sweep.budget_epochs or math.inf) / epochs)))
    together = len(resources.gpus) or resources.workers  # workers that share a GPU train in turn
    tracked = config.tracking.name != "none"
    a_trial = seconds["mean"] * epochs / full + (1 + further) * (_TRIAL if tracked else _TRIAL_UNTRACKED)
    searching = _START + trials * a_trial / min(together, trials)
    judging = config.sweep.winner  # its candidates are trials that have come to their end
    ended = trials if several else round(trials * _stretches(config.sweep.pruner, full, trials)[-1][1])
    racing = min(judging.top, ended) * judging.race_seeds
    own_racing = judging.race_seeds if judging.baseline and own else 0
    undone = judging.seeds * _differing(drawn, common) if judging.ablate else 0
    runs = 0 if several and not judging.rule else racing + own_racing + 2 * judging.seeds + undone
    training = (racing + judging.seeds + undone) * seconds["mean"] + (judging.seeds + own_racing) * its_own
    training += runs * (_WINNER if tracked else _WINNER_UNTRACKED)
    choosing = (training / min(together, runs) if runs else 0.0) + _REPORT
    kept, weights = min(trials, config.sweep.keep or trials), statistics.fmean(c.costs["parameters"] for c in possible)
    checkpoints = kept + min(kept, ended) * (config.sweep.seeds - 1) + runs
    content = {
        "study": config.sweep.name,
        "space": {key: {"range": drawn, "when": when} for key, drawn, when in space.describe()},
        "points": points,
        "draws": _DRAWS,
        "impossible": (_DRAWS - len(possible)) / _DRAWS,
        "duplicates": 1 - len({candidate.digest for candidate in possible}) / len(possible),
        "workers": resources.workers,
        "threads": resources.threads,
        "seconds_a_trial": seconds,
        "trials": trials,
        "epochs_a_trial": round(epochs, 2),
        "minutes": round((searching + choosing) / 60, 2),
        "minutes_of_the_trials": round(searching / 60, 2),
        "runs_of_the_winner": runs,
        "minutes_of_the_winner": round(choosing / 60, 2),
        "checkpoint_gigabytes": round(_BYTES * weights * checkpoints / 1e9, 3),
        "trials_in_budget": max(0, int((60 * minutes - _START) * together / a_trial)) if minutes else None,
    }
    columns = "key", "drawn from", "only when"
    summary.print_table(f"the space of {config.sweep.name}", columns, space.describe(), width=120)
    endless = f"infinitely many (continuous: {', '.join(space.continuous)})"
    pruner = config.sweep.pruner.name
    pruning = f", {first_seed:.1f} of {full:.1f} epochs with sweep/pruner={pruner}" * (first_seed < full)
    if config.sweep.seeds > 1:
        pruning += f", then {config.sweep.seeds - 1} more seeds where it reaches its end (sweep.seeds)"
    lines = {
        "points": f"{points:,}" if points else endless if space.continuous else f"more than {_POINTS:,}",
        f"of {_DRAWS} draws": f"{content['impossible']:.1%} broke a constraint, {content['duplicates']:.1%} were equal",
        "a full trial": f"{seconds['mean']:.1f} s on average ({seconds['shortest']:.1f} … {seconds['longest']:.1f}), "
        f"{_together(resources)}{pruning}",
        f"{trials} trials": f"{content['minutes_of_the_trials']:.1f} minutes",
        "the winner": f"{content['minutes_of_the_winner']:.1f} minutes: {runs} more trainings, and the report",
        "in all": f"{content['minutes']:.1f} minutes",
    }
    gigabytes = f"{content['checkpoint_gigabytes']:.2f} GB of {kept} trials (sweep.keep) and the winner's trainings"
    lines["checkpoints"] = gigabytes
    if minutes is not None:
        lines[f"in {minutes:g} minutes"] = f"{content['trials_in_budget']} trials"
    for what, line in lines.items():
        log.info("%-18s %s", what, line)
    folder.mkdir(parents=True, exist_ok=True)
    return write_json(folder / "plan.json", content)


def _differing(candidates: Sequence[Candidate], common: CommandLine) -> int:
    """The keys in which candidates differ from the config, on average: what ``sweep.winner.ablate`` undoes one by one.

    The winner is taken for one of them.
    """
    own = common.config.parameters()
    return round(statistics.fmean(sum(not same(own.get(key), c.values[key]) for key in c.values) for c in candidates))


def _together(resources: Resources) -> str:
    """How many trials run at a time, with how many threads."""
    threads = "one thread" if resources.threads == 1 else f"{resources.threads} threads"
    if resources.workers == 1:
        return f"one at a time, {threads}"
    return f"{_NUMBERS.get(resources.workers, resources.workers)} at a time, {threads} each"


def _proposed(settings: Sweep, space: Space, candidates: Candidates, seed: int) -> list[Candidate]:
    """What the sweep's own sampler proposes before there are results; those that are possible."""
    found: list[Candidate] = []
    study = optuna.create_study(sampler=samplers.sampler(settings, space, seed, 0))
    for _ in range(_PROPOSED):
        with contextlib.suppress(RequestError):
            found.append(candidates.make(space.suggest(study.ask())))
    return found


def _stretches(pruner: Pruner, epochs: float, trials: float = math.inf) -> list[tuple[float, float]]:
    """A trial of so many epochs from pause to pause: the last epoch of each stretch, the share expected to begin it.

    Of few trials more than the share come far, since the first go on before better ones are known; measured: two.
    """
    if not isinstance(pruner, ASHA):
        return [(epochs, 1.0)]
    rungs = Promotion(pruner.min_epochs, pruner.reduction_factor, int(epochs), 1).rungs
    least, factor = min(1.0, 2 / trials), pruner.reduction_factor
    return [(min(end, epochs), max(least, factor**-number)) for number, end in enumerate([*rungs, epochs])]


def _epochs(pruner: Pruner, epochs: int, trials: float = math.inf) -> float:
    """The epochs that a trial of so many is expected to take."""
    expected, before = 0.0, 0.0
    for end, share in _stretches(pruner, epochs, trials):
        expected, before = expected + share * (end - before), end
    return expected


def _seconds(config: schema.Config, candidates: Sequence[Candidate], images: int) -> list[float]:
    """How long each candidate's trial would take, if nothing stops it.

    The cheapest and the dearest network are trained for one epoch of so many images. The line through both says what
    an image costs, and what each multiply-add of it costs more.
    """
    from mnist_sweep.training.data import parts

    training, validation = parts(config.data)
    images = min(images, len(training))
    log.info("probing: one epoch of %d images of the cheapest and of the dearest network", images)
    ordered = sorted(candidates, key=lambda candidate: candidate.costs["multiply_adds"])
    first, last = ordered[0], ordered[-1]
    cheap, dear = first.costs["multiply_adds"], last.costs["multiply_adds"]
    passes = _TRAINING * images + len(validation)
    _probe(first, images)  # pays for what is loaded once
    low, high = _probe(first, images) / passes, _probe(last, images) / passes
    slope = max(0.0, (high - low) / (dear - cheap)) if dear > cheap else 0.0
    an_image = max(0.0, low - slope * cheap)
    passes = _TRAINING * len(training) + len(validation)
    return [each.epochs * passes * (an_image + slope * each.costs["multiply_adds"]) for each in candidates]


def _probe(candidate: Candidate, images: int) -> float:
    """Seconds that one epoch of so many images takes."""
    from mnist_sweep.run import train

    with tempfile.TemporaryDirectory() as folder:
        short = {"trainer.max_epochs": 1, "data.limit": images}
        result = train(candidate.command.with_(short, tracking="none", output=folder, name="probe"), pictures=False)
    if result.status != "finished" and result.reason != "diverged":
        raise RunFailure(str(result.reason), f"the probe: {result.detail}")
    return result.train_seconds
