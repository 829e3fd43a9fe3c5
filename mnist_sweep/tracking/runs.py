"""The runs of a study in MLflow together, and what is said of the programs that made them."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from mnist_sweep.config import options
from mnist_sweep.tracking.journal import is_silent
from mnist_sweep.tracking.mlflow_run import State
from mnist_sweep.tracking.store import client_of, harmless
from mnist_sweep.version import __version__

#: The packages that bear on the numbers.
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "optuna", "mlflow", "hydra-core", "numpy")


def close_running(settings: options.Tracking, study: str, reason: str, keep: str | None, state: State) -> None:
    """Close the runs of a study, by its id, whose process died, with a reason; `keep` is the sweep's own run.

    Where a trial went on elsewhere before its lost process had made its run, that run is deleted: one trial, one run.
    """
    if isinstance(settings, options.MLflow) and not is_silent(settings.uri):
        with harmless("the runs of a session that died could not be closed"):
            client = client_of(settings.uri)
            experiment = client.get_experiment_by_name(settings.experiment)
            query = f"tags.`study.id` = '{study}' and attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id], query) if experiment else []:
                key = run.data.tags.get("key")
                if run.info.run_id == keep:
                    continue
                if (
                    key
                    and len(client.search_runs([experiment.experiment_id], f"tags.key = '{key}'", max_results=2)) > 1
                ):
                    client.delete_run(run.info.run_id)
                else:
                    client.set_tag(run.info.run_id, "reason", reason)
                    client.set_tag(run.info.run_id, "state", "failed" if state == "FAILED" else "stopped")
                    client.set_terminated(run.info.run_id, state)


def crown(settings: options.Tracking, study: str, run_id: str | None) -> None:
    """Make this run the one of its study, by its id, with the role ``winner``; an earlier one is ``final`` again."""
    if isinstance(settings, options.MLflow) and run_id is not None and not is_silent(settings.uri):
        with harmless("the winner's run could not be marked"):
            client = client_of(settings.uri)
            experiments = [client.get_run(run_id).info.experiment_id]
            for run in client.search_runs(experiments, f"tags.`study.id` = '{study}' and tags.role = 'winner'"):
                client.set_tag(run.info.run_id, "role", "final")
            client.set_tag(run_id, "role", "winner")


def delete_runs(settings: options.Tracking, study: str) -> int:
    """Delete the runs of a study, by its id, as MLflow's UI does: ``mlflow gc`` frees their space. How many there were.

    An error of MLflow's is raised where the store cannot be used.
    """
    if not isinstance(settings, options.MLflow):
        return 0
    client, deleted = client_of(settings.uri), 0
    experiment = client.get_experiment_by_name(settings.experiment)
    while runs := client.search_runs([experiment.experiment_id], f"tags.`study.id` = '{study}'") if experiment else []:
        for run in runs:  # a page of them
            client.delete_run(run.info.run_id)
        deleted += len(runs)
    return deleted


@functools.cache
def versions() -> dict[str, str]:
    """Tags: the versions of Python, of this package and of those that bear on the numbers; the checkout's commit."""
    found = {"version.python": platform.python_version(), "version.mnist_sweep": __version__}
    found |= {f"version.{package}": importlib.metadata.version(package) for package in _PACKAGES}
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside somebody else's checkout?
        commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return found
    return found | {"git.commit": commit, "git.dirty": str(bool(changes)).lower(), "mlflow.source.git.commit": commit}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
