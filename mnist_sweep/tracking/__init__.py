"""MLflow: the account of runs, their models, the store. The only place that imports it."""

from mnist_sweep.tracking.mlflow_run import Account, State, close_running, find_run, warm_up
from mnist_sweep.tracking.registry import SavedModel, checkpoint_of, is_there, register, registered, registered_name
from mnist_sweep.tracking.store import is_server

__all__ = [
    "Account",
    "SavedModel",
    "State",
    "checkpoint_of",
    "close_running",
    "find_run",
    "is_server",
    "is_there",
    "register",
    "registered",
    "registered_name",
    "warm_up",
]
