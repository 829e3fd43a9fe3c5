"""The network: its arithmetic, its shapes, and that the fast forms of its layers compute the textbook's function."""

import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d

from mnist_sweep.config import options
from mnist_sweep.config.command import CommandLine
from mnist_sweep.training import models
from mnist_sweep.training.models import ACTIVATIONS, MONOTONE, ConvNet


@st.composite
def networks(draw: st.DrawFn, widths: st.SearchStrategy[int]) -> options.ConvNet:
    """Any possible small network."""
    depth = draw(st.integers(0, 3))

    def per_block(numbers: st.SearchStrategy[int]) -> Any:
        return draw(numbers | st.lists(numbers, min_size=depth, max_size=depth))

    try:
        return options.ConvNet(
            filters=draw(st.lists(widths, min_size=depth, max_size=depth)),
            kernel_size=per_block(st.sampled_from([1, 3, 5])),
            pool_size=per_block(st.integers(1, 3)),
            convolutions=per_block(st.integers(1, 2)),
            padding=draw(st.sampled_from(["same", "valid"])),
            pool=draw(st.sampled_from(["max", "avg"])),
            activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
            batch_norm=draw(st.booleans()),
            global_pool=draw(st.booleans()),
            hidden=draw(st.lists(st.integers(1, 8), max_size=2)),
            dropout=0.5,
        )
    except ValueError:  # valid convolutions leave nothing of a map
        reject()


def textbook(network: Any, model: options.ConvNet, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The logits by convolution – activation – pooling in this order, in the plain layout; and the smallest distance
    between the two greatest inputs of a max-pool, or of a ReLU's input from zero: below the rounding of a number, it is
    open where the gradient goes.
    """
    activation = ACTIVATIONS[model.activation]()
    maps, margin = (images - network.mean) / network.deviation, math.inf
    for block, parts in zip(network.blocks, model.blocks(), strict=True):
        for number in range(parts.convolutions):
            suffix = f"_{number + 1}" if number else ""
            maps = block.get_submodule("convolution" + suffix)(maps)
            if model.batch_norm:
                maps = block.get_submodule("batch_norm" + suffix)(maps)
            if model.activation == "relu":
                margin = min(margin, float(maps.detach().abs().min()))
            before, maps = maps, activation(maps)
        size = parts.pool
        if size > 1 and model.pool == "max":
            seen = before if model.activation in MONOTONE else maps
            windows = seen.detach().unfold(2, size, size).unfold(3, size, size).flatten(-2)
            first, second = windows.topk(2).values.unbind(-1)
            margin = min(margin, float((first - second).min()))
        maps = max_pool2d(maps, size) if model.pool == "max" else avg_pool2d(maps, size)
    logits: torch.Tensor = network.head(maps)
    return logits, margin


def outputs_and_gradients(network: nn.Module, logits: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


@settings(max_examples=60, deadline=None)
@given(networks(st.integers(1, 6)))
def test_shapes_function_and_gradients_are_those_of_the_textbook(model: options.ConvNet) -> None:
    torch.manual_seed(0)
    network = ConvNet(model, 0.13, 0.31).double().eval()
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    maps, table = network.standardised(images), model.layers()
    assert sum(layer.parameters for layer in table) == sum(p.numel() for p in network.parameters())
    for block, layer in zip(network.blocks, table, strict=False):
        maps = block(maps)
        assert maps.shape[1:] == layer.output
    expected = outputs_and_gradients(network, textbook(network, model, images)[0])
    torch.testing.assert_close(outputs_and_gradients(network, network(images)), expected)


@settings(max_examples=100, deadline=None, derandomize=True)  # rounding is compared: no build fails by chance
@given(networks(st.sampled_from([3, 16, 32])))
def test_training_computes_the_same_in_single_precision(model: options.ConvNet) -> None:
    """Within 1e-5 of the textbook's network, or of the exact values where that one's own rounding is greater."""
    # 1 × 1 filters of one image, normalised, are copies of each other: gradients that are differences of rounding
    assume(not (model.batch_norm and any(block.kernel == 1 for block in model.blocks())))
    torch.manual_seed(0)
    with mock.patch.object(torch.backends.cpu, "get_cpu_capability", return_value="AVX512"):
        network = ConvNet(model, 0.13, 0.31).train()
    network.head.eval()  # without dropout
    images = torch.rand(2, 1, 28, 28)
    double = copy.deepcopy(network).double()
    logits, margin = textbook(double, model, images.double())
    assume(margin > 3e-7)
    exact = outputs_and_gradients(double, logits)
    plain = outputs_and_gradients(network, textbook(network, model, images)[0])
    fast = outputs_and_gradients(network, network(images))
    rounding = max(float((one - truth).abs().max()) for one, truth in zip(plain, exact, strict=True))
    scale = max(float(truth.abs().max()) for truth in exact)  # sums that cancel out are rounded as their terms are
    for one, truth in zip(fast, exact, strict=True):
        torch.testing.assert_close(one.double(), truth, atol=1e-5 * scale + 4 * rounding, rtol=0)


SUITABLE = ["model.filters=[16,32]", "model.batch_norm=true", "model.dropout=0", "model.convolutions=[1,2]"]


@pytest.mark.parametrize(
    ("items", "widest", "suits"),
    [
        ([], "AVX512", True),
        ([], "AVX2", False),
        (["model.activation=tanh"], "AVX512", True),
        (["model.activation=silu"], "AVX512", False),
        (["model.filters=[16,24]"], "AVX512", False),
        (["model.pool=avg"], "AVX512", False),
        (["model.pool=avg", "model.pool_size=1"], "AVX512", True),
        (["model.filters=[]", "model.convolutions=1"], "AVX512", False),
    ],
)
def test_which_networks_are_trained_in_onednns_layout(
    items: list[str], widest: str, suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
    network = ConvNet(CommandLine.of(SUITABLE).add(*items).config.model, 0.13, 0.31)
    images = torch.rand(2, 1, 28, 28)
    with mock.patch.object(models, "onednn_features", wraps=models.onednn_features) as features:
        network(images)
        assert features.call_count == (suits and torch.backends.mkldnn.is_available())
        features.reset_mock()
        network.eval()(images)  # what is served or exported has the ordinary layout
        assert features.call_count == 0


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="bf16 in oneDNN's layout needs AVX-512")
def test_half_precision_computes_the_same_in_that_layout() -> None:
    torch.manual_seed(0)
    network = ConvNet(CommandLine.of(SUITABLE).config.model, 0.13, 0.31)
    images, found = torch.rand(64, 1, 28, 28), []
    for in_onednn in (True, False):
        network._in_onednn = in_onednn
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
        assert logits.dtype == torch.bfloat16
        found.append(torch.cat([each.flatten() for each in outputs_and_gradients(network, logits.float())]))
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.999


def test_only_activations_that_never_decrease_count_as_monotone() -> None:
    values = torch.linspace(-6, 6, 1_000, dtype=torch.float64)
    assert {name for name, kind in ACTIVATIONS.items() if bool((kind()(values).diff() >= 0).all())} == MONOTONE
