"""The network: its arithmetic, its shapes, and that the fast order of its layers computes the textbook's function."""

import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d

from mnist_sweep.config import networks
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.network_shapes import GREY28
from mnist_sweep.training import onednn
from mnist_sweep.training.models import ACTIVATIONS, MONOTONE, ConvNet


@st.composite
def models(draw: st.DrawFn, widths: st.SearchStrategy[int]) -> networks.ConvNet:
    """Any possible small network."""
    depth = draw(st.integers(0, 3))

    def per_block(numbers: st.SearchStrategy[int]) -> Any:
        return draw(numbers | st.lists(numbers, min_size=depth, max_size=depth))

    try:
        model = networks.ConvNet(
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
        model.layers(GREY28)
        return model
    except ValueError:  # valid convolutions leave nothing of a map
        reject()


def textbook(network: Any, model: networks.ConvNet, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Convolution – activation – pooling in this order, whatever order the network has, in the plain layout.

    Returns:
        The logits; and the smallest distance between the two greatest inputs of a max-pool, or of a ReLU's input from
        zero: below the rounding of a number, it is open where the gradient goes.
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
@given(models(st.integers(1, 6)))
def test_shapes_function_and_gradients_are_those_of_the_textbook(model: networks.ConvNet) -> None:
    torch.manual_seed(0)
    network = ConvNet(model, 0.13, 0.31, GREY28).double().eval()
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    maps, table = network.standardised(images), model.layers(GREY28)
    assert sum(layer.parameters for layer in table) == sum(p.numel() for p in network.parameters())
    for block, layer in zip(network.blocks, table, strict=False):
        maps = block(maps)
        assert maps.shape[1:] == layer.output
    expected = outputs_and_gradients(network, textbook(network, model, images)[0])
    torch.testing.assert_close(outputs_and_gradients(network, network(images)), expected)


@settings(max_examples=100, deadline=None, derandomize=True)  # rounding is compared: no build fails by chance
@given(models(st.sampled_from([3, 12, 16, 32])), st.sampled_from(["AVX2", "AVX512"]))
def test_training_computes_the_same_in_single_precision(model: networks.ConvNet, widest: str) -> None:
    """Within 1e-5 of the textbook's network, or of the exact values where that one's own rounding is greater."""
    # 1 × 1 filters of one image, normalised, are copies of each other: gradients that are differences of rounding
    assume(not (model.batch_norm and any(block.kernel == 1 for block in model.blocks())))
    torch.manual_seed(0)
    with mock.patch.object(torch.backends.cpu, "get_cpu_capability", return_value=widest):
        network = ConvNet(model, 0.13, 0.31, GREY28).train()
    network.head.eval()  # without dropout
    images = torch.rand(2, 1, 28, 28)
    double = copy.deepcopy(network).double()
    logits, margin = textbook(double, model, images.double())
    assume(margin > 3e-7)
    exact = outputs_and_gradients(double, logits)
    plain = outputs_and_gradients(network, textbook(network, model, images)[0])
    with mock.patch.object(torch.backends.cpu, "get_cpu_capability", return_value=widest):
        fast = outputs_and_gradients(network, network(images))
    rounding = max(float((one - truth).abs().max()) for one, truth in zip(plain, exact, strict=True))
    scale = max(float(truth.abs().max()) for truth in exact)  # sums that cancel out are rounded as their terms are
    for one, truth in zip(fast, exact, strict=True):
        torch.testing.assert_close(one.double(), truth, atol=1e-5 * scale + 4 * rounding, rtol=0)


SUITABLE = ["model.filters=[16,32]", "model.batch_norm=true", "model.dropout=0", "model.convolutions=[1,2]"]


def network_of(*items: str) -> ConvNet:
    """In training."""
    model = CommandLine.of(items).config.model
    assert isinstance(model, networks.ConvNet)
    return ConvNet(model, 0.13, 0.31, GREY28)


@pytest.mark.parametrize(
    ("items", "with_avx2", "with_avx512"),
    [
        ([], True, True),
        (["model.activation=tanh"], True, True),
        (["model.activation=silu"], False, False),
        (["model.filters=[16,24]"], True, False),
        (["model.filters=[11,23]"], True, False),
        (["model.filters=[10,32]"], False, False),
        (["model.pool=avg"], False, False),
        (["model.pool=avg", "model.pool_size=1"], True, True),
        (["model.filters=[]", "model.convolutions=1"], False, False),
    ],
)
@pytest.mark.parametrize("widest", ["AVX2", "AVX512"])
def test_which_networks_are_trained_in_onednns_layout(
    items: list[str], with_avx2: bool, with_avx512: bool, widest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: widest)
    suits = with_avx2 if widest == "AVX2" else with_avx512
    network = network_of(*CommandLine.of(SUITABLE).add(*items).overrides)
    images = torch.rand(2, 1, 28, 28)
    with mock.patch.object(onednn, "features", wraps=onednn.features) as features:
        network(images)
        assert features.call_count == (suits and torch.backends.mkldnn.is_available())
        features.reset_mock()
        network.eval()(images)  # what is served or exported has the ordinary layout
        assert features.call_count == 0


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("padding", [0, 2])
def test_a_kernels_rows_as_channels_convolve_the_same(kernel: int, padding: int) -> None:
    images = torch.randn(3, 1, 9, 7, dtype=torch.float64)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64)
    maps, weights, left = onednn._rows_as_channels(images, weight, padding)
    assert weights.shape == (4, maps.shape[1], 1, kernel) == (4, kernel, 1, kernel)
    torch.testing.assert_close(conv2d(maps, weights, padding=left), conv2d(images, weight, padding=padding))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_half_precision_has_that_layout_where_the_processor_can_and_computes_the_same(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert onednn._takes_bf16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()  # what torch itself asks
    torch.manual_seed(0)
    network = network_of(*SUITABLE, f"model.activation={activation}")
    images = torch.rand(64, 1, 28, 28)
    found = []
    can = onednn._takes_bf16()
    for able in (True, False):
        monkeypatch.setattr(onednn, "_takes_bf16", lambda able=able: able)
        assert onednn.takes(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert onednn.takes(images) == able
            if able and not can:  # to compute it is an error there
                return
            logits = network(images)
        assert logits.dtype == torch.bfloat16
        found.append(torch.cat([each.flatten() for each in outputs_and_gradients(network, logits.float())]))
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.999


def test_only_activations_that_never_decrease_count_as_monotone() -> None:
    values = torch.linspace(-6, 6, 1_000, dtype=torch.float64)
    assert {name for name, kind in ACTIVATIONS.items() if bool((kind()(values).diff() >= 0).all())} == MONOTONE


def test_a_batch_of_one_is_normalised_where_its_maps_are_larger() -> None:
    network = network_of("data.batch_size=1", "model.batch_norm=true", "model.filters=[8]", "model.pool_size=28")
    assert network(torch.rand(1, 1, 28, 28)).shape == (1, 10)
