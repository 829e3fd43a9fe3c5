"""How fast networks are trained here: python benchmarks/throughput.py [rounds] [images] [epochs] [network …]

Five ways to train the same networks on the same images, with the same batch size and number of steps, in turn; the best
of several rounds. Each epoch ends with an evaluation on the 5,000 validation images, whose loss is printed.

    a  a plain PyTorch loop: images in memory, fp32, PyTorch's default layout, convolution – activation – pooling
    b  Lightning with a DataLoader, torchvision's transforms, metric objects that each step updates and logs, and the
       Trainer's defaults (progress bar, into a file; logger; checkpoints), as templates do it
    c  this project's step without Lightning: the bare fast loop
    d  this project's run: Lightning, MLflow, checkpoints (its epochs; what pictures cost is in benchmarks/account.py)
    e  this project's sweep: as many runs at a time as it has workers, all that a run does included

(a, b) and (c, d) have a process each, since the fast path changes how memory is kept; (e) has its workers. Only one of
them works at a time. The floor is arithmetic: three times the multiply-adds of a forward pass, at the rate of a large
matrix product here.
"""

import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from ways import Measured, bare, floor, ours, plain, sweep, template

NETWORKS = {
    "small": ["model.filters=[8,16]"],
    "default": [],
    "large": ["model.filters=[32,64,128]", "model.batch_norm=true"],
}
ARMS = ("a", "b", "c", "d", "d, fp32", "e")
#: What is wanted of a ratio of two speeds, by network, where the processor multiplies bf16.
WITH_BF16 = [
    ("default", "d", "a", 2.5), ("default", "d", "b", 4.0), ("default", "e", "a", 3.0), ("default", "e", "b", 5.0),
    ("small", "e", "b", 4.0),
]  # fmt: skip
#: And what is wanted on every processor.
ANYWHERE = [("default", "d, fp32", "a", 1.6), ("default", "d", "c", 1 / 1.08), ("small", "d", "c", 1 / 1.2)]


def main(rounds: int, images: int, epochs: int, names: list[str]) -> None:
    """Measure, and print the tables of these networks."""
    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.sweep.workers import resources
    from mnist_sweep.training import datasets

    base = ["trainer.accelerator=cpu", f"data.limit={images}", f"trainer.max_epochs={epochs}"]
    base.insert(0, f"data={datasets.obtain(CommandLine.of(base).config.data)}")
    asked = CommandLine.of([*base, "+sweep=optuna"])
    divided = resources.divide(asked)
    spawn = multiprocessing.get_context("spawn")
    best: dict[tuple[str, str], Measured] = {}
    floors: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, spawn) as slow,
        ProcessPoolExecutor(1, spawn) as fast,
        resources.open_workers(asked, divided, CommandLine.of([*base, f"output={folder}"])) as workers,
    ):
        print(f"{base[0]}, {images:,} images, {epochs} epochs, batch 128; {divided.workers} workers with "
              f"{divided.threads} threads each; {divided.precision}: {divided.why}", flush=True)  # fmt: skip
        ways: dict[str, tuple[Any, Any, list[str]]] = {
            "a": (slow, plain, []), "b": (slow, template, []), "c": (fast, bare, []), "d": (fast, ours, []),
            "d, fp32": (fast, ours, ["trainer.precision=32"]),
        }  # fmt: skip
        for name in names:
            items = [*base, *NETWORKS[name]]
            for number in range(rounds):
                for arm in ARMS:
                    if arm == "e":
                        found = sweep(items, workers, divided, folder)
                    else:
                        pool, perform, more = ways[arm]
                        found = pool.submit(perform, [*items, *more]).result()
                    if (name, arm) not in best or found[0] > best[name, arm][0]:
                        best[name, arm] = found
                print(f"{name}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            floors[name] = fast.submit(floor, items, divided.precision == "bf16").result()
            _table(name, best, floors[name])
    print("\n| network | ratio | measured | wanted | |\n|---|---|---|---|---|")
    for name, one, other, wanted in (each for each in [*WITH_BF16, *ANYWHERE] if each[0] in names):
        ratio = best[name, one][0] / best[name, other][0]
        decided = divided.precision == "bf16" or (name, one, other, wanted) in ANYWHERE
        said = "" if ratio >= wanted else "missed" if decided else "wanted with bf16, which this processor lacks"
        print(f"| {name} | ({one}) / ({other}) | {ratio:.2f} | {wanted:.2f} | {said} |")


def _table(name: str, best: dict[tuple[str, str], Measured], floor: float) -> None:
    print(f"\n{name}\n| | images a second | against (a) | against (b) | loss at the end |\n|---|---|---|---|---|")
    for arm in ARMS:
        rate, loss, _ = best[name, arm]
        ratios = [f"{rate / best[name, other][0]:.2f}" for other in ("a", "b")]
        print(f"| {arm} | {rate:,.0f} | {ratios[0]} | {ratios[1]} | {loss:.4f} |")
    print(
        f"| floor | {floor:,.0f} | {floor / best[name, 'a'][0]:.2f} | {floor / best[name, 'b'][0]:.2f} | |", flush=True
    )


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:4]]
    rounds, images, epochs = given + [2, 55_000, 3][len(given) :]
    main(rounds, images, epochs, sys.argv[4:] or list(NETWORKS))
