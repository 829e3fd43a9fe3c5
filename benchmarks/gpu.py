"""How fast a sweep is on a GPU: python benchmarks/gpu.py [images] [epochs] [rounds of the template]

Model-epochs a second of the default network: Lightning as templates use it (benchmarks/throughput.py, b) on this GPU,
against this project's sweep with 1, 4, 8 and 12 workers that share the GPU, without and with CUDA graphs, three trials
a worker, with all that a finished run does; beside it the GPU's mean utilisation, the loss at the end, so that speed is
not bought with wrong results, and the floor: the network's multiply-adds at the rate of a large matrix product there.
Without a GPU the same script runs on the CPU, with fewer images, and says so.
"""

import contextlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from ways import floor, sweep, template

from mnist_sweep import hardware
from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.workers import Workers, resources
from mnist_sweep.training import datasets

WANTED = 15.0
WORKERS = (1, 4, 8, 12)
#: Tasks one after another, so that one worker trains while another draws its pictures.
TRIALS = 3


class Utilisation:
    """The mean utilisation of a GPU, per cent, while it is entered.

    Args:
        gpu: as CUDA_VISIBLE_DEVICES names it; None = there is none.
    """

    def __init__(self, gpu: str | None) -> None:
        self.gpu = gpu
        self.samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if gpu else None

    def __enter__(self) -> "Utilisation":
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        found = pynvml.nvmlDeviceGetHandleByIndex, pynvml.nvmlDeviceGetHandleByUUID
        gpu = found[0](int(self.gpu)) if str(self.gpu).isdigit() else found[1](self.gpu)
        while not self._done.wait(0.2):
            self.samples.append(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)

    @property
    def mean(self) -> str:
        return f"{statistics.fmean(self.samples):.0f}%" if self.samples else "–"


def main(images: int | None, epochs: int, rounds: int) -> None:
    """Measure, and print the table."""
    gpus = hardware.gpus()[:1]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]  # the template, the floor and all workers share one
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts them
    else:
        print("no GPU here: what follows is the CPU; the speed on a GPU is still to be measured")
    images = images or (55_000 if gpus else 5_000)
    base = [f"data.limit={images}", f"trainer.max_epochs={epochs}"]
    base.insert(0, f"data={datasets.obtain(CommandLine.of(base).config.data)}")
    base += [] if gpus else ["trainer.accelerator=cpu"]
    size = CommandLine.of(base).config.data.batch_size
    epoch = images // size * size
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as process:
        templates = [process.submit(template, base).result() for _ in range(rounds)]
        plain, loss = max(rate for rate, *_ in templates) / epoch, templates[-1][1]
        least = process.submit(floor, base, bool(gpus)).result() / epoch
    print("| | model-epochs a second | against the template | utilisation | val/loss |\n|---|---|---|---|---|")
    print(f"| Lightning as templates use it | {plain:.3f} | 1.0 | | {loss:.3f} |", flush=True)
    print(f"| floor | {least:.1f} | {least / plain:.0f} | | |", flush=True)
    best = 0.0
    with contextlib.ExitStack() as stack:
        teams = [stack.enter_context(_team(base, workers)) for workers in (WORKERS if gpus else WORKERS[:1])]
        for team, _, _ in teams:  # all at once; those that wait for their turn have nothing to do
            team.open()
        for team, divided, folder in teams:
            sweep([*base, "trainer.max_epochs=1"], team, divided, folder)  # libraries choose their kernels once
            for graphs in (False, True) if gpus else (False,):
                with Utilisation(gpus[0] if gpus else None) as used:
                    measured = sweep([*base, f"trainer.cuda_graphs={graphs}"], team, divided, folder, TRIALS)
                rate, loss = measured[0] / epoch, measured[1]
                best = max(best, rate)
                how = f"{divided.workers} worker{'s' * (divided.workers > 1)}{', CUDA graphs' * graphs}"
                print(f"| sweep, {how} | {rate:.3f} | {rate / plain:.1f} | {used.mean} | {loss:.3f} |", flush=True)
    if gpus:
        print(f"best: {best / plain:.1f} times the template's, wanted {WANTED:.0f} times")


@contextlib.contextmanager
def _team(items: list[str], workers: int) -> Iterator[tuple[Workers, resources.Resources, str]]:
    """So many workers, what each has of the machine, and a folder of their own."""
    asked = CommandLine.of([*items, "+sweep=optuna", f"sweep.workers={workers}"])
    divided = resources.divide(asked)
    with (
        tempfile.TemporaryDirectory() as folder,
        resources.open_workers(asked, divided, CommandLine.of([*items, f"output={folder}"])) as team,
    ):
        yield team, divided, folder


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    images, epochs, rounds = given + [0, 5, 2][len(given) :]
    main(images or None, epochs, rounds)
