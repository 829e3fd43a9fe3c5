"""The network: its arithmetic, its shapes, and that the fast order of its layers computes the textbook's function."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d

from mnist_sweep import schema, shapes
from mnist_sweep.composition import compose
from mnist_sweep.models import ACTIVATIONS, MONOTONE, ConvNet


@st.composite
def models(draw: st.DrawFn) -> schema.Model:
    """Any possible small network."""
    depth = draw(st.integers(0, 3))
    numbers = {
        "kernel_size": st.sampled_from([1, 3, 5]),
        "pool_size": st.integers(1, 3),
    }
    blocks = {
        key: draw(item | st.lists(item, min_size=depth, max_size=depth)) for key, item in numbers.items()
    }  # one number, or one a block
    return schema.Model(
        filters=draw(st.lists(st.integers(1, 6), min_size=depth, max_size=depth)),
        pool=draw(st.sampled_from(["max", "avg"])),
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        batch_norm=draw(st.booleans()),
        hidden=draw(st.lists(st.integers(1, 8), max_size=2)),
        dropout=0.5,
        **blocks,
    )


@settings(max_examples=60, deadline=None)
@given(models())
def test_arithmetic_equals_the_network(model: schema.Model) -> None:
    network, table = ConvNet(model).eval(), model.layers()
    images = torch.randn(2, 1, 28, 28)
    assert network(images).shape == (2, 10)
    assert sum(layer.parameters for layer in table) == sum(p.numel() for p in network.parameters())
    maps = images
    for block, layer in zip(network.blocks, table, strict=False):
        maps = block(maps)
        assert maps.shape[1:] == layer.output


def textbook(network: Any, model: schema.Model, images: torch.Tensor) -> torch.Tensor:
    """Convolution – activation – pooling in this order, whatever order the network has, in the plain layout."""
    activation = ACTIVATIONS[model.activation]()
    pools = shapes.per_block("model.pool_size", model.pool_size, len(model.filters))
    maps = images
    for block, pool in zip(network.blocks, pools, strict=True):
        assert isinstance(block, nn.Sequential)
        maps = block.get_submodule("convolution")(maps)
        if model.batch_norm:
            maps = block.get_submodule("batch_norm")(maps)
        maps = activation(maps)
        maps = max_pool2d(maps, pool) if model.pool == "max" else avg_pool2d(maps, pool)
    result: torch.Tensor = network.head(maps)
    return result


@settings(max_examples=60, deadline=None)
@given(models())
def test_same_function_and_gradients_as_the_textbook(model: schema.Model) -> None:
    torch.manual_seed(0)
    network = ConvNet(model).double().eval()
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    outputs, gradients = [], []
    for compute in (lambda: network(images), lambda: textbook(network, model, images)):
        network.zero_grad()
        out = compute()
        out.square().sum().backward()
        outputs.append(out.detach())
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_only_activations_that_never_decrease_count_as_monotone(activation: str) -> None:
    values = ACTIVATIONS[activation]()(torch.linspace(-6, 6, 1_000, dtype=torch.float64))
    assert bool((values.diff() >= 0).all()) == (activation in MONOTONE)


def test_table_of_the_default_network() -> None:
    table = compose([]).model.layers()
    assert [(layer.name, layer.output, layer.parameters, layer.multiply_adds) for layer in table] == [
        ("block 1", (32, 14, 14), 320, 225_792),
        ("block 2", (64, 7, 7), 18_496, 3_612_672),
        ("hidden 1", (128,), 401_536, 401_408),
        ("output", (10,), 1_290, 1_280),
    ]


def test_a_map_that_vanishes_is_named() -> None:
    with pytest.raises(shapes.ShapeError, match="block 3 pools a 1 × 1 map by 2"):
        shapes.layers([4, 4, 4], 3, [7, 4, 2], False, [])
