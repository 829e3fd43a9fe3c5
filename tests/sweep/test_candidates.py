"""A candidate's config is Hydra's, its costs are arithmetic, and what cannot exist is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import override
from mnist_sweep.config.sweep_options import Bound
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.candidates import Candidate, Candidates
from tests.sweep.test_space import default, draws

COMMON = Candidates(CommandLine.of(["data.limit=500", "trainer.patience=2"]), {})


def candidate_of(*overrides: str) -> Candidate:
    """The candidate of a command line that Hydra composes as a whole."""
    return Candidates(CommandLine.of(overrides), {}).make({})


def test_a_candidates_command_line_composes_to_what_was_checked() -> None:
    for values in draws(default("+sweep.space.model.activation={choices:[relu,tanh]}"), 5):
        candidate = COMMON.make(values)
        again = candidate_of(*candidate.command.overrides)
        assert (again.digest, again.costs, again.epochs) == (candidate.digest, candidate.costs, candidate.epochs)
        assert candidate.drawn == [override(key, value) for key, value in values.items()]


def test_a_value_that_refers_to_a_drawn_one_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "linked.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nloss: {label_smoothing: '${model.dropout}'}\n")
    linked = Candidates(CommandLine.of(["experiment=linked"], tmp_path), {})
    for dropout in (0.25, 0.1):  # the first is the config's own
        candidate = linked.make({"model.dropout": dropout})
        assert candidate.digest == candidate_of(f"model.dropout={dropout}", f"loss.label_smoothing={dropout}").digest


def test_the_digest_is_that_of_the_config_but_for_the_seed_and_costs_are_arithmetic() -> None:
    plain = Candidates(CommandLine(), {}).make({"model.dropout": 0.25})
    assert plain.digest == candidate_of("seed=7").digest == candidate_of("trainer.threads=1", "optimizer=adam").digest
    assert plain.digest != candidate_of("model.dropout=0.5").digest
    costs = COMMON.make({"model.filters": [32, 64]}).costs
    assert costs["parameters"] == 421_642
    assert costs["multiply_adds"] == 9 * 32 * 28**2 + 9 * 32 * 64 * 14**2 + 64 * 49 * 128 + 1280


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"model.pool_size": [14, 3]}, "block 2 pools a 2 × 2 map by 3"),
        ({"model.filters": [64]}, "sweep.constraints.parameters={'max': 500000.0}: the network has 1,607,690"),
        ({"optimizer": "adam", "optimizer.momentum": 0.9}, "optimizer.momentum=0.9: only with optimizer=sgd"),
    ],
)
def test_the_impossible_is_refused_in_one_line(values: dict[str, Any], refusal: str) -> None:
    limited = Candidates(CommandLine(), {"parameters": Bound(max=500_000)})
    with pytest.raises(RequestError) as caught:
        limited.make(values)
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)
