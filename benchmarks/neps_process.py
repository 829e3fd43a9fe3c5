"""NePS's PriorBand as a process that proposes: `neps_search.py` starts it with the Python of NePS's own environment.

NePS wants packages that do not go with ours (pandas < 3, networkx < 3), so neither side imports the other. They speak
JSON, a line each. In comes what is searched, once:

    {"seed": 0, "epochs": 9, "space": {"lr": {"low": 1e-4, "high": 0.3, "log": true, "prior": 0.001},
                                       "pool": {"choices": 2, "prior": 0}, …}}

The choices are the whole numbers below `choices`; the prior of what has none is null. Then a proposal goes out,
``{"lr": 0.003, "pool": 1, "epochs": 3}``, its error comes in, from 0, the best, to 1, and so on until no more comes.
"""

import json
import random
import sys
from typing import Any

import neps
import numpy as np
import torch

#: A normal step of a quarter of the range around the prior, and its choice with 75%. In the NePS of the paper's time
#: this was "medium", PriorBand's default.
CONFIDENCE = "high"


def parameter(*, prior: Any, low: float = 0, high: float = 0, log: bool = False, choices: int = 0) -> Any:
    """What one parameter is drawn from; a whole number where both bounds are."""
    if choices:
        return neps.HPOCategorical([*range(choices)], prior=prior, prior_confidence=CONFIDENCE)
    kind = neps.HPOInteger if isinstance(low, int) and isinstance(high, int) else neps.HPOFloat
    return kind(low, high, log=log, prior=prior, prior_confidence=CONFIDENCE)


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(wanted["seed"])
    space = {name: parameter(**drawn) for name, drawn in wanted["space"].items()}
    space["epochs"] = neps.HPOInteger(1, wanted["epochs"], is_fidelity=True)
    # the prior comes first, and is promoted or not like any other
    search = neps.AskAndTell(neps.algorithms.priorband(neps.SearchSpace(space), sample_prior_first=True))
    while True:
        trial = search.ask()
        print(json.dumps(trial.config), flush=True)
        if not (error := sys.stdin.readline()):
            return
        search.tell(trial, float(error))


if __name__ == "__main__":
    main()
