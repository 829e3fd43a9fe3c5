"""The command line: what it prints, where, and its exit code."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from mnist_sweep import __main__ as entry
from mnist_sweep import cli
from mnist_sweep.__main__ import main
from mnist_sweep.errors import RequestError
from tests.conftest import ROOT, SMALL, Program

TRACKED = [item for item in SMALL if item != "tracking=none"]
SWEEP = "+sweep=optuna"
#: Where no download gets through.
NOBODY = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The line on standard error that the command line is refused with; nothing else is printed or written."""

    def call(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["mnist_sweep", *arguments])
        before = sorted(tmp_path.rglob("*"))
        assert cli.run_command(main) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return said.err.removeprefix("error: ").rstrip("\n")

    return call


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("optimzer=sgd", "optimzer=sgd: unknown key; the nearest known one is optimizer"),
        ("optimizer.lr=0", "optimizer.lr=0: should be greater than 0"),
        ("model.pool_size=[28,2]", "model.pool_size=[28, 2]: block 2 pools a 1 × 1 map by 2"),
        ("output=/proc/here", "output=/proc/here: /proc cannot be written"),
        ("output=a?b", "output='a?b': String should match pattern"),
        ("output=" + 300 * "a", f"output={300 * 'a'}: "),
        ("data.root=damaged", "data.root=damaged: damaged/MNIST/raw/train-labels-idx1-ubyte is damaged: 3 bytes"),
        ("name=once", "name=once: mlruns/runs/once is there already; allowed: a name not yet taken"),
        ("name=6063e25", "name=6063e25: should be a text; allowed: \"name='6063e25'\""),
        ("name=1_000", "name=1_000: should be a text; allowed: \"name='1_000'\""),
        ("trainer.init_from=none.ckpt", "trainer.init_from=none.ckpt: no such file; allowed: a run's"),
        # sweeps
        (f"{SWEEP} +sweep.space.seed={{choices:[0,1]}}", "sweep.space.seed: the luckiest seed would win"),
        (f"{SWEEP} name=mine", "name=mine: a sweep is named by sweep.name"),
        (f"{SWEEP} test=true", "test=true: a sweep opens the test set for its winner; allowed: null"),
        (f"{SWEEP} sweep.space.model.activation.choices=[relu]", "sweep.space.model.activation."),
        (f"{SWEEP} sweep.space.model.dropout.low=0.9", "sweep.space.model.dropout={low:0.9,high:0.6}: "),
        (f"{SWEEP} sweep.warm_start=elsewhere", "sweep.warm_start=elsewhere: no such study in sqlite:///"),
        (f"{SWEEP} sweep/pruner=threshold sweep.pruner.lower=2 sweep.pruner.upper=1", "sweep.pruner.lower=2: above"),
        # grids
        ("--multirun seed=0,1 optimizer.lr=0.1,-1", "optimizer.lr=-1: should be greater than 0"),
        ("--multirun optimizer=glob(a*) trainer.max_epochs=1,0", "trainer.max_epochs=0: should be greater than"),
        ("--multirun seed=glob(*)", "seed=glob(*): means no value; allowed: at least one"),
        ("--multirun optimizer.lr=interval(0.1,0.2)", "optimizer.lr=interval(0.1,0.2): no grid; allowed: values"),
        ("--multirun seed=0,1 epochs", "epochs: not an override KEY=VALUE"),
        ("--multirun seed=0,1 optimizer.lr=${model.droput}", "optimizer.lr=${model.droput}: Interpolation key"),
        ("--multirun seed=0,1 name=same", "name=same: the same for 2 runs"),
        (f"--multirun {SWEEP} seed=0,1", "sweep.name=sweep: the same for 2 runs"),
        # flags
        ("--nonsense", "unrecognized arguments: --nonsense; python -m mnist_sweep --help tells what is allowed"),
        ("--cfg", "argument --cfg/-c: expected one argument"),
        ("--cfg job optimizer.lrr=1", "optimizer.lrr=1: unknown key; the nearest known one is optimizer.lr"),
        ("--config-name other", "--config-name=other: allowed: --config-dir=FOLDER with experiment=NAME"),
        ("--config-path=mine --cfg job", "--config-path=mine: allowed: --config-dir=FOLDER with"),
        ("hydra.job.chdir=true", "hydra.job.chdir=true: allowed: output=FOLDER, below which everything is written"),
        ("hydra.run.dir=mine", "hydra.run.dir=mine: allowed: output=FOLDER"),
        ("--config-dir nowhere experiment=own", "--config-dir=nowhere: no such folder"),
        ("--config-dir=mine experiment=own optimizer.lrr=1", "optimizer.lrr=1: unknown key"),
        ("--config-dir mine experiment=owm", "experiment=owm: unknown option; did you mean own? allowed: "),
        ("--config-dir mine --multirun experiment=glob(ow*) seed=-1", "seed=-1: should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    refused: Refused, tmp_path: Path, arguments: str, said: str
) -> None:
    for folder in ("damaged/MNIST/raw", "mine/experiment", "mlruns/runs/once"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "damaged/MNIST/raw/train-labels-idx1-ubyte").write_text("cut")
    (tmp_path / "mine/experiment/own.yaml").write_text("# @package _global_\nseed: 3\n")
    assert refused(*arguments.split()).startswith(said)


def test_a_wrong_request_is_answered_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from mnist_sweep import cli; from mnist_sweep.__main__ import main\n"
        "for arguments in (['+sweep=optuna', 'sweep.trials=0'], ['data.root=damaged', 'name=a b']):\n"
        "    sys.argv[1:] = arguments\n"
        "    assert cli.run_command(main) == 2\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'matplotlib', 'pytorch_lightning', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_two_runs_that_begin_together(program: Program, tmp_path: Path) -> None:
    """Each prints only its own lines, without tips or deprecations of a library; they share one MLflow database."""
    with ThreadPoolExecutor(2) as both:
        ends = list(both.map(lambda name: program(*TRACKED, "seed=3", f"name={name}"), ("one", "other")))
    starts = ["mnist5k, trainer.max", "precision: ", "epoch 1 of 1", "the test set is op", "val/accuracy", "reproduce "]
    for name, done in zip(("one", "other"), ends, strict=True):
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"mlruns/runs/{name}/result.json\n"
        lines = done.stderr.removeprefix("loading …\n").removeprefix(f"{name}: ").splitlines()
        assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True)), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]
    one, other = (json.loads((tmp_path / done.stdout.strip()).read_text()) for done in ends)
    assert one["status"] == "finished"
    assert one["metrics"] == other["metrics"]
    assert "test/accuracy" in one["metrics"]
    assert None not in (one["mlflow_run_id"], other["mlflow_run_id"])
    assert one["mlflow_run_id"] != other["mlflow_run_id"]

    again = program(*shlex.split(one["command"])[3:], "tracking=none", PATH="/usr/bin:/bin", HOME=str(tmp_path))
    repeated = json.loads((tmp_path / again.stdout.strip()).read_text())
    assert (repeated["history"], repeated["metrics"]) == (one["history"], one["metrics"])


@pytest.mark.slow
def test_a_grid_goes_on_after_a_run_that_failed(program: Program, tmp_path: Path) -> None:
    diverging = ["optimizer=sgd", "data.batch_size=10", "model.activation=silu"]
    done = program("--multirun", *SMALL, *diverging, "optimizer.lr=1e30,0.01")
    assert done.returncode == 1, done.stderr
    assert "failed: train/loss became nan in epoch 1" in done.stderr
    failed, finished = (json.loads((tmp_path / line).read_text()) for line in done.stdout.split())
    assert (failed["status"], failed["reason"], finished["status"]) == ("failed", "diverged", "finished")
    assert finished["test_opened_at"] is None  # a grid is there to choose from
    *_, title, columns, _, first, second = [line.split() for line in done.stderr.splitlines() if line.strip()]
    assert (" ".join(title), columns[1]) == ("2 runs, the best first", "optimizer.lr")
    assert [first[1], second[1]] == ["0.01", "1e+30"]
    assert (first[-1], second[-1]) == ("finished", "failed")


@pytest.mark.slow
def test_missing_data_is_an_error_or_goes_on_with_the_fallback_and_says_so(program: Program, tmp_path: Path) -> None:
    refused = program("data.fallback=null", **NOBODY)
    assert refused.returncode == 2
    assert "MNIST is not there" in refused.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
    # and the last line is the file's path, whatever the terminal's encoding lacks
    items = [*(item for item in SMALL if not item.startswith("data=")), "output='größe'"]
    done = program(*items, PYTHONIOENCODING="ascii", **NOBODY)
    assert done.returncode == 0, done.stderr
    assert "WARNING: MNIST is neither in data nor to be had" in done.stderr
    result = json.loads((tmp_path / done.stdout.strip()).read_text())
    assert result["dataset"] == "mnist5k"
    assert "data=mnist5k" in result["command"]


@pytest.mark.slow
def test_hydra_explains_the_usual_things_and_shows_the_config(program: Program, tmp_path: Path) -> None:
    helped, shown = program("--help"), program("--cfg", "job", "optimizer=sgd")
    assert (helped.returncode, shown.returncode) == (0, 0), shown.stderr
    for line in (
        *("python -m mnist_sweep +sweep=optuna", "mlflow ui --backend-store-uri", "optimizer: adam, adamw"),
        *("mnist-sweep ui", "mnist-sweep sweeps", "mnist-sweep report FOLDER", "mnist-sweep predict IMAGE"),
    ):
        assert line in helped.stdout
    assert "momentum: 0.9" in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mnist_sweep", "mnist_sweep.predict"])
def test_a_reader_who_has_seen_enough_gets_no_traceback(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_what_the_work_refuses_is_one_line_too(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "sweep.name=sweep: this study was begun otherwise"
    monkeypatch.setattr(entry, "perform", Mock(side_effect=RequestError(said)))
    assert refused("tracking=none") == said


@pytest.mark.slow
def test_closed_streams_and_a_home_in_the_folder_of_configs_are_no_trouble(tmp_path: Path) -> None:
    """Shells leave the ~ of ``--config-dir=~/mine`` as it is; cron and others start programs without streams."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\noptimizer: {lr: 0.01}\n")
    words = [sys.executable, "-m", "mnist_sweep", "--config-dir=~/mine", "experiment=own", *SMALL, "name=it"]
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    line = f"{shlex.join(words)} >&- 2>&-".replace("'--config-dir=~/mine'", "--config-dir=~/mine")
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert json.loads((tmp_path / "mlruns/runs/it/result.json").read_text())["params"]["optimizer.lr"] == 0.01
