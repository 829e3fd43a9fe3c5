"""A proposal's config is Hydra's, and impossible ones are refused by arithmetic."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.config import command as composition
from mnist_sweep.config.command import compose
from mnist_sweep.config.overrides import override
from mnist_sweep.config.schema import Config, MLflow
from mnist_sweep.config.sweep_options import Bound
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep import candidates as proposals_module
from mnist_sweep.sweep.candidates import Proposals
from mnist_sweep.sweep.space import Space

SWEEP = [
    "+sweep=optuna",
    "+sweep.space.model.activation={choices:[relu,tanh]}",
    "+sweep.space.model.batch_norm={choices:[true,false]}",
]


@pytest.fixture(scope="module")
def space() -> Space:
    return Space.of(compose(SWEEP), SWEEP)


@pytest.fixture(scope="module")
def proposals() -> Proposals:
    return Proposals(["data.limit=500", "trainer.patience=2"], None, {})


@pytest.mark.untraced
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_quick_way_composes_what_hydra_composes(space: Space, proposals: Proposals, seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = space.suggest(study.ask())
    proposal = proposals.make(values)
    assert proposals.config(values) == compose(proposal.overrides)
    assert proposal.drawn == [override(key, value) for key, value in values.items()]


#: Most of their combinations are impossible, for all kinds of reasons.
WILD = st.fixed_dictionaries(
    {},
    optional={
        "model.filters": st.lists(st.integers(0, 70), min_size=1, max_size=4),
        "model.kernel_size": st.one_of(st.integers(0, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4)),
        "model.pool_size": st.one_of(st.integers(0, 5), st.lists(st.integers(1, 14), min_size=1, max_size=4)),
        "model.padding": st.sampled_from(["same", "valid", "none"]),
        "model.dropout": st.sampled_from([0.1, 1, 2.5, -1e-7]),
        "optimizer.lr": st.floats(-1, 10),
        "data.augmentation": st.dictionaries(st.sampled_from(["rotation", "shift", "scale"]), st.floats(-0.5, 0.9)),
        "trainer.max_epochs": st.integers(-1, 5),
        "optimizer": st.sampled_from(["adam", "sgd"]),
    },
)


@pytest.mark.untraced
@settings(max_examples=30, deadline=None)
@given(values=WILD)
def test_the_quick_way_refuses_what_hydra_refuses(proposals: Proposals, values: dict[str, object]) -> None:
    def outcome(make: Callable[[], Config]) -> Config | str:
        try:
            return make()
        except RequestError as error:
            return str(error)

    items = [*proposals.given, *(override(key, value) for key, value in values.items())]
    expected = outcome(lambda: compose(items))
    for _ in range(2):
        assert outcome(lambda: proposals.config(values)) == expected


def test_a_refusal_needs_no_composing(monkeypatch: pytest.MonkeyPatch) -> None:
    proposals, impossible = Proposals([], None, {}), Proposals(["model.pool_size=[14,14,3]"], None, {})
    proposals.make({"model.pool_size": [2, 2]})
    with pytest.raises(RequestError) as first:
        impossible.make({"model.filters": [8]})
    monkeypatch.setattr(proposals_module, "compose", None)
    with pytest.raises(RequestError, match="block 2 pools a 2 × 2 map by 3"):
        proposals.make({"model.pool_size": [14, 3]})
    with pytest.raises(RequestError) as again:
        impossible.make({"model.filters": [8]})
    assert str(first.value) == str(again.value)


def test_a_value_that_refers_to_a_drawn_one_follows_it(tmp_path: Path) -> None:
    overlay = tmp_path / "experiment" / "linked.yaml"
    overlay.parent.mkdir()
    overlay.write_text("# @package _global_\nloss: {label_smoothing: '${model.dropout}'}\n")
    linked = Proposals(["experiment=linked"], str(tmp_path), {})
    for dropout in (0.25, 0.1, 0.2):  # the first is the config's own
        assert linked.config({"model.dropout": dropout}).loss.label_smoothing == dropout


def test_a_drawn_option_keeps_what_was_set_within_its_group() -> None:
    proposals = Proposals(["data=mnist5k", "optimizer={lr: 0.02}"], None, {})
    for name in ("adam", "sgd"):
        proposal = proposals.make({"optimizer": name})
        assert compose(proposal.overrides).optimizer.lr == 0.02
        assert proposals.config(proposal.values).optimizer.lr == 0.02


def test_a_drawn_mapping_leaves_what_it_does_not_name() -> None:
    proposals = Proposals([], None, {})
    whole = {"rotation": 10.0, "shift": 0.1, "scale": 0.1}
    assert proposals.config({"data.augmentation": whole}).data.augmentation.model_dump() == whole
    partial = proposals.config({"data.augmentation": {"rotation": 20.0}})
    assert partial == compose(["data.augmentation={rotation:20.0}"])


@pytest.mark.parametrize(
    ("value", "follows"),
    [
        ("${model.dropout}", True),
        ("${model}", True),
        ("a${..model.dropout}", True),
        ("${hydra:job.name}", True),
        ("${oc.env:HOME,${model.dropout}}", True),
        ("${oc.env:HOME,nowhere}", False),
        ("${data.name}", False),
        ("${model.dropouts}", False),
        ("dropout", False),
    ],
)
def test_what_follows_a_drawn_value(value: str, follows: bool) -> None:
    links = composition._links({"a": [{"b": value}], "c": 1.0})
    assert any(proposals_module._follows(link, "model.dropout") for link in links) == follows


def test_a_link_to_what_is_not_drawn_leaves_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    proposals = Proposals(["tracking.experiment='on-${data.name}'"], None, {})
    proposals.config({"model.dropout": 0.1})
    monkeypatch.setattr(proposals_module, "compose", None)
    config = proposals.config({"model.dropout": 0.2})
    assert isinstance(config.tracking, MLflow)
    assert (config.model.dropout, config.tracking.experiment) == (0.2, "on-mnist")


def test_the_digest_is_that_of_the_resolved_config_but_for_the_seed() -> None:
    plain = Proposals([], None, {}).make({"model.dropout": 0.25})
    assert plain.digest == Proposals(["seed=7"], None, {}).make({}).digest
    assert plain.digest == Proposals(["trainer.threads=1"], None, {}).make({"optimizer": "adam"}).digest
    assert plain.digest != Proposals([], None, {}).make({"model.dropout": 0.5}).digest


def test_costs_by_arithmetic(proposals: Proposals) -> None:
    costs = proposals.make({"model.filters": [32, 64]}).costs
    assert costs["parameters"] == 421_642
    assert costs["multiply_adds"] == 9 * 32 * 28**2 + 9 * 32 * 64 * 14**2 + 64 * 49 * 128 + 1280


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model.pool_size": [14, 3]}, "block 2 pools a 2 × 2 map by 3"),
        ({"model.filters": [8, 16], "model.kernel_size": [3]}, "model.kernel_size=[3]: 1 entries for 2 blocks"),
        ({"model.filters": [64]}, "the network has 1,607,690"),
        ({"optimizer": "adam", "optimizer.momentum": 0.9}, "optimizer=adam has no such key"),
    ],
)
def test_the_impossible_is_refused_in_one_line(values: dict[str, object], said: str) -> None:
    limited = Proposals([], None, {"parameters": Bound(max=500_000)})
    with pytest.raises(RequestError) as caught:
        limited.make(values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
