"""Requests that cannot be carried out: one line with the key, the value and what is allowed; and what composes."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose

from mnist_sweep.config import command as composition
from mnist_sweep.config.command import compose
from mnist_sweep.config.overrides import assigned, in_shell, override
from mnist_sweep.errors import Interrupted, RequestError, interruptible

ONE_LINE = re.compile(r"^[^\n]*$")

WRONG = [
    ("optimizer.lrr=0.1", "optimizer.lrr=0.1: unknown key; the nearest known one is optimizer.lr"),
    ("learning_rate=0.1", "learning_rate=0.1: unknown key; the nearest known one is optimizer.lr"),
    ("batch_size=0", "batch_size=0: unknown key; the nearest known one is data.batch_size"),
    ("+model.poool=max", "model.poool=max: unknown key; the nearest known one is model.pool"),
    ("+optimizer.lr=0.1", "+optimizer.lr=0.1: optimizer.lr is there already; write it without +"),
    ("optimizer.momentum=0.5", "optimizer=adam has no such key; it has optimizer.betas, optimizer.lr"),
    ("optimizer=adamm", "optimizer=adamm: unknown option; did you mean adam? allowed: adam, adamw, rmsprop, sgd"),
    ("data=imagenet", "data=imagenet: unknown option; allowed: fashion_mnist, kmnist, mnist, mnist5k"),
    ("experiment=nothing", "experiment=nothing: unknown option"),
    ("experiment=null", "experiment=null: unknown option; allowed: accurate, balanced"),
    ("sweep=optuna", "sweep=optuna: a sweep is added to the config; write +sweep=optuna"),
    ("sweep.trials=5", "sweep.trials=5: only within a sweep; add +sweep=optuna"),
    ("sweep/sampler=random", "sweep/sampler=random: only within a sweep; add +sweep=optuna"),
    ("optimizer.lr=fast", "optimizer.lr=fast: should be a valid number"),
    ("trainer.cuda_graphs=maybe", "trainer.cuda_graphs=maybe: should be true, false or 'auto'"),
    ("optimizer.lr=0", "optimizer.lr=0: should be greater than 0"),
    ("optimizer.lr=-0.1", "optimizer.lr=-0.1: should be greater than 0"),
    ("optimizer.lr=inf", "optimizer.lr=inf: should be a finite number"),
    ("model.dropout=1", "model.dropout=1: should be less than 1"),
    ("model.dropout=-0.1", "model.dropout=-0.1: should be greater than or equal to 0"),
    ("data.batch_size=0", "data.batch_size=0: should be greater than or equal to 1"),
    ("data.batch_size=12.5", "data.batch_size=12.5: should be a valid integer"),
    ("data.limit=5", "data.limit=5: should be greater than or equal to 10"),
    ("trainer.max_epochs=0", "trainer.max_epochs=0: should be greater than or equal to 1"),
    ("trainer.precision=16", "trainer.precision=16: should be 32, 'bf16' or 'auto'"),
    ("model.filters=[16,-32]", "model.filters[1]=-32: should be greater than or equal to 1"),
    ("model.filters=16", "model.filters=16: should be a valid list"),
    ("model.kernel_size=4", "model.kernel_size=4: should be odd, so that it can be centred"),
    ("model.kernel_size=[3,4]", "model.kernel_size=[3,4]: should be odd, so that it can be centred"),
    ("model.kernel_size=[3,3,3]", "model.kernel_size=[3, 3, 3]: 3 entries for 2 blocks"),
    ("model.pool_size=[2]", "model.pool_size=[2]: 1 entries for 2 blocks"),
    ("model.pool_size=[14,3]", "model.pool_size=[14, 3]: block 2 pools a 2 × 2 map by 3 and nothing is left"),
    ("model.pool=median", "model.pool=median: should be 'max' or 'avg'"),
    ("model.convolutions=[1]", "model.convolutions=[1]: 1 entries for 2 blocks"),
    ("trainer.ema_decay=1", "trainer.ema_decay=1: should be less than 1"),
    ("model.batch_norm=3", "model.batch_norm=3: should be true or false"),
    ("objective=val/auc", "objective=val/auc: not logged in an epoch; allowed: train/loss, train/accuracy"),
    ("objective=test/accuracy", "objective=test/accuracy: not logged in an epoch"),
    ("name=a/b", "name=a/b: String should match pattern"),
    ("seed=true", "seed=true: should be a valid integer"),
    ("seed=", "seed='': should be a valid integer"),
    ("data.batch_size=32,64", "data.batch_size=32,64: several values need --multirun"),
    ("model.filters=[16", "model.filters=[16: not an override KEY=VALUE"),
    ("epochs", "epochs: not an override KEY=VALUE"),
    ("experiment=[tutorial,fast9]", "experiment=[tutorial,fast9]: unknown option; did you mean fast99? allowed: "),
    ("~data.limit", "~data.limit: it has no value now; write data.limit=null where an experiment gives it one"),
    ("output=müller", """output=müller: the value needs quotes of its own; allowed: "output='müller'\""""),
    ("data.root=~/data", "data.root=~/data: ~ is no folder here; allowed: "),
    ("data.root=~nobody", """data.root=~nobody: the value needs quotes of its own; allowed: "data.root='~nobody'\""""),
    ("name=a(b", """name=a(b: the value needs quotes of its own; allowed: "name='a(b'\""""),
    ("name=2024", """name=2024: should be a text; allowed: "name='2024'\""""),
    ("model=null", "model=null: unknown option; allowed: convnet, lenet5, mlp"),
]


@pytest.mark.parametrize(("item", "said"), WRONG, ids=[item for item, _ in WRONG])
def test_refused_in_one_line(item: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        compose([item])
    line = str(caught.value)
    assert line.startswith(said) if said.startswith(item) else said in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["sweep.trails=5"], "sweep.trails=5: unknown key; the nearest known one is sweep.trials"),
        (["sweep.space.optimizer.lr={choices: [1]}"], "this leaf has other keys; write ++sweep.space.optimizer.lr="),
        (["sweep.trials=0"], "sweep.trials=0: should be greater than or equal to 1"),
        (["sweep/pruner=medain"], "sweep/pruner=medain: unknown option; did you mean median? allowed: asha,"),
        (["sweep.sampler=tpe"], "allowed: a mapping; an option of this group is chosen as sweep/sampler=OPTION"),
        (["sweep.space=refine"], "an option of this group is chosen as sweep/space=OPTION"),
        (["sweep.pruner.startup_trials=3"], "sweep.pruner=asha has no such key; it has sweep.pruner.min_epochs"),
        (["sweep.space.optimizer.lrr.low=1"], "nearest known one is sweep.space.optimizer.lr.low"),
    ],
)
def test_refused_in_a_sweep(items: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=ONE_LINE) as caught:
        compose(["+sweep=optuna", *items])
    assert said in str(caught.value)


def test_a_right_list_of_experiments_is_not_the_fault() -> None:
    with pytest.raises(RequestError, match=r"optimizer\.lrr=1: unknown key"):
        compose(["experiment=[tutorial,fast99]", "optimizer.lrr=1"])


@pytest.mark.parametrize("value", ["/tmp/müller", "~/data", "a=b", "a b", "2024", "it's", "$HOME"])
def test_what_is_typed_in_a_shell_is_read_as_it_was_meant(value: str) -> None:
    said = subprocess.run(
        f"printf %s {in_shell(override('output', value))}", shell=True, capture_output=True, text=True, check=True
    )
    assert assigned([said.stdout]) == {"output": value}


def test_sgd_with_nesterov_needs_momentum() -> None:
    with pytest.raises(RequestError, match=r"optimizer\.momentum=0: allowed only with optimizer\.nesterov=false"):
        compose(["optimizer=sgd", "optimizer.momentum=0"])
    assert compose(["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=false"])


def test_the_last_fault_is_found_among_right_overrides() -> None:
    with pytest.raises(RequestError, match="unknown key; the nearest known one is model"):
        compose(["optimizer=sgd", "optimizer.lr=0.1", "model.filtres=[3]"])


def test_a_map_that_is_convolved_away_is_named() -> None:
    with pytest.raises(RequestError, match=r"model\.padding=valid: block 2 convolves a 2 × 2 map by 3 × 3 and nothing"):
        compose(["model.padding=valid", "model.convolutions=2", "model.kernel_size=[7,3]", "model.pool_size=[7,1]"])


@pytest.mark.untraced
def test_every_option_of_every_group_composes() -> None:
    from mnist_sweep.config.command import CONF

    for group in ("data", "model", "optimizer", "scheduler", "trainer", "tracking", "launcher", "experiment"):
        for file in (CONF / group).glob("*.yaml"):
            compose([f"{group}={file.stem}"])
    for group in ("sweep/space", "sweep/sampler", "sweep/pruner"):
        for file in (CONF / group).glob("*.yaml"):
            compose(["+sweep=optuna", f"{group}={file.stem}"])


def test_a_folder_of_configs_beside_the_own(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    overlay = "# @package _global_\ndefaults:\n  - override /optimizer: sgd\n  - _self_\nseed: 7\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(overlay, encoding="utf-8")
    config = compose(["experiment=mine"], str(tmp_path))
    assert (config.seed, config.optimizer.name) == (7, "sgd")
    with pytest.raises(RequestError, match=r"did you mean mine\? allowed: .*fast99, mine"):
        compose(["experiment=mien"], str(tmp_path))


def test_parameters_carry_the_names_of_the_command_line() -> None:
    parameters = compose(["optimizer=sgd", "model.filters=[8,16,32]"]).parameters()
    assert parameters["optimizer"] == "sgd"
    assert parameters["model.filters"] == [8, 16, 32]
    assert parameters["data.augmentation.rotation"] == 0.0
    assert "optimizer.name" not in parameters


def test_a_signal_waits_until_the_config_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra would turn it into an error of its own, at some moments."""
    heard = []

    def slow(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        heard.append("composed")
        return hydra_compose(*arguments, **options)

    monkeypatch.setattr(composition, "hydra_compose", slow)
    with interruptible(), pytest.raises(Interrupted):
        compose([])
    assert heard == ["composed"]
