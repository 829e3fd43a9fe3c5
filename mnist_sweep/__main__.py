"""The command line: ``python -m mnist_sweep [overrides]``, one run or a sweep.

Nothing heavy is imported before the request is known to be right.
"""

import argparse
import itertools
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from mnist_sweep import api, cli
from mnist_sweep.config.command import CONF, PROGRAM, CommandLine, not_composed
from mnist_sweep.config.overrides import added, assigned, key_of, override, text, with_path_quoted
from mnist_sweep.errors import Interrupted, RequestError, RunFailure

if TYPE_CHECKING:
    from mnist_sweep.config.metrics import Direction
    from mnist_sweep.result import Result

log = logging.getLogger("mnist_sweep")

#: Keys by which Hydra would work in another folder than the one that paths are relative to.
_FOLDERS = {"hydra", "hydra.job", "hydra.job.chdir", "hydra.run", "hydra.run.dir", "hydra.output_subdir"}
_FOLDERS |= {"hydra.sweep", "hydra.sweep.dir", "hydra.sweep.subdir"}


def perform(command: CommandLine, grid: "list[Result] | None" = None) -> int:
    """Carry out one run or a sweep, print the path of its JSON file, and return the exit code.

    A run that belongs to a grid is added to it. It opens the test set only where that is asked for, since a grid is
    there to choose from.
    """
    command = api.prepare(command)
    config = command.config
    log.info("loading …")  # PyTorch and MLflow, which takes seconds
    try:
        if config.sweep is None:
            return _run(command, grid)
        from mnist_sweep.sweep import plan, session

        print(plan.plan(command) if config.sweep.plan else session.sweep(command), flush=True)
        return cli.DONE
    except (Interrupted, RunFailure):
        parts = (config.sweep.name, "sweep.json") if config.sweep else (str(config.name), "result.json")
        if (path := Path(config.output, "runs", *parts)).is_file():  # it had begun, and has recorded itself
            print(path, flush=True)
        raise


def _run(command: CommandLine, grid: "list[Result] | None") -> int:
    from mnist_sweep import run

    config = command.config
    log.info("%s: %s, trainer.max_epochs=%d", config.name, config.data.label, config.trainer.max_epochs)
    test = grid is None if config.test is None else config.test
    result = run.train(command, test=test, progress=True, resume=True)
    if grid is not None:
        grid.append(result)
    if finished := result.status == "finished":
        best = f"{config.objective} {result.objective:.4f} in epoch {result.best_epoch} of {result.epochs}"
        tested = f", test/accuracy {result.metrics['test/accuracy']:.4f}" if test else ""
        log.info("%s%s on %s, %.1f s", best, tested, result.dataset, result.seconds)
        log.info("reproduce          %s", result.command)
    else:
        log.error("failed: %s", result.detail)
    print(result.path, flush=True)
    return cli.DONE if finished else cli.FAILED


def _show(grid: "Sequence[Result]", direction: "Direction") -> None:
    """Print the runs of a grid as a table, the best first, with what differs between them."""
    from mnist_sweep.sweep.summary import print_table

    def rank(result: "Result") -> tuple[bool, float]:
        return result.objective is None, (1 if direction == "minimize" else -1) * (result.objective or 0.0)

    drawn = [assigned(result.overrides) for result in grid]
    keys = [key for key in drawn[0] if len({repr(each.get(key)) for each in drawn}) > 1]
    tested = any("test/accuracy" in result.metrics for result in grid)
    rows = []
    for result in sorted(grid, key=rank):
        scores = [result.objective, *([result.metrics.get("test/accuracy")] if tested else [])]
        drawn_here = assigned(result.overrides)
        values = [text(drawn_here.get(key)) for key in keys]
        cells = ["–" if score is None else f"{score:.4f}" for score in scores]
        rows.append(
            [Path(result.folder).name, *values, *cells, str(result.epochs), f"{result.seconds:.1f}", result.status]
        )
    objective = str(grid[0].objective_metric)
    columns = ["run", *keys, objective, *(["test/accuracy"] if tested else []), "epochs", "seconds", "status"]
    print_table(f"{len(grid)} runs, the best first", columns, rows)


def _flags() -> argparse.Namespace:
    """Hydra's flags (hydra.cc/docs/advanced/hydra-command-line-flags) and the overrides; a wrong flag is refused."""
    flags = cli.Parser(prog=PROGRAM, add_help=False)
    flags.add_argument("overrides", nargs="*")
    for switch in ("help -h", "hydra-help", "version", "resolve", "run -r", "multirun -m", "shell-completion -sc"):
        flags.add_argument(*f"--{switch}".split(), action="store_true")
    for valued in ("package -p", "config-path -cp", "config-name -cn", "config-dir -cd", "experimental-rerun"):
        flags.add_argument(*f"--{valued}".split())
    flags.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    flags.add_argument("--info", "-i", nargs="?", const="all")
    sys.argv[1:] = map(with_path_quoted, sys.argv[1:])  # which Hydra reads, too
    found = flags.parse_args()
    if found.config_dir:  # of which Hydra does not expand a ~, either
        typed, found.config_dir = found.config_dir, str(Path(found.config_dir).expanduser())
        whole, full = re.compile(rf"(?<![^=]){re.escape(typed)}$"), found.config_dir.replace("\\", r"\\")
        sys.argv[1:] = [whole.sub(full, item) for item in sys.argv[1:]]
    for flag in ("config_path", "config_name", "experimental_rerun"):  # which the run would not know of
        if getattr(found, flag):
            given = f"--{flag.replace('_', '-')}={getattr(found, flag)}"
            raise RequestError(
                f"{given}: allowed: --config-dir=FOLDER with experiment=NAME of FOLDER/experiment/NAME.yaml"
            )
    for item in found.overrides:
        if key_of(item) in _FOLDERS:
            raise RequestError(f"{item}: allowed: output=FOLDER, below which everything is written")
    return found


def _points(overrides: Sequence[str], config_dir: str | None) -> list[CommandLine]:
    """The runs of a ``--multirun`` grid, in Hydra's order."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise RequestError(not_composed(error, overrides)) from error
    values = [_values(each, config_dir) if each.is_sweep_override() else [str(each.input_line)] for each in parsed]
    return [CommandLine.of(point, config_dir) for point in itertools.product(*values)]


def _values(grid: Override, config_dir: str | None) -> list[str]:
    """The overrides, with one value each, that one with several values stands for."""
    if not grid.is_discrete_sweep():
        raise RequestError(f"{grid.input_line}: no grid; allowed: values one by one, as a,b or range(1,4)")
    pattern: Any = grid.value()
    if isinstance(pattern, Glob):
        folders = [folder / grid.key_or_group for folder in (CONF, Path(config_dir or CONF))]
        values = pattern.filter(sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}))
    else:
        values = list(grid.sweep_string_iterator())
    if not values:
        raise RequestError(f"{grid.input_line}: means no value; allowed: at least one")
    return [f"{grid.get_key_element()}={value}" for value in values]


def main() -> int:
    """Do what the arguments of the process ask for, and return the exit code."""
    flags = _flags()
    if sys.stderr.isatty() and not (flags.cfg or flags.info or flags.help or flags.hydra_help or flags.version):
        print("loading …", end="\r", file=sys.stderr, flush=True)  # the next line takes its place
    one = CommandLine.of(flags.overrides, flags.config_dir)
    commands = _points(flags.overrides, flags.config_dir) if flags.multirun else [one]
    if flags.cfg or flags.info:
        _ = one.config  # refused here in one line, where it cannot be composed
    elif not (flags.help or flags.hydra_help or flags.version or flags.shell_completion):
        for command in commands:  # all points of a grid before the first is run
            api.check(command)
        names = [f"sweep.name={c.config.sweep.name}" if c.config.sweep else f"name={c.config.name}" for c in commands]
        if twice := [name for name in names if name != "name=None" and names.count(name) > 1]:
            raise RequestError(f"{twice[0]}: the same for {len(twice)} runs; allowed: one name each")
    if flags.multirun and not flags.cfg:  # where Hydra keeps what it knows of the grid
        sys.argv.append(override("hydra.sweep.dir", f"{commands[0].config.output}/multirun"))
    here = Path.cwd()
    sys.argv[1:] = map(added, sys.argv[1:])  # which Hydra composes once more
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own way to hand on exceptions rather than to print them and exit
    codes: list[int] = []
    grid: list[Result] | None = [] if flags.multirun else None

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def task(_: DictConfig) -> None:  # for each point of a grid; not called where something is only shown
        os.chdir(here)  # whatever a file of configs says of Hydra's own folders
        try:  # what came out of here would have a line of Hydra's before it
            codes.append(perform(commands[HydraConfig.get().job.num if flags.multirun else 0], grid))
        except RequestError as error:
            log.error("error: %s", error)
            codes.append(cli.WRONG)
        except RunFailure as error:
            log.error("failed: %s", error)
            codes.append(cli.FAILED)

    task()
    if grid:
        _show(grid, commands[0].config.direction)
    return max(codes, default=cli.DONE)


if __name__ == "__main__":
    cli.leave(main)
