"""The workers of a sweep: tasks are submitted, events come back, nothing calls back.

    with open_workers(command, resources, common) as workers:
        workers.submit(Task(id=0, command=command))
        for event in workers.events(timeout=0.5):
            match event:
                case Report(): event.answer(True)
                case Finished(): print(event.result)
"""

from mnist_sweep.sweep.workers.messages import Finished, OnEpoch, Report, Task, Train
from mnist_sweep.sweep.workers.pool import Workers

__all__ = ["Finished", "OnEpoch", "Report", "Task", "Train", "Workers"]
