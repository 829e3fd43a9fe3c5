"""MLflow: runs, their models, the store. The only package that imports it."""

from mnist_sweep.tracking.mlflow_run import MLflowRun, State, close_running, versions, warm_up
from mnist_sweep.tracking.registry import checkpoint_of, is_there, register, registered, registered_name
from mnist_sweep.tracking.store import check_server, follow, harmless, is_server

__all__ = [
    "MLflowRun", "State", "check_server", "checkpoint_of", "close_running", "follow", "harmless", "is_server",
    "is_there", "register", "registered", "registered_name", "versions", "warm_up",
]  # fmt: skip
