"""The numbers of three command lines are those of version 1, which wrote `golden.json`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_sweep.config.command import CommandLine
from mnist_sweep.run import train

pytestmark = pytest.mark.slow

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def here() -> tuple[str, str]:
    """What the last digits depend on: the version of torch, and the processor."""
    name = torch.cpu.get_capabilities().get("cpu_name", "unknown")
    return torch.__version__.split("+")[0], f"{name}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize("golden", GOLDEN["runs"], ids=["adam", "onecycle-ema-augmented", "lenet5-rmsprop"])
def test_a_command_gives_the_numbers_of_version_1(tmp_path: Path, golden: dict[str, Any]) -> None:
    result = train(CommandLine.of([*golden["overrides"], f"output={tmp_path}", "name=golden"]), test=True)
    assert result.parameters == golden["parameters"]
    found = [*result.history, {name: value for name, value in result.metrics.items() if name.startswith("test/")}]
    wanted = [*golden["history"], golden["metrics"]]
    if here() == (GOLDEN["torch"], GOLDEN["processor"]):
        assert (found, result.best_epoch) == (wanted, golden["best_epoch"])
    for epoch, values in zip(found, wanted, strict=True):  # elsewhere sums are rounded in another order
        assert epoch == pytest.approx(values, rel=0.05, abs=0.03)
