"""The samplers: keys and bounds of each, what it can search, and how Optuna's is built. The defaults are in conf/sweep.

A further sampler is a class here, a name in `Sampler`, and a YAML file in conf/sweep/sampler.
"""

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from mnist_sweep.config.section import Positive, Rate, Section

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class _Sampler(Section):
    """What a sampler can do. Each has a method ``build(seed, study_seed=…, prior=…, conditional=…, prunes=…)``:

    Args:
        seed: for what this session draws.
        study_seed: the same in all sessions of a study.
        prior: the config's own values by the names of Optuna's parameters, as far as they are within the space.
        conditional: some keys are not drawn in every trial.
        prunes: trials may be pruned.
    """

    conditions: ClassVar[bool] = True  # search keys that are not drawn in every trial
    changes: ClassVar[bool] = True  # go on in a space that has changed
    several_objectives: ClassVar[bool] = True
    choices: ClassVar[bool] = True  # search choices; otherwise these are drawn at random
    continuous: ClassVar[bool] = True  # search ranges of floats without a step
    constraints: ClassVar[bool] = True  # learn from the constraints that a trial breaks
    pruned: ClassVar[bool] = True  # learn from trials that were pruned
    few_numbers: ClassVar[bool] = True  # search fewer than two keys that are numbers


class TPE(_Sampler):
    name: Literal["tpe"]
    startup_trials: Positive

    def build(self, seed: int, *, conditional: bool, **_: Any) -> "BaseSampler":
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=self.startup_trials, multivariate=True, group=conditional)


class Prior(_Sampler):
    target: ClassVar = "mnist_sweep.sweep.prior_sampler:PriorSampler"

    name: Literal["prior"]
    random: Annotated[float, Field(ge=0, lt=1)]
    step: Rate
    startup_trials: Positive

    def build(self, seed: int, *, prior: Mapping[str, Any], conditional: bool, **_: Any) -> "BaseSampler":
        from optuna.samplers import TPESampler

        model = TPESampler(seed=seed, n_startup_trials=self.startup_trials, multivariate=True, group=conditional)
        settings = {"random": self.random, "step": self.step, "startup_trials": self.startup_trials}
        sampler: BaseSampler = pkgutil.resolve_name(self.target)(prior, seed, model=model, **settings)
        return sampler


class Random(_Sampler):
    name: Literal["random"]

    def build(self, seed: int, **_: Any) -> "BaseSampler":
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class GP(_Sampler):
    name: Literal["gp"]
    startup_trials: Positive
    conditions = pruned = False

    def build(self, seed: int, **_: Any) -> "BaseSampler":
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, n_startup_trials=self.startup_trials)


class CMAES(_Sampler):
    name: Literal["cmaes"]
    startup_trials: Positive
    conditions = several_objectives = choices = constraints = few_numbers = changes = False

    def build(self, seed: int, *, prunes: bool, **_: Any) -> "BaseSampler":
        from optuna.samplers import CmaEsSampler

        return CmaEsSampler(seed=seed, n_startup_trials=self.startup_trials, consider_pruned_trials=prunes)


class NSGA2(_Sampler):
    name: Literal["nsga2"]
    population: Annotated[int, Field(ge=2)]
    pruned = False

    def build(self, seed: int, **_: Any) -> "BaseSampler":
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=self.population)


class QMC(_Sampler):
    name: Literal["qmc"]
    sequence: Literal["sobol", "halton"]
    conditions = choices = False

    def build(self, seed: int, *, study_seed: int, **_: Any) -> "BaseSampler":
        from optuna.samplers import QMCSampler, RandomSampler

        random = RandomSampler(seed=seed)
        # of one seed, since the sequence goes on where the last session ended
        return QMCSampler(qmc_type=self.sequence, scramble=True, seed=study_seed, independent_sampler=random)


class Grid(_Sampler):
    name: Literal["grid"]
    continuous = changes = False

    def build(self, seed: int, **_: Any) -> "BaseSampler":
        from optuna.samplers import BruteForceSampler

        class Grid(BruteForceSampler):
            def after_trial(self, *_: Any, **__: Any) -> None:
                """Do nothing: Optuna's ends `Study.optimize` here, which is not used."""

        return Grid(seed=seed)


Sampler = Annotated[Prior | TPE | Random | GP | CMAES | NSGA2 | QMC | Grid, Field(discriminator="name")]
