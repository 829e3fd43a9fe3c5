"""The model of a run in MLflow (a LoggedModel): an exported network, with our own checkpoint of it."""

import importlib.metadata
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The folder within a model that holds our own checkpoint.
CHECKPOINT = "checkpoint"
#: What a served model needs; the versions are those that it was trained with.
_REQUIRED = ("mlflow", "torch", "numpy")


def log_model(
    client: "MlflowClient",
    run_id: str,
    module: Any,
    images: Any,
    checkpoint: Path,
    parameters: Mapping[str, str],
    step: int,
) -> None:
    """Keep a network as a run's model: a graph without pickle, with signature, example and requirements.

    MLflow's own `log_model` would ask the store and the run that are active in the whole process.

    Args:
        client: of the store.
        run_id: MLflow's id of the run.
        module: images (B, 1, 28, 28), 0 … 1 → probabilities (B, 10); in evaluation mode, on the CPU.
        images: an example, a tensor (B, 1, 28, 28) float32 with B > 1, so that a batch of any size is taken.
        checkpoint: our own file of the same network.
        parameters: to find the model by, dotted names.
        step: the epoch that it is from, counted from 1.
    """
    import mlflow.pytorch
    import torch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, infer_signature

    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, "model", run_id, params=dict(parameters), model_type="classifier")
    with torch.inference_mode():
        probabilities = module(images).numpy()
    example = images.numpy()
    try:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*No complete tensor found.*")  # of an exported graph's weights
            mlflow.pytorch.save_model(
                module,
                f"{scratch}/model",
                mlflow_model=Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id),
                signature=infer_signature(example, probabilities),
                input_example=example,
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _REQUIRED],
                serialization_format="pt2",
            )
            folder = Path(scratch) / "model" / CHECKPOINT
            folder.mkdir()
            shutil.copy(checkpoint, folder)
            client.log_model_artifacts(model.model_id, f"{scratch}/model")
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def model_of(client: "MlflowClient", run_id: str) -> str | None:
    """MLflow's id of the model that a run has kept; None where it has none."""
    outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    return str(models[-1].model_id) if models else None
