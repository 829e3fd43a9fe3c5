"""The sweeps of a folder: ``mnist-sweep sweeps [FOLDER]``, ``mnist-sweep sweeps delete NAME [--output FOLDER]``."""

import argparse
import sys
from pathlib import Path

from mnist_sweep import cli
from mnist_sweep.errors import RequestError, RunFailure, one_line


def perform(options: argparse.Namespace) -> int:
    """List the sweeps of a folder, or delete one of them."""
    match options.words:
        case ["delete", name]:
            return _delete(name, Path(options.output), sure=options.yes)
        case ["delete", *_] | [_, _, *_]:
            raise RequestError(f"{' '.join(options.words)}: allowed: FOLDER, or delete NAME; one of them")
    from mnist_sweep.sweep import catalogue, summary

    output = Path(*options.words or [options.output])
    found = catalogue.sweeps(output)
    summary.print_table(f"the sweeps in {output}", catalogue.Listed._fields, found, stderr=False)
    return cli.DONE


def _delete(name: str, output: Path, *, sure: bool) -> int:
    from mnist_sweep.sweep import catalogue

    with catalogue.held(output, name) as found:
        if not sure:
            told = f"its study, {len(found.folders)} folders in {output / 'runs'} and its runs in MLflow"
            print(f"delete the sweep {name}: {told}? [y/N] ", end="", file=sys.stderr, flush=True)
            answer = sys.stdin.readline()
            if not answer:
                print(file=sys.stderr)  # so that the error has a line of its own
                raise RequestError(f"delete {name}: asks first, and nobody answers; allowed: with --yes")
            if answer.strip().lower() not in ("y", "yes"):
                print("nothing is deleted")
                return cli.DONE
        try:
            print(found.delete())
        except Exception as error:  # MLflow's, SQLAlchemy's, the system's
            raise RunFailure("error", f"delete {name}: {one_line(error)}; the same command goes on with it") from error
    return cli.DONE


if __name__ == "__main__":
    cli.module_main("sweeps")
