"""A command line: what it composes to, how it is changed, and in which one line a wrong one is refused."""

import itertools
import pickle
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnist_sweep.config import options
from mnist_sweep.config.command import CONF, CommandLine
from mnist_sweep.errors import RequestError

SWEEP = "+sweep=optuna"


def refused(*items: str, config_dir: Path | None = None) -> str:
    """The line that a command line is refused with."""
    with pytest.raises(RequestError) as caught:
        CommandLine.of(items, config_dir).config  # noqa: B018
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        # Hydra's own refusals, some with a suggestion
        ("optimizer.lrr=0.1", "unknown key; the nearest known one is optimizer.lr"),
        ("learning_rate=0.1", "unknown key; the nearest known one is optimizer.lr"),
        ("batch_size=0", "unknown key; the nearest known one is data.batch_size"),
        ("+optimizer.lr=0.1", "Could not append to config. An item is already at 'optimizer.lr'. Either remove +"),
        ("optimizer.momentum=0.5", "only with optimizer=sgd or optimizer=rmsprop"),
        ("optimizer=adamm", "unknown option; did you mean adam? allowed: adam, adamw, rmsprop, sgd"),
        ("data=imagenet", "unknown option; allowed: arrays, cifar10, cifar100, digits8x8, emnist_balanced"),
        ("experiment=[tutorial,fast9]", "unknown option; did you mean fast99? allowed: accurate, balanced"),
        ("experiment=null", "Config group override must be a string or a list."),
        ("sweep=optuna", "Could not override 'sweep'. No match in the defaults list. To append to your default list"),
        ("sweep.trials=5", "only within a sweep; add +sweep=optuna"),
        ("sweep/sampler=random", "only within a sweep; add +sweep=optuna"),
        ("data.batch_size=32,64", "Ambiguous value for argument 'data.batch_size=32,64' 1. To use it as a list"),
        ("seed=${nope}", "Interpolation key 'nope' not found"),
        # what is no override
        ("model.filters=[16", "not an override KEY=VALUE"),
        ("epochs", "not an override KEY=VALUE"),
        ("output=müller", """not an override KEY=VALUE; special characters need quotes, as "KEY='VALUE'\""""),
        # types and bounds
        ("optimizer.lr=fast", "should be a valid number"),
        ("optimizer.lr=0", "should be greater than 0"),
        ("optimizer.lr=inf", "should be a finite number"),
        ("model.dropout=1", "should be less than 1"),
        ("data.batch_size=12.5", "should be a valid integer"),
        ("data.limit=5", "should be greater than or equal to 10"),
        ("trainer.cuda_graphs=maybe", "should be true, false or 'auto'"),
        ("trainer.precision=16", "should be 32, 'bf16' or 'auto'"),
        ("model.filters=16", "should be a valid list"),
        ("model.kernel_size=4", "should be odd, so that it can be centred"),
        ("model.pool=median", "should be 'max' or 'avg'"),
        ("model.batch_norm=3", "should be a valid boolean"),
        ("objective=test/accuracy", "should be one of train/loss, train/accuracy, val/loss"),
        ("name=a/b", "String should match pattern"),
        ("name=2024", """should be a text; allowed: "name='2024'\""""),
        ("seed=true", "should be a valid integer"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line_that_begins_with_it(item: str, said: str) -> None:
    assert refused(item).startswith(f"{item}: {said}")


@pytest.mark.parametrize(
    ("items", "line"),
    [
        (["model.filters=[16,-32]"], "model.filters[1]=-32: should be greater than or equal to 1"),
        (["+model.poool=max"], "model.poool=max: unknown key; the nearest known one is model.pool"),
        (["data.name=imagenet"], "data.name=imagenet: should be one of mnist, fashion_mnist, kmnist, mnist5k"),
        (["optimizer=sgd", "optimizer.lr=0.1", "model.filtres=[3]"], "model.filtres=[3]: unknown key; the nearest"),
        (["experiment=[tutorial,fast99]", "optimizer.lrr=1"], "optimizer.lrr=1: unknown key"),
        (["optimizer=sgd", "optimizer.momentum=0"], "optimizer.momentum=0: allowed only with optimizer.nesterov=false"),
        ([SWEEP, "sweep.trails=5"], "sweep.trails=5: unknown key; the nearest known one is sweep.trials"),
        ([SWEEP, "sweep.trials=0"], "sweep.trials=0: should be greater than or equal to 1"),
        ([SWEEP, "sweep/pruner=medain"], "sweep/pruner=medain: unknown option; did you mean median? allowed: asha,"),
        ([SWEEP, "sweep.sampler=tpe"], "sweep.sampler=tpe: allowed: a mapping; an option of this group is chosen as"),
        ([SWEEP, "~sweep.pruner"], "sweep.pruner is missing"),
        ([SWEEP, "sweep.pruner.startup_trials=3"], "sweep.pruner.startup_trials=3: only with sweep/pruner=median or"),
        ([SWEEP, "sweep.space.seed={low: 1}"], "sweep.space.seed={low: 1}: seed is not searched, being no part"),
        ([SWEEP, "sweep.objectives=[{metric: seconds, direction: minimize}]", "sweep.winner.rule=val/loss"],
         "sweep.winner.rule=val/loss: allowed: null, or one of the metrics of sweep.objectives (seconds)"),
        ([SWEEP, "sweep.constraints={seconds: {min: 2, max: 1}}"],
         "sweep.constraints.seconds={min:2,max:1}: allowed: {min: NUMBER}, {max: NUMBER}, or both with min at most"),
        # networks that cannot exist, with the block and the sizes
        (["model.kernel_size=[3,3,3]"], "model.kernel_size=[3, 3, 3]: 3 entries for 2 blocks"),
        (["model.pool_size=[14,3]"], "model.pool_size=[14, 3]: block 2 pools a 2 × 2 map by 3 and nothing is left"),
        (["model.padding=valid", "model.convolutions=2", "model.kernel_size=[7,3]", "model.pool_size=[7,1]"],
         "model.padding=valid: block 2 convolves a 2 × 2 map by 3 × 3 and nothing is left"),
    ],
)  # fmt: skip
def test_the_line_names_the_key_at_fault(items: list[str], line: str) -> None:
    assert refused(*items).startswith(line)


def test_every_option_of_every_group_composes() -> None:
    options = [file.relative_to(CONF).with_suffix("") for file in CONF.rglob("*.yaml") if file.parent != CONF]
    items: dict[Path, list[str]] = {}
    for option in options:
        items.setdefault(option.parent, []).append(f"{option.parent}={option.stem}")
    of_sweeps = [items.pop(Path("sweep", group)) for group in ("sampler", "pruner", "space")]
    for item in itertools.chain(*items.values()):
        if item not in ("model=custom", "data=folder", "data=arrays"):  # to be told which
            assert CommandLine.of([item.replace("sweep=", "+sweep=")]).config
    for group in itertools.zip_longest(*of_sweeps):
        assert CommandLine.of([SWEEP, *filter(None, group)]).config.sweep


def test_a_further_folder_of_configs(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /optimizer: sgd\n  - _self_\nseed: 7\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    config = CommandLine.of(["experiment=mine"], tmp_path).config
    assert (config.seed, config.optimizer.name) == (7, "sgd")
    line = refused("experiment=mien", config_dir=tmp_path)
    assert re.fullmatch(r"experiment=mien: unknown option; did you mean mine\? allowed: .*fast99, mine, .*", line)
    assert refused(config_dir=tmp_path / "no") == f"--config-dir={tmp_path / 'no'}: no such folder"
    (tmp_path / "experiment" / "few.yaml").write_text("# @package _global_\nsweep: {trials: 3}\n", encoding="utf-8")
    line = refused("experiment=few", config_dir=tmp_path)
    assert line == "sweep.name is missing: a sweep's config comes with +sweep=optuna"


def test_a_new_override_takes_the_place_of_the_old() -> None:
    command = CommandLine.of(["seed=1", "model.pool=avg", "+seed=3"]).add("seed=4")
    assert command.overrides == ("model.pool=avg", "seed=4")
    assert command.with_({"model.pool": "max"}, seed=5).overrides == ("model.pool=max", "seed=5")
    command = CommandLine.of(["optimizer={lr: 0.02}", "optimizer=adam", "seed=1"])  # a group's option and its values
    assert command.add("optimizer=sgd", "seed=4").overrides == ("optimizer={lr: 0.02}", "optimizer=sgd", "seed=4")
    assert command.add("optimizer={lr: 0.1}").overrides == ("optimizer=adam", "seed=1", "optimizer={lr: 0.1}")


def test_without_takes_what_lies_below_too() -> None:
    command = CommandLine.of([SWEEP, "sweep.trials=3", "sweep/sampler=random", "seed=1", "name=x"])
    assert command.without("sweep", "name").overrides == ("seed=1",)


@pytest.mark.parametrize(
    "values",
    [
        {"model.filters": [8], "optimizer.lr": 0.1, "name": "it's", "output": "${seed}"},
        {"data.batch_size": 7, "data.augmentation": {"shift": 0.1}, "trainer.patience": None},
        {"optimizer": "sgd", "optimizer.momentum": 0.3},
        {"optimizer.momentum": 0.3},  # of another option
        {"seed": -1},
        {"output": "elsewhere"},  # which the default of tracking.uri refers to
    ],
)
def test_single_values_change_a_composed_config_as_hydra_would(values: dict[str, Any]) -> None:
    def outcome(command: CommandLine) -> Any:
        try:
            return command.config
        except RequestError as error:
            return str(error)

    base = CommandLine.of(["tracking=mlflow", "model.filters=[4]", "model={dropout: 0.1}"])
    assert base.config.parameters()["model.filters"] == [4]
    changed = base.with_(values)
    assert outcome(changed) == outcome(CommandLine.of(changed.overrides))


def test_it_survives_a_shell_and_another_process() -> None:
    command = CommandLine.of(["model.filters=[16,32]", "data.root='/a b/c'"], "/my conf")
    assert shlex.split(command.shell()) == [
        "python", "-m", "mnist_sweep", "--config-dir", "/my conf", *command.overrides
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(command)) == command


def test_parameters_have_the_names_of_the_command_line() -> None:
    config = CommandLine.of(["optimizer=sgd", "model.filters=[8,16,32]"]).config
    parameters = config.parameters()
    wanted = {"optimizer": "sgd", "model.filters": [8, 16, 32], "data.augmentation.rotation": 0.0}
    assert parameters.items() >= wanted.items()
    assert parameters["model"] == "convnet"
    assert not {"optimizer.name", "model.name", "name", "launcher"} & set(parameters)
    assert set(parameters) - set(config.relevant()) == {
        "output", "tracking", "tracking.uri", "tracking.experiment", "trainer.threads", "trainer.accelerator",
        "trainer.cuda_graphs", "data.root", "data.fallback",
    }  # fmt: skip


def test_the_config_is_read_back_from_its_own_file() -> None:
    config = CommandLine.of([SWEEP, "scheduler=onecycle", "trainer.precision=bf16"]).config
    plain: Any = yaml.safe_load(yaml.safe_dump(config.plain(), sort_keys=False))
    assert type(config).model_validate(plain) == config
    assert "name" not in plain["model"]


def test_a_command_line_in_the_place_of_another_session_trains_the_same() -> None:
    trial = CommandLine.of(["output=old", "tracking=none", "data.root=/old", "trainer.accelerator=gpu", "seed=3"])
    here = CommandLine.of(["output=new", "tracking.uri=sqlite:///x.db", "trainer.threads=2", "seed=1"])
    assert trial.placed_as(here).overrides == (
        "seed=3",
        "output=new",
        "tracking.uri=sqlite:///x.db",
        "trainer.threads=2",
    )
    assert trial.placed_as(here, "output").overrides == (*trial.overrides[1:], "output=new")
    assert trial.placed_as(trial) == trial


@pytest.mark.parametrize(
    ("value", "uri", "experiment"), [("https://a:5", "https://a:5", "https://a:5"), ("", None, "mnist_sweep")]
)
def test_mlflows_own_variables_are_the_defaults_of_tracking(
    monkeypatch: pytest.MonkeyPatch, value: str, uri: str | None, experiment: str
) -> None:
    """An empty one counts as none."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", value)
    tracking = CommandLine.of(["output=out"]).config.tracking
    assert isinstance(tracking, options.MLflow)
    assert (tracking.uri, tracking.experiment) == (uri or "sqlite:///out/mlflow.db", experiment)
    given = CommandLine.of(["tracking.experiment=mine"]).config.tracking
    assert isinstance(given, options.MLflow)
    assert given.experiment == "mine"
