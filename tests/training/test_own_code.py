"""Networks and metrics of the user's own, and the networks of the group besides the convolutional one."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep import api
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.network_shapes import Images
from mnist_sweep.config.networks import MLP, ResNet
from mnist_sweep.errors import RequestError
from mnist_sweep.run import train
from mnist_sweep.sweep.candidates import Candidates
from mnist_sweep.sweep.space import Space
from mnist_sweep.training import trained_model
from tests.own_sets import NETS, small

SWEEP = "+sweep=optuna"


@pytest.fixture
def nets(tmp_path: Path) -> str:
    """A file with networks and metrics."""
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    return str(tmp_path / "nets.py")


FORMS = st.builds(Images, st.sampled_from([1, 3]), st.integers(4, 40), st.integers(4, 40), st.integers(2, 30))


@settings(max_examples=15, deadline=None)
@given(FORMS, st.integers(1, 3), st.integers(8, 12))
def test_the_arithmetic_of_a_residual_network_is_that_of_its_module(images: Images, depth: int, width: int) -> None:
    model = ResNet(name="resnet", depth=depth, width=width, dropout=0.1)
    mean, deviation = (0.1, 0.3) if images.channels == 1 else ([0.1, 0.2, 0.3], [0.3, 0.3, 0.3])
    network = model.build(mean, deviation, images)
    table, maps = model.layers(images), torch.rand(2, *images.shape)
    assert sum(layer.parameters for layer in table) == sum(p.numel() for p in network.parameters())
    blocks: torch.nn.Sequential = network.get_submodule("blocks")  # type: ignore[assignment]
    for block, layer in zip(blocks, table, strict=False):
        maps = block(maps)
        assert maps.shape[1:] == layer.output
    assert network(torch.rand(2, *images.shape)).shape == (2, images.classes)


@settings(max_examples=10, deadline=None)
@given(FORMS, st.lists(st.integers(1, 9), max_size=2))
def test_fully_connected_layers_likewise(images: Images, hidden: list[int]) -> None:
    model = MLP(name="mlp", hidden=hidden, activation="relu", dropout=0.1)
    network = model.build([0.1] * images.channels, [0.3] * images.channels, images)
    assert sum(layer.parameters for layer in model.layers(images)) == sum(p.numel() for p in network.parameters())
    assert network(torch.rand(2, *images.shape)).shape == (2, images.classes)


@pytest.mark.parametrize("model", ["resnet", "mlp", "lenet5"])
def test_the_default_space_fits_each_network(model: str) -> None:
    space = Space.of(CommandLine.of([SWEEP, f"model={model}", "data=digits8x8", "model.dropout=0.1"]))
    wanted = {
        "resnet": ["model.depth", "model.width"],
        "mlp": ["model.hidden"],
        "lenet5": ["model.batch_norm", "model.filters", "model.hidden", "model.kernel_size", "model.pool_size"],
    }
    assert sorted(key for key in space.keys if key.startswith("model")) == wanted[model]
    assert space.inactive == []


def test_a_network_of_ones_own_is_counted_searched_and_built(nets: str) -> None:
    items = ["model=custom", f"model.target={nets}:Tiny", "data=digits8x8"]
    config = CommandLine.of([*items, "model.arguments.width=5"]).config
    (layer,) = config.layers()
    assert (layer.name, layer.output, layer.parameters) == ("Tiny", (10,), 64 * 5 + 5 + 5 * 10 + 10)
    assert layer.multiply_adds == 64 * 5 + 5 * 10
    assert config.parameters().items() >= {"model.arguments.width": 5, "model.arguments.depth": 1}.items()
    leaves = [f"+sweep.space.model.arguments.{key}={{low: 1, high: 9}}" for key in ("width", "depth")]
    command = CommandLine.of([SWEEP, *items, *leaves, "optimizer.lr=0.01"])
    space = Space.of(command)
    assert sorted(key for key in space.keys if key.startswith("model")) == [
        "model.arguments.depth", "model.arguments.width"
    ]  # fmt: skip
    own = space.encode({})
    assert own is not None  # the defaults of the class's arguments are the baseline
    assert own["model.arguments.width"] == 8
    made = Candidates(command.without("sweep"), {}).make({"model.arguments.width": 3, "model.arguments.depth": 2})
    again = CommandLine.of(made.command.overrides).config
    assert again.model.model_dump()["arguments"] == {"width": 3, "depth": 2}
    assert made.costs["parameters"] == 64 * 3 + 3 + 3 * 3 + 3 + 3 * 10 + 10


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Tine", "cannot be imported (AttributeError"),
        ("top2", "is no torch.nn.Module; allowed: a class"),
        ("Wrong", "returns a tensor of (2, 2) for two images; allowed: logits of (2, 10)"),
        ("Failing", "fails on images of 2 × 1 × 28 × 28 (ValueError: nothing works)"),
        ("Empty", "has no parameters"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(nets: str, name: str, why: str) -> None:
    with pytest.raises(RequestError) as caught:
        _ = CommandLine.of(["model=custom", f"model.target={nets}:{name}"]).config
    assert str(caught.value).startswith(f"model.target={nets}:{name}: {why}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("model.target=nowhere.nets:Tiny", "model.target=nowhere.nets:Tiny: cannot be imported (ModuleNotFoundError"),
        ("model.target=Tiny", "model.target=Tiny: names no class; allowed: FILE.py:NAME, or MODULE:NAME on the"),
        ("model.arguments.colour=3", "fails (TypeError"),
    ],
)
def test_a_wrong_name_or_argument_is_refused_in_one_line(nets: str, item: str, why: str) -> None:
    with pytest.raises(RequestError) as caught:
        _ = CommandLine.of(["model=custom", f"model.target={nets}:Tiny"]).add(item).config
    assert why in str(caught.value)


def test_it_is_trained_judged_by_a_metric_of_ones_own_and_loaded(nets: str, tmp_path: Path) -> None:
    own = ["model=custom", f"model.target={nets}:Tiny", "model.arguments.width=4", f"metrics.extra=['{nets}:top2']"]
    items = [*own, "objective=val/top2", "data.batch_size=20", "optimizer.lr=0.01", "loss.class_weights=balanced"]
    result = train(small(tmp_path, *items), test=True)
    assert result.status == "finished"
    assert result.objective == result.metrics["val/top2"] >= result.metrics["val/accuracy"]
    assert {"test/top2", "val/balanced_accuracy"} <= result.metrics.keys()
    checkpoint = Path(result.folder) / str(result.checkpoint)
    model = trained_model.read(checkpoint)
    assert model.probabilities(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)).shape == (1, 10)
    Path(nets).rename(Path(nets).with_suffix(".txt"))
    from mnist_sweep.training import own_code

    own_code._network_class.cache_clear()
    for name in [name for name in sys.modules if name.endswith(nets)]:
        del sys.modules[name]
    own_code._layer.cache_clear()
    with pytest.raises(RequestError, match=r"model\.target=.*cannot be imported .*which a checkpoint of it needs"):
        trained_model.read(checkpoint)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("{}:nothing", r"fails on \(confusion, probabilities, labels\)"),
        ("{}:Tiny.x", r"cannot be imported \(AttributeError"),
        ("balance", "metrics.extra"),
        ("{}:accuracy", "is measured already; allowed: another name"),
    ],
)
def test_a_metric_that_does_not_work_is_refused(nets: str, target: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=why):
        api.check(CommandLine.of(["data=mnist5k", f"output={tmp_path}", f"metrics.extra=['{target.format(nets)}']"]))


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("'one.py:top2','other.py:top2'", r"metrics\.extra=.*/one\.py:top2: two are called top2; allowed: another"),
        ("{target: 'one.py:top2'},{target: 'one.py:top2',direction: minimize}", "two are called top2"),
        ("'one.py:balanced_accuracy'", "two are called balanced_accuracy; allowed: another name"),
        ("'one.py:calibration_error'", r"metrics\.extra=.*/one\.py:calibration_error: is measured already; allowed"),
    ],
)
def test_metrics_that_would_be_filed_under_one_name_are_refused(extra: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        _ = CommandLine.of([f"metrics.extra=[{extra}]"]).config


def test_the_direction_of_a_metric(nets: str) -> None:
    extra = f"metrics.extra=[{{target: '{nets}:top2', direction: minimize}}, balanced_accuracy]"
    config = CommandLine.of([extra, "objective=val/top2"]).config
    assert config.direction == "minimize"
    assert config.epoch_metrics["val/balanced_accuracy"] == "maximize"
    bound = "sweep.constraints={val/top2: {max: 0.5}}"
    assert CommandLine.of([SWEEP, extra, bound]).config.sweep
    with pytest.raises(RequestError, match=r"sweep\.constraints=val/top2: should be one of"):
        _ = CommandLine.of([SWEEP, bound]).config
