"""The merged network as a torch module."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import milpq
from milpq.errors import NotAPairError, RegionError
from milpq.formats import load_float, load_quantized
from milpq.merge import Problem
from milpq.rounding.targets import get_target


def _sequential(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def pair() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    original, smaller = _sequential(3, 8, 8, 2), _sequential(3, 8, 8, 2)
    with torch.no_grad():
        for ours, theirs in zip(smaller.parameters(), original.parameters(), strict=True):
            ours.copy_((32 * theirs).round() / 32)
    return original, smaller


@pytest.fixture
def digits(model_path: Callable[[str], Path]) -> milpq.MergedNetwork:
    return milpq.MergedNetwork(
        load_float(model_path("digits.onnx")), load_quantized(model_path("digits_int8.tflite")), target="tflm"
    )


def test_it_gives_the_largest_difference_of_each_sample(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    merged = milpq.MergedNetwork(*pair)
    x = torch.rand(50, 3) * 2 - 1
    result = merged(x)
    assert result.shape == (50,)
    assert result.dtype == torch.float64
    expected = (pair[1].double()(x.double()) - pair[0].double()(x.double())).abs().amax(1)
    torch.testing.assert_close(result, expected.detach(), rtol=1e-9, atol=1e-12)


def test_it_equals_the_exact_execution(digits: milpq.MergedNetwork) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.2, 1.2, (300, 64)).astype(np.float32)
    problem = digits.problem([-0.2] * 64, [1.2] * 64)
    difference, error = problem.differences(x.astype(np.float64))
    result = digits.difference(torch.from_numpy(x)).numpy()
    assert (np.abs(result - difference) <= 2 * error).all()


def test_gradients_pass_the_rounding(digits: milpq.MergedNetwork) -> None:
    x = torch.full((4, 64), 0.5, requires_grad=True)
    digits(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert torch.isfinite(x.grad).all()
    assert (x.grad != 0).any()


def test_the_surrogate_gradient_is_the_gradient_of_the_scaled_network(digits: milpq.MergedNetwork) -> None:
    """Away from saturation the integer side's gradient is close to the float side's."""
    x = torch.full((1, 64), 0.5, dtype=torch.float64, requires_grad=True)
    sides = [digits._quantized_side(x)[0, 0], digits._float_side(x)[0, 0]]
    quantized, real = (torch.autograd.grad(side, x)[0] for side in sides)
    assert torch.nn.functional.cosine_similarity(quantized, real).item() > 0.95


def test_the_guaranteed_error_holds(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    merged = milpq.MergedNetwork(*pair)
    bound = milpq.compute_guaranteed_error(merged, (torch.full((3,), -1.0), [1.0, 1.0, 1.0]))
    assert isinstance(bound, float)
    assert merged(torch.rand(5000, 3) * 2 - 1).max().item() <= bound
    result = milpq.bound(
        merged.float_network, merged.quantized_network, ([-1.0] * 3, [1.0] * 3), method="differential"
    )
    assert result.lower <= bound == pytest.approx(result.upper)


def test_an_integer_network_is_taken_as_it_is(model_path: Callable[[str], Path]) -> None:
    network = load_quantized(model_path("controller_int8.tflite")).on_target(get_target("tflm"))
    merged = milpq.MergedNetwork(load_float(model_path("controller.onnx")), network)
    bound = milpq.compute_guaranteed_error(merged, ([-0.1] * 3, [0.1] * 3))
    assert merged(torch.rand(1000, 3) * 0.2 - 0.1).max().item() <= bound
    assert isinstance(merged.problem([-0.1] * 3, [0.1] * 3), Problem)


def test_it_saves_and_moves_like_any_module(digits: milpq.MergedNetwork) -> None:
    state = digits.state_dict()
    digits.load_state_dict(state)
    assert not list(digits.parameters())


def test_networks_that_do_not_match_are_refused() -> None:
    with pytest.raises(NotAPairError):
        milpq.MergedNetwork(_sequential(3, 8, 2), _sequential(3, 9, 2))
    merged = milpq.MergedNetwork(_sequential(3, 8, 2), _sequential(3, 8, 2))
    with pytest.raises(RegionError):
        milpq.compute_guaranteed_error(merged, ([0.0] * 2, [1.0] * 2))
