"""A search by NePS's PriorBand in a space of ours: it proposes, in an environment of its own, and we train."""

import contextlib
import itertools
import json
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from mnist_sweep.errors import RequestError
from mnist_sweep.result import Result
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.parameters import Distribution
from mnist_sweep.sweep.session import Session
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.workers import Task

PROCESS = Path(__file__).with_name("neps_process.py")
#: Of what cannot be trained, or diverged. An error is 1 − accuracy.
WORST = 1.0


def is_there(python: str) -> bool:
    """Whether a Python has NePS."""
    find = "import importlib.util as util, sys; sys.exit(util.find_spec('neps') is None)"
    try:
        return subprocess.run([python, "-c", find], check=False).returncode == 0
    except OSError:
        return False


def flat(space: Space) -> dict[str, Distribution]:
    """All that can be drawn, by the names of Optuna's parameters: all conditions hold, each list is the longest."""
    found, known = dict[str, Distribution](), dict(space.base)

    def longest(name: str, of: Distribution) -> Any:
        found[name] = of
        return of.choices[-1] if isinstance(of, CategoricalDistribution) else of.high

    for parameter in space.parameters:
        known[parameter.key] = parameter.draw(longest, known)
    return found


def described(of: Distribution, prior: Any) -> dict[str, Any]:
    """What a parameter is drawn from, as `neps_process` reads it; None = it has no prior."""
    if isinstance(of, CategoricalDistribution):
        return {"choices": len(of.choices), "prior": None if prior is None else of.choices.index(prior)}
    assert of.step in (None, 1), "NePS has no steps"
    # of the whole numbers from 8 to 64 on a logarithmic scale, NePS 0.17 draws 8, 23 and 64 only
    low, high = (float(of.low), float(of.high)) if of.log else (of.low, of.high)
    return {"low": low, "high": high, "log": of.log, "prior": prior}


def value(of: Distribution, drawn: Any) -> Any:
    """What NePS drew, as Optuna has it."""
    if isinstance(of, CategoricalDistribution):
        return of.choices[drawn]
    return round(drawn) if isinstance(of, IntDistribution) else drawn


def proposals(space: Space, python: str, seed: int, epochs: int) -> Generator[tuple[dict[str, Any], int], float, None]:
    """What PriorBand proposes, the config's own values first; each is answered, by `send`, with its error.

    A proposal is a value for each Optuna parameter, of those that are not active as well, and up to which epoch, of so
    many at most, it is to be trained.
    """
    drawn, prior = flat(space), space.prior()
    told = {name: described(of, prior.get(name)) for name, of in drawn.items()}
    message: Any = {"seed": seed, "epochs": epochs, "space": told}
    command = [python, "-W", "ignore", str(PROCESS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        while True:
            print(json.dumps(message), file=process.stdin, flush=True)
            if not (line := process.stdout.readline()):
                raise RuntimeError("the process of NePS has ended; it says why above")
            proposed = json.loads(line)
            message = yield {name: value(of, proposed[name]) for name, of in drawn.items()}, proposed["epochs"]


def search(
    session: Session, python: str, perform: Callable[[Task, Any], Result], curve: list[tuple[int, float]]
) -> tuple[Candidate, int, int]:
    """Search until the budget in epochs is spent: the best candidate, its number, and how many proposals there were.

    Only what was trained to the last epoch can be the best; where nothing was, what came furthest.

    Args:
        session: of the sweep, whose space, budget and seed these are.
        python: of NePS's environment.
        perform: trains a task, or goes on with it, until the answer to an epoch is to pause.
        curve: gets the epochs spent and the best accuracy so far, for each epoch that is new.
    """
    config, budget = session.common.config, session.settings.budget_epochs
    assert budget is not None
    candidates, longest = Candidates(session.common, {}), config.trainer.max_epochs
    trained: dict[str, int] = {}  # epochs, by what is trained
    found: list[tuple[int, float, int, Candidate]] = []  # epochs, accuracy, the number below 0, so that the first wins

    def error(number: int, drawn: dict[str, Any], epochs: int) -> float:
        try:
            candidate = candidates.make(session.space.walk(lambda name, _: drawn[name]))
        except RequestError:  # no network can have these values
            return WORST
        before = trained.get(candidate.digest, 0)

        def on_epoch(epoch: int, values: dict[str, float]) -> Any:
            if epoch > before:
                trained[candidate.digest] = epoch
                curve.append((len(curve) + 1, max([values["val/accuracy"], *(best for _, best in curve[-1:])])))
            return epoch < epochs or epochs == longest or "pause"

        result = perform(Task(number, candidate.command.with_(name=f"neps-{number}")), on_epoch)
        if result.objective is None or result.status == "failed":
            return WORST
        found.append((result.epochs, result.objective, -number, candidate))
        return 1 - result.objective

    with contextlib.closing(proposals(session.space, python, config.seed, longest)) as proposed:
        asked = next(proposed)
        for number in itertools.count():
            told = error(number, *asked)
            if len(curve) >= budget:
                break
            asked = proposed.send(told)
    _, _, best, candidate = max(found)
    return candidate, -best, number + 1
