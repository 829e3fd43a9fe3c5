"""The workers of a sweep: tasks are submitted, events come back, and nothing calls back."""

from mnist_sweep.sweep.workers.messages import Decision, Finished, Report, Task
from mnist_sweep.sweep.workers.pool import Workers

__all__ = ["Decision", "Finished", "Report", "Task", "Workers"]
