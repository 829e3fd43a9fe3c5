"""The model and the checkpoint of a run, in MLflow."""

import contextlib
import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

from mnist_sweep.tracking.store import local, model_of

#: What a served model needs; the versions are those that it was trained with.
_REQUIRED = ("mlflow", "torch", "numpy")


def keep(client: Any, run_id: str, module: Any, images: Any, checkpoint: Path, step: int) -> None:
    """Log a network as a run's model, see `MLflowRun.model`."""
    import mlflow.pytorch
    from mlflow.models import Model

    # what a package index has is 2.15.0, whichever build of it, such as 2.15.0+cpu, is here
    required = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIRED]
    outer: Any = os.environ.get("MLFLOW_TRACKING_URI")  # which MLflow sets together with its own
    mlflow.set_tracking_uri(client.tracking_uri)  # of the whole process: MLflow logs models by no client
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)  # else the first one
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*No complete tensor found.*")  # of an exported graph
            Model.log(
                *(None, mlflow.pytorch), name="model", run_id=run_id, step=step, model_type="classifier",
                pytorch_model=module, input_example=images, extra_files=[str(checkpoint)],
                pip_requirements=required, serialization_format="pt2",
            )  # fmt: skip
    finally:
        mlflow.set_tracking_uri(outer)


def share(client: Any, run_id: str, file: Path) -> None:
    """Replace a store's copies of a file by links to it, where they are on the same disk."""
    kept = [client.get_run(run_id).info.artifact_uri]
    if model := model_of(client, run_id):
        kept.append(client.get_logged_model(model).artifact_location)
    for copy in [copy for folder in map(local, kept) if folder for copy in folder.rglob(file.name)]:
        link = copy.with_name(f".{copy.name}.link")
        with contextlib.suppress(OSError):
            link.hardlink_to(file)
            link.replace(copy)
