"""The command line: ``python -m mnist_sweep [overrides]``, one run or a sweep.

Nothing heavy is imported before the request is known to be right.
"""

import argparse
import itertools
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from mnist_sweep import api, cli
from mnist_sweep.config.command import CONF, PROGRAM, CommandLine, not_composed
from mnist_sweep.config.overrides import added
from mnist_sweep.errors import Interrupted, RequestError, RunFailure

log = logging.getLogger("mnist_sweep")


def perform(command: CommandLine) -> int:
    """Carry out one run or a sweep, print the path of its JSON file, and return the exit code."""
    command = api.prepare(command)
    config = command.config
    try:
        if config.sweep is None:
            return _run(command)
        from mnist_sweep.sweep import plan, session

        print(plan.plan(command) if config.sweep.plan else session.sweep(command), flush=True)
        return cli.DONE
    except (Interrupted, RunFailure):
        parts = (config.sweep.name, "sweep.json") if config.sweep else (str(config.name), "result.json")
        if (path := Path(config.output, "runs", *parts)).is_file():  # it had begun, and has recorded itself
            print(path, flush=True)
        raise


def _run(command: CommandLine) -> int:
    from mnist_sweep import run

    config = command.config
    log.info("%s: %s, trainer.max_epochs=%d", config.name, config.data.label, config.trainer.max_epochs)
    result = run.train(command, test=True, progress=True)
    if finished := result.status == "finished":
        best = f"{config.objective} {result.objective:.4f} in epoch {result.best_epoch} of {result.epochs}"
        tested = f"test/accuracy {result.metrics['test/accuracy']:.4f} on {result.dataset}"
        log.info("%s, %s, %.1f s", best, tested, result.seconds)
        log.info("again              %s", result.command)
    else:
        log.error("failed: %s", result.detail)
    print(result.path, flush=True)
    return cli.DONE if finished else cli.FAILED


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
    return flags.parse_args()


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
    sys.argv[1:] = map(added, sys.argv[1:])  # which Hydra composes once more
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own way to hand on exceptions rather than to print them and exit
    codes: list[int] = []

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def task(_: DictConfig) -> None:  # for each point of a grid; not called where something is only shown
        try:  # what came out of here would have a line of Hydra's before it
            codes.append(perform(commands[HydraConfig.get().job.num if flags.multirun else 0]))
        except RequestError as error:
            log.error("error: %s", error)
            codes.append(cli.WRONG)
        except RunFailure as error:
            log.error("failed: %s", error)
            codes.append(cli.FAILED)

    task()
    return max(codes, default=cli.DONE)


if __name__ == "__main__":
    cli.leave(main)
