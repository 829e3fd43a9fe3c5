"""MLflow: runs, their models, the store. The only package that imports it."""

from mnist_sweep.tracking.check import check_store
from mnist_sweep.tracking.journal import Journal, is_silent
from mnist_sweep.tracking.mlflow_run import MLflowRun, State, warm_up
from mnist_sweep.tracking.registry import Measured, checkpoint_of, is_there, register, registered, registered_name
from mnist_sweep.tracking.runs import close_running, crown, delete_runs, versions
from mnist_sweep.tracking.store import artifact, be_patient, client_of, follow, harmless, is_server, page_of

__all__ = [
    "Journal", "MLflowRun", "Measured", "State", "artifact", "be_patient", "check_store", "checkpoint_of", "client_of",
    "close_running", "crown", "delete_runs", "follow", "harmless", "is_server", "is_silent", "is_there", "page_of",
    "register", "registered", "registered_name", "versions", "warm_up",
]  # fmt: skip
