"""Sums, concatenations, pools and clamps of quantized torch modules, run by QNNPACK, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import milpq
from milpq.errors import TargetError, UnsupportedModelError
from milpq.merge import Problem
from milpq.rounding.activation import UINT8
from milpq.rounding.kernels import AverageKernel, Quantization, SumKernel
from milpq.rounding.qnnpack_kernels import qnnpack_clamp
from milpq.rounding.targets import get_target
from milpq.rounding.targets.qnnpack import QnnpackTarget
from milpq.verify.models import load_pair
from tests.oracle.test_torch_quantized import OUTPUTS, execute, tie_heavy_rows

torch = pytest.importorskip("torch")

# torch.ao.quantization is deprecated as a whole, and says so in many places.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("qnnpack")]


def coded(codes: np.ndarray, scale: float, zero_point: int) -> Any:
    return torch._make_per_tensor_quantized_tensor(torch.tensor(codes, dtype=torch.uint8), scale, zero_point)


def drawn_scale(rng: np.random.Generator, *, ties: bool) -> float:
    exponent = rng.uniform(-6, 0)
    return float(np.float32(2.0 ** (np.floor(exponent) if ties else exponent)))


@pytest.mark.parametrize("relu", [False, True])
def test_every_pair_of_codes_is_added_as_qnnpack_adds_it(relu: bool) -> None:
    rng = np.random.default_rng(relu)
    codes = np.arange(256)
    first, second = np.meshgrid(codes, codes, indexing="ij")
    add = torch.ops.quantized.add_relu if relu else torch.ops.quantized.add
    for trial in range(24):
        scales = [drawn_scale(rng, ties=trial % 3 == 0) for _ in range(2)]
        scales.append(float(np.float32(max(scales) * 2.0 ** rng.integers(-1, 3))))
        zeros = [int(zero) for zero in rng.integers(0, 256, 3)]
        ends = [Quantization(scale, zero, UINT8) for scale, zero in zip(scales, zeros, strict=True)]
        pair = QnnpackTarget().pair_sum(SumKernel(*ends, "relu" if relu else "none"))
        ours = pair.output(pair.first[:, None] + pair.second[None, :])
        operands = (coded(c, s, z) for c, s, z in zip((first, second), scales, zeros, strict=False))
        theirs = add(*operands, scales[2], zeros[2]).int_repr().numpy()
        np.testing.assert_array_equal(ours, theirs)


def test_averages_and_means() -> None:
    rng = np.random.default_rng(3)
    functional, compared = torch.nn.functional, 0
    for trial in range(60):
        scale, zero_point = drawn_scale(rng, ties=trial % 3 == 0), int(rng.integers(0, 256))
        shape = (40, 8, *(int(extent) for extent in rng.integers(2, 8, 2)))
        codes = rng.integers(0, 3 if trial % 2 else 256, shape)
        given = coded(codes, scale, zero_point)
        tensor = Quantization(scale, zero_point, UINT8)
        for whole, theirs in (
            (False, functional.avg_pool2d(given, 2, stride=1)),
            (True, functional.adaptive_avg_pool2d(given, 1)),
            (True, given.mean([2, 3], keepdim=True)),
        ):
            kernel = AverageKernel("mean" if whole else "pool", tensor, tensor, "none")
            size = shape[2:] if whole else (2, 2)
            view = np.lib.stride_tricks.sliding_window_view(codes - zero_point, size, axis=(2, 3))
            sums = view.sum(axis=(-1, -2)).reshape(1, -1)
            ours = QnnpackTarget().average(kernel, np.array([size[0] * size[1]]))(sums)
            np.testing.assert_array_equal(ours[0], theirs.int_repr().numpy().ravel())
            compared += sums.size
    assert compared >= OUTPUTS


def test_clamps() -> None:
    """Scales that put 6/s on and next to a tie."""
    rng = np.random.default_rng(4)
    codes = np.arange(256)
    for trial in range(800):
        scale, zero_point = drawn_scale(rng, ties=False), int(rng.integers(0, 256))
        if trial % 2:
            scale = float(np.float32(6 / (rng.integers(1, 255) + 0.5)))
        if trial % 4 == 3:
            scale = float(np.nextafter(np.float32(scale), np.float32(9)))
        given = coded(codes, scale, zero_point)
        for lower, upper in ((0.0, 6.0), (-1.5, 2.0)):
            theirs = torch.nn.functional.hardtanh(given, lower, upper).int_repr().numpy()
            ours = qnnpack_clamp(Quantization(scale, zero_point, UINT8), lower, upper)
            np.testing.assert_array_equal(ours, theirs)


class Residual(torch.nn.Module):
    """Convolutions, two sums, a concatenation, pools, clamps and a mean, by FloatFunctional as eager mode needs it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        from torch.ao import quantization as tq

        torch.manual_seed(seed)
        nn = torch.nn
        self.start, self.end = tq.QuantStub(), tq.DeQuantStub()
        self.c0, self.c1, self.c2 = (nn.Conv2d(*io, 3, padding=1) for io in ((2, 6), (6, 6), (6, 4)))
        self.relu, self.six, self.tanh = nn.ReLU(), nn.ReLU6(), nn.Hardtanh()
        self.largest, self.average = nn.MaxPool2d(2, 1), nn.AvgPool2d((1, 2), 1)
        self.one, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(10, 12)
        self.skip, self.plain, self.both = (torch.ao.nn.quantized.FloatFunctional() for _ in range(3))

    def forward(self, x: Any) -> Any:
        x = self.start(x)
        x = self.relu(self.c0(x))
        x = self.skip.add_relu(self.c1(x), x)
        x = self.average(self.largest(x))
        x = self.both.cat([self.c2(x), self.plain.add(x, x)], 1)
        x = self.six(torch.flatten(self.one(x), 1))
        return self.end(self.tanh(self.last(x)))


class Functional(torch.nn.Module):
    """The same kind of network in plain functions, as FX graph mode takes them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        nn = torch.nn
        self.c0, self.c1, self.c2 = (nn.Conv2d(*io, 3, padding=1) for io in ((2, 6), (6, 6), (6, 4)))
        self.last = nn.Linear(10, 12)

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        x = functional.relu(self.c0(x))
        x = functional.relu(self.c1(x) + x)
        x = functional.avg_pool2d(functional.max_pool2d(x, 2, 1), (2, 1), 1)
        x = torch.cat([self.c2(x), x], 1)
        return functional.hardtanh(self.last(functional.relu6(x.mean([2, 3]))), -0.5, 1.5)


class Joined(torch.nn.Module):
    """An image joined with itself on a grid twice as coarse, where every other code is a tie."""

    def __init__(self, zero_point: int, *, convolved: bool) -> None:
        super().__init__()
        from torch.ao.nn import quantized as nnq

        self.start = nnq.Quantize(torch.tensor([0.5]), torch.tensor([7]), torch.quint8)
        self.layer = nnq.Conv2d(1, 8, 1) if convolved else torch.nn.Identity()
        if convolved:
            weights = torch.quantize_per_tensor(torch.ones(8, 1, 1, 1), 1.0, 0, torch.qint8)
            self.layer.set_weight_bias(weights, None)
            self.layer.scale, self.layer.zero_point = 0.5, 7
        self.both, self.end = nnq.QFunctional(), nnq.DeQuantize()
        self.both.scale, self.both.zero_point = 1.0, zero_point

    def forward(self, x: Any) -> Any:
        x = self.layer(self.start(x))
        return self.end(self.both.cat([x, x], 1))


def test_joins_whose_ties_depend_on_the_layout_are_refused() -> None:
    rows = ((torch.arange(256).float() - 7) / 2).reshape(1, 1, 16, 16)
    given = [Joined(101, convolved=convolved)(rows)[0, 0] for convolved in (False, True)]
    assert (given[0] != given[1]).any()
    with pytest.raises(UnsupportedModelError, match="how an image lies in memory"):
        milpq.load(Joined(101, convolved=True), input_shape=(1, 16, 16))
    module = Joined(100, convolved=True)
    network = milpq.load(module, input_shape=(1, 16, 16)).on_target(QnnpackTarget())
    levels = network.execute(network.input.quantizer(rows.reshape(1, -1).double().numpy()))
    np.testing.assert_array_equal(levels[0], module(rows).numpy().ravel())


def quantized(module: Any, *, fx: bool) -> Any:
    from torch.ao import quantization as tq
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    calibration = 3 * (torch.rand(100, 2, 6, 7) * 2 - 1)
    config = tq.get_default_qconfig("qnnpack")
    if fx:
        prepared = prepare_fx(module.eval(), tq.QConfigMapping().set_global(config), (calibration,))
        prepared(calibration)
        return convert_fx(prepared)
    module = module.eval()
    module.qconfig = config
    tq.prepare(module, inplace=True)
    module(calibration)
    return tq.convert(module, inplace=True)


@pytest.mark.parametrize("fx", [False, True], ids=["eager", "fx"])
def test_whole_modules(fx: bool) -> None:
    compared = 0
    for seed in range(2):
        module = quantized((Functional if fx else Residual)(seed), fx=fx)
        rows = tie_heavy_rows(OUTPUTS // 24 + 1, (2, 6, 7), 6 / 255, seed)
        expected = module(torch.tensor(rows)).detach().numpy()
        found = execute(module, rows, (2, 6, 7))
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found)) > 20
        compared += found.size
    assert compared >= OUTPUTS


def test_what_milpq_quantizes_for_qnnpack_pairs_with_the_float_module() -> None:
    """Sums and pools on the target: the error stays near a step."""
    from tests.oracle.random_graphs import residual_graph

    network = residual_graph(2, 6)
    points = np.random.default_rng(0).uniform(-1, 1, (200, 98))
    model = milpq.quantize(network, points, target="torch-qnnpack")
    pair = load_pair(network, model, "torch-qnnpack", "file")
    problem = Problem.create(
        pair.float_network, pair.quantized, milpq.Box(np.full(98, -1.0), np.full(98, 1.0))
    )
    assert 0 < np.abs(problem.differences(points)[0]).max() < 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AvgPool2d", {"kernel_size": 3, "padding": 1}, "averages with padding"),
        ("AdaptiveAvgPool2d", {"output_size": 2}, "several pixels"),
        ("ReLU6", {}, "clamps an image"),
    ],
)
def test_pools_that_are_refused(name: str, options: dict[str, int], message: str) -> None:
    nn = torch.nn
    module = nn.Sequential(nn.Conv2d(2, 3, 3), getattr(nn, name)(**options))
    with pytest.raises(UnsupportedModelError, match=message):
        milpq.load(quantized(torch.ao.quantization.QuantWrapper(module), fx=False), input_shape=(2, 6, 7))


def test_scales_that_qnnpack_refuses() -> None:
    ends = [Quantization(scale, 0, UINT8) for scale in (1.0, 2.0**-20, 1.0)]
    with pytest.raises(TargetError, match="refuses an addition"):
        get_target("torch-qnnpack").pair_sum(SumKernel(*ends, "none"))
