"""How much a run slows down where another process keeps a core busy: python benchmarks/busy_core.py [--rounds 5]

A run with as many threads as there are cores, alone and beside a process that does nothing but count, with each way in
which its threads may wait for each other. The ways and the two conditions take turns; printed are the seconds of the
best round, and how many times as long each takes as the first way alone.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

WAYS = {
    "ours": {},  # what the package sets where the user has set nothing
    "libgomp's": {"GOMP_SPINCOUNT": "300000"},  # its own default
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
}
SETTINGS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
RUN = ["data=mnist5k", "data.limit=1000", "trainer.max_epochs=6", "trainer.accelerator=cpu", "tracking=none"]


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Another process that uses one core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds(way: dict[str, str], overrides: list[str]) -> float:
    """That the epochs of a run take."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_sweep", *RUN, *overrides, f"output={folder}"]
        environment = {key: value for key, value in os.environ.items() if key not in SETTINGS} | way
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(json.loads(Path(done.stdout.splitlines()[-1]).read_text(encoding="utf-8"))["train_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("overrides", nargs="*", help="of the run")
    arguments = parser.parse_args()
    best: dict[tuple[str, str], float] = {}
    for _ in range(arguments.rounds):
        for way in arguments.ways:
            for condition, beside in (("alone", contextlib.nullcontext), ("beside a busy core", busy)):
                with beside():
                    took = seconds(WAYS[way], arguments.overrides)
                best[way, condition] = min(took, best.get((way, condition), took))
    print(f"{platform.machine()}, {os.cpu_count()} cores, best of {arguments.rounds}")
    first = best[arguments.ways[0], "alone"]
    for (way, condition), took in best.items():
        print(f"{way:<14} {condition:<20} {took:6.2f} s  {took / first:5.2f}")


if __name__ == "__main__":
    main()
