"""Whether speed costs accuracy: python benchmarks/accuracy.py [seeds] [epochs]

The plain PyTorch loop and this project's run (see benchmarks/throughput.py, a and d), the default network with the same
seeds: the accuracy on the validation images after the last epoch, and whether the means differ by more than chance
(Welch's t-test). Then ``experiment=fast99`` on ten seeds: its accuracy on the test images, and its time against that of
the bare loop.
"""

import multiprocessing
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor

from scipy import stats
from ways import bare, ours, plain

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.training import datasets

FAST99_SEEDS = 10


def recipe(items: list[str]) -> tuple[float, float]:
    """The accuracy on the test images and the seconds of training."""
    from mnist_sweep.run import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(CommandLine.of([*items, f"output={folder}", "name=one", "tracking=none"]), test=True)
    assert result.status == "finished", result.detail
    return result.metrics["test/accuracy"], result.train_seconds


def said(values: list[float]) -> str:
    """Mean, deviation, and each."""
    each = " ".join(f"{value:.4f}" for value in values)
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}   ({each})"


def main(seeds: int, epochs: int) -> None:
    """Measure, and print."""
    base = [f"data={datasets.obtain(CommandLine.of([]).config.data)}", "trainer.accelerator=cpu"]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as slow, ProcessPoolExecutor(1, spawn) as fast:
        found: dict[str, list[float]] = {"plain": [], "ours": []}
        for seed in range(seeds):
            items = [*base, f"trainer.max_epochs={epochs}", f"seed={seed}"]
            found["plain"].append(slow.submit(plain, items).result()[2])
            found["ours"].append(fast.submit(ours, items).result()[2])
        print(f"{base[0]}, {epochs} epochs, validation accuracy over {seeds} seeds")
        for name, values in found.items():
            print(f"    {name:<6} {said(values)}")
        print(f"    the same by chance: p = {stats.ttest_ind(*found.values(), equal_var=False).pvalue:.2f}", flush=True)
        runs, loops = [], []
        for seed in range(FAST99_SEEDS):
            items = [*base, "experiment=fast99", f"seed={seed}"]
            runs.append(fast.submit(recipe, items).result())
            config = CommandLine.of(items).config
            rate = fast.submit(bare, items).result()[0]
            size = config.data.batch_size
            loops.append(IMAGE_SETS[config.data.name].train // size * size / rate)
        print(f"fast99, test accuracy over {FAST99_SEEDS} seeds\n    {said([accuracy for accuracy, _ in runs])}")
        run, loop = min(seconds for _, seconds in runs), min(loops)
        print(f"    trained in {run:.2f} s, the bare loop in {loop:.2f} s: {run / loop:.2f} times")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [5, 3][len(given) :]))
