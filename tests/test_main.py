"""The command line, as a process: what it prints, where, and its exit code."""

import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_sweep.__main__ import on_data
from mnist_sweep.config.command import compose
from tests.conftest import ROOT, SMALL, Program

RUN = [item for item in SMALL if item != "tracking=none"]


def test_a_run_prints_the_path_of_its_result_last(program: Program, tmp_path: Path) -> None:
    done = program(*SMALL, "name=first")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "mlruns/runs/first/result.json\n"
    result = json.loads((tmp_path / done.stdout.strip()).read_text())
    assert result["status"] == "finished"
    assert "test/accuracy" in result["metrics"]
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_the_printed_command_repeats_the_run(program: Program, tmp_path: Path) -> None:
    first = json.loads((tmp_path / program(*SMALL, "seed=3", "name=first").stdout.strip()).read_text())
    shell = first["command"].replace("python -m", f"{sys.executable} -m", 1)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    again = subprocess.run(
        shell, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    repeated = json.loads((tmp_path / again.stdout.strip()).read_text())
    assert repeated["history"] == first["history"]
    assert repeated["metrics"] == first["metrics"]


def test_nothing_but_our_own_lines(program: Program) -> None:
    """A tracked run: no tips, no deprecations, no telemetry, no lines of the database's."""
    done = program(*RUN, "name=quiet")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == 6, done.stderr
    starts = [
        "quiet: mnist5k, 1 epoch",
        "trained in ",
        "epoch 1 of 1",
        "the test set is opened",
        "val/accuracy",
        "again  ",
    ]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), done.stderr


def test_two_runs_that_begin_together_share_one_account(program: Program, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as both:
        ends = list(both.map(lambda name: program(*RUN, f"name={name}"), ("one", "other")))
    assert [done.returncode for done in ends] == [0, 0]
    assert "tracking:" not in "".join(done.stderr for done in ends)
    runs = {json.loads((tmp_path / done.stdout.strip()).read_text())["mlflow_run_id"] for done in ends}
    assert len(runs - {None}) == 2


def test_a_grid(program: Program, tmp_path: Path) -> None:
    done = program("--multirun", *SMALL, "seed=0,1")
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / line).read_text()) for line in done.stdout.split()]
    assert [result["seed"] for result in results] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lrr=0.1"], "optimizer.lrr=0.1: unknown key; the nearest known one is optimizer.lr"),
        (["optimizer=adamm"], "optimizer=adamm: unknown option; did you mean adam?"),
        (["--config-dir", "damaged", "epochs"], "epochs: not an override KEY=VALUE"),
        (["optimizer.lr=0"], "optimizer.lr=0: should be greater than 0"),
        (["model.pool_size=[28,2]"], "block 2 pools a 1 × 1 map by 2"),
        (["objective=val/auc"], "objective=val/auc: not logged"),
        (["output=/proc/here"], "output=/proc/here: /proc cannot be written"),
        (["data.root=DAMAGED"], "train-labels-idx1-ubyte is damaged: 3 bytes, allowed: 60,008"),
        (["+sweep=optuna", "sweep.trials=0"], "sweep.trials=0: should be greater than or equal to 1"),
        (["+sweep=optuna", "sweep.space.model.dropout.low=0.9"], "low=0.9 is above high=0.6"),
        (["+sweep=optuna", "name=mine"], "name=mine: a sweep is named by sweep.name"),
        (["--multirun", "seed=0,1", "optimizer.lr=0.1,-1"], "optimizer.lr=-1: should be greater than 0"),
        (
            ["--multirun", "optimizer=glob(a*)", "trainer.max_epochs=1,0"],
            "trainer.max_epochs=0: should be greater than",
        ),
        (["--multirun", "seed=glob(*)"], "seed=glob(*): means no value; allowed: at least one"),
        (["--multirun", "optimizer.lr=interval(0.1,0.2)"], "optimizer.lr=interval(0.1,0.2): no grid; allowed: values"),
        (["--multirun", "seed=0,1", "epochs"], "epochs: not an override KEY=VALUE"),
        (["--nonsense"], "unrecognized arguments: --nonsense; python -m mnist_sweep --hydra-help tells what"),
        (["--cfg"], "argument --cfg/-c: expected one argument"),
        (["--multirun", "seed=0,1", "name=same"], "name=same: the same for 2 runs"),
        (["--config-dir", "nowhere", "experiment=own"], "--config-dir=nowhere: no such folder"),
        (["--config-dir", "nowhere"], "--config-dir=nowhere: no such folder"),
        (["--config-dir=mine", "experiment=own", "optimizer.lrr=1"], "optimizer.lrr=1: unknown key"),
        (
            ["--config-dir", "mine", "experiment=owm"],
            "did you mean own? allowed: accurate, balanced, fast99, few, own, ",
        ),
        (["--cfg", "job", "optimizer.lrr=1"], "optimizer.lrr=1: unknown key"),
        (["--multirun", "seed=0,1", "optimizer.lrr=1"], "optimizer.lrr=1: unknown key"),
        (["--multirun", "+sweep=optuna", "seed=0,1"], "sweep.name=sweep: the same for 2 runs"),
        (["seed=1", "model=null"], "model=null: unknown option; allowed: "),
        (["+sweep=optuna", "sweep.warm_start=elsewhere"], "sweep.warm_start=elsewhere: no such study in sqlite:///"),
        (["+sweep=optuna", "~sweep.pruner"], "sweep.pruner is missing"),
        (["--config-dir", "mine", "+sweep=optuna", "experiment=few"], "and no experiment sets keys of it"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: no GPU here that torch can use"),
        (["seed=${nope}"], "seed=${nope}: Interpolation key 'nope' not found"),
        (["--multirun", "seed=0,1", "optimizer.lr=${model.droput}"], "Interpolation key 'model.droput' not found"),
        (["+sweep=optuna", "sweep/pruner=threshold", "sweep.pruner.lower=2", "sweep.pruner.upper=1"], "above upper=1"),
        (["output=a?b"], "output='a?b': allowed: a folder without ? in its path"),
        (["output=" + 300 * "a"], "File name too long"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    program: Program, tmp_path: Path, arguments: list[str], said: str
) -> None:
    root = tmp_path / "damaged"
    (root / "MNIST" / "raw").mkdir(parents=True)
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte").write_text("cut")
    own = tmp_path / "mine" / "experiment"
    own.mkdir(parents=True)
    (own / "own.yaml").write_text("# @package _global_\nseed: 3\n")
    (own / "few.yaml").write_text("# @package _global_\nsweep: {trials: 3}\n")
    before = sorted(tmp_path.rglob("*"))
    done = program(*(argument.replace("DAMAGED", str(root)) for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_request_is_answered_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from mnist_sweep.__main__ import main; sys.argv[1:] = ['+sweep=optuna', 'sweep.trials=0'];"
        "assert main() == 2; heavy = {'torch', 'mlflow', 'optuna', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_a_name_is_taken_once(program: Program, tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "runs" / "once").mkdir(parents=True)
    done = program(*SMALL, "name=once")
    assert done.returncode == 2
    assert done.stderr.startswith("error: name=once: mlruns/runs/once is there already")


def test_without_fallback_missing_data_is_an_error(program: Program, tmp_path: Path) -> None:
    nobody = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = program("data.fallback=null", **nobody)
    assert done.returncode == 2
    assert "MNIST is not there" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_missing_data_goes_on_with_the_fallback_and_says_so(program: Program, tmp_path: Path) -> None:
    nobody = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = program(*[item for item in SMALL if not item.startswith("data=")], **nobody)
    assert done.returncode == 0, done.stderr
    assert "WARNING: MNIST is neither in data nor to be had" in done.stderr
    result = json.loads((tmp_path / done.stdout.strip()).read_text())
    assert result["dataset"] == "mnist5k"
    assert "data=mnist5k" in result["command"]


@pytest.mark.parametrize("named", ["data=mnist", "data.name=mnist", "data={name: mnist, limit: 300}"])
def test_the_fallback_takes_the_place_of_the_data_set_however_it_was_named(named: str) -> None:
    config = compose(on_data([named, "seed=3"], "mnist5k"))
    assert (config.data.name, config.seed) == ("mnist5k", 3)
    assert config.data.limit == (300 if "limit" in named else None)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_as_if_nobody_read(closed: str, tmp_path: Path) -> None:
    code = (
        "import sys; from mnist_sweep import console\n"
        "def command():\n"
        "    with open('kept', 'w') as file:\n"
        "        assert file.fileno() > 2, file.fileno()\n"
        "    print('out'), print('err', file=sys.stderr), sys.stderr.isatty()\n"
        "    return 0\n"
        "console.leave(command)\n"
    )
    shell = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(shell, shell=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False, timeout=60)
    assert done.returncode == 0


def test_a_failure_exits_with_one(program: Program, tmp_path: Path) -> None:
    done = program(*SMALL, "optimizer=sgd", "optimizer.lr=1e30", "data.batch_size=10", "model.activation=silu")
    assert done.returncode == 1
    assert "failed: train/loss became nan in epoch 1" in done.stderr
    assert json.loads((tmp_path / done.stdout.strip()).read_text())["reason"] == "diverged"


def test_help_explains_the_usual_things(program: Program, tmp_path: Path) -> None:
    done = program("--help")
    assert done.returncode == 0
    for line in ("python -m mnist_sweep +sweep=optuna", "mlflow ui --backend-store-uri", "optimizer: adam, adamw"):
        assert line in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["mnist_sweep", "--help"], ["mnist_sweep.inference.predict", "--help"]])
def test_a_reader_who_has_seen_enough_gets_no_traceback(arguments: list[str]) -> None:
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_the_config_can_be_seen(program: Program) -> None:
    done = program("--cfg", "job", "optimizer=sgd")
    assert done.returncode == 0
    assert "momentum: 0.9" in done.stdout
