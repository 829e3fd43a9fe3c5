"""The command line: ``python -m mnist_sweep [overrides]``.

Nothing heavy is imported before the request is known to be right.
"""

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_sweep import cli as console
from mnist_sweep.config import schema
from mnist_sweep.config.command import CONF, compose, explain
from mnist_sweep.config.overrides import assigned, key_of, override, replaced, without
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, interruptible
from mnist_sweep.training import datasets

log = logging.getLogger("mnist_sweep")


def check(given: Sequence[str], config_dir: str | None) -> schema.Config:
    """The config of a request that can be carried out; nothing has been written.

    Raises:
        RequestError: in one line, what is wrong and what is allowed.
    """
    config = compose(given, config_dir)
    runs = Path(config.output) / "runs"
    console.check_writable(f"output={config.output}", runs)
    from mnist_sweep.sweep.workers import resources as machine

    machine.check(config)
    if config.sweep:
        from mnist_sweep.sweep.space import Space

        space = Space.of(config, given)
        if config.name is not None:
            raise RequestError(f"name={config.name}: a sweep is named by sweep.name")
        from mnist_sweep.sweep import initial_trials as queue
        from mnist_sweep.sweep import samplers as methods

        methods.check(config.sweep, space, len(config.sweep.objectives or [config.objective]))
        common = without(given, "sweep", "launcher")
        compose(common, config_dir)  # what the trials have in common
        queue.first(config.sweep, space, common, config_dir)
    elif config.name is not None and (runs / config.name).exists():
        raise RequestError(f"name={config.name}: {runs / config.name} is there already; allowed: a name not yet taken")
    datasets.verify(config.data)
    return config


def on_data(given: Sequence[str], name: str) -> list[str]:
    """The overrides of a request with another data set, however it has named its own."""
    items = [item for item in given if key_of(item) != "data.name"]
    within = "data.name" in assigned(items)  # as data={name: mnist}
    return replaced(items, [override("data", name), *([override("data.name", name)] if within else [])])


def perform(given: Sequence[str], config_dir: str | None) -> int:
    """One run or a sweep; the path of its JSON file goes to standard output.

    Returns:
        The exit code.
    """
    items = list(given)
    config = check(items, config_dir)
    used = datasets.obtain(config.data)
    if used != config.data.name:
        items = on_data(items, used)
        config = compose(items, config_dir)
    if config.sweep and config.sweep.plan:
        from mnist_sweep.sweep.plan import plan

        print(plan(config, items, config_dir), flush=True)
        return console.DONE
    if config.sweep:
        from mnist_sweep.sweep.driver import sweep

        try:
            print(sweep(config, items, config_dir), flush=True)
        except RequestError:  # nothing was begun
            raise
        except BaseException:
            _print(Path(config.output) / "runs" / config.sweep.name / "sweep.json")
            raise
        return console.DONE
    from mnist_sweep.run import run
    from mnist_sweep.run_record import folder_of

    if config.name is None:
        made = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        items = replaced(items, [override("name", made)])
        config = compose(items, config_dir)
    epochs = config.trainer.max_epochs
    log.info("%s: %s, %d epoch%s", config.name, config.data.name, epochs, "s" * (epochs != 1))
    try:
        result = run(config, items, config_dir=config_dir, open_test=True, progress=True)
    except Interrupted:
        _print(folder_of(config) / "result.json")
        raise
    if result.status == "finished":
        log.info(
            "%s %.4f in epoch %d of %d, test/accuracy %.4f on %s, %.1f s",
            config.objective, result.objective, result.best_epoch, result.epochs, result.metrics["test/accuracy"],
            result.dataset, result.seconds,
        )  # fmt: skip
        log.info("again              %s", result.command)
    else:
        log.error("failed: %s", result.detail)
    print(result.path, flush=True)
    return console.DONE if result.status == "finished" else console.FAILED


def _print(path: Path) -> None:
    """Where what was interrupted has recorded itself, if it had begun."""
    if path.is_file():
        print(path, flush=True)


class CheckGrid(Callback):
    """Checks every point of a ``--multirun`` grid before the first is run."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = _config_dir(config.hydra.runtime.config_sources)
        try:
            checked = [check(point, folder) for point in _points(_as_given(config.hydra.overrides.task))]
            names = [override("sweep.name", c.sweep.name) if c.sweep else override("name", c.name) for c in checked]
            for name in names:
                if name != "name=null" and names.count(name) > 1:
                    raise RequestError(f"{name}: the same for {names.count(name)} runs; allowed: one name each")
        except RequestError as error:  # Hydra makes warnings of a callback's exceptions
            log.error("error: %s", error)
            sys.exit(console.WRONG)
        except HydraException as error:
            log.error("error: %s", explain(error, _as_given(config.hydra.overrides.task), folder))
            sys.exit(console.WRONG)


def _as_given(overrides: Any) -> list[str]:
    """The overrides of the command line; what they refer to is looked up anew in the config of each trial."""
    plain = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(plain, list)
    return [str(item) for item in plain]


def _points(given: Sequence[str]) -> list[list[str]]:
    """The runs of a ``--multirun`` grid, each as overrides.

    Raises:
        RequestError: values that do not come one by one, or none.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    running = GlobalHydra.instance()  # knows the options that a glob means
    loader = running.config_loader() if running.is_initialized() else None
    parsed = OverridesParser.create(loader).parse_overrides(list(given))
    for each in parsed:
        if each.is_sweep_override() and not each.is_discrete_sweep():
            raise RequestError(f"{each.input_line}: no grid; allowed: values one by one, as a,b or range(1,4)")
        if loader and each.is_sweep_override() and not [*each.sweep_string_iterator()]:
            raise RequestError(f"{each.input_line}: means no value; allowed: at least one")
    return [list(point) for batch in BasicSweeper.split_arguments(parsed, None) for point in batch]


def _why(error: Exception) -> str:
    """In one line, what Hydra would not compose."""
    flags = get_args_parser().parse_args()
    given, folder = flags.overrides, flags.config_dir
    if flags.multirun:
        with contextlib.suppress(HydraException, RequestError):  # one of them is no override, as will be said
            given = _points(given)[0]
    return explain(error, given, folder)


def _config_dir(sources: Sequence[Any]) -> str | None:
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)


def _check_flags() -> None:
    """Refuse in one line what Hydra's own parser would answer with a page.

    Raises:
        RequestError: an unknown flag, or one without its value.
    """

    def refuse(message: str) -> NoReturn:
        raise RequestError(f"{message}; python -m mnist_sweep --hydra-help tells what is allowed")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args()


def main() -> int:
    """Returns: the exit code."""
    console.say_on_stderr()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own way to hand on errors rather than to print and exit
    codes: list[int] = []

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def task(_: DictConfig) -> None:
        now = HydraConfig.get()
        try:
            codes.append(perform(_as_given(now.overrides.task), _config_dir(now.runtime.config_sources)))
        except RequestError as error:
            log.error("error: %s", error)
            codes.append(console.WRONG)
        except RunFailure as error:
            log.error("failed: %s", error)
            codes.append(console.FAILED)
        except BrokenPipeError:  # nobody reads any more, which is no bug: `console.leave`
            raise
        except Exception:  # a bug, which must not pass for a wrong request below
            log.exception("failed")
            codes.append(console.FAILED)

    try:
        _check_flags()
        with interruptible():
            task()
    except Interrupted as error:
        log.error("interrupted by %s", error)
        return error.exit_code
    except RequestError as error:
        log.error("error: %s", error)
        return console.WRONG
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        log.error("error: %s", _why(error))
        return console.WRONG
    return max(codes, default=console.DONE)


if __name__ == "__main__":
    console.leave(main)
