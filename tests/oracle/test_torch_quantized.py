"""torch's QNNPACK engine against the target `torch-qnnpack`, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import milpq
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.input_quantizer import InputQuantizer
from milpq.rounding.targets import get_target

torch = pytest.importorskip("torch")

# torch.ao.quantization is deprecated as a whole, and says so in many places.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("qnnpack")]
OUTPUTS = 100_000


def execute(module: Any, rows: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return what milpq executes for float rows, dequantized in float32."""
    model = milpq.load(module, input_shape=shape)
    assert isinstance(model, QuantizedModel)
    network = model.on_target(get_target("torch-qnnpack"))
    quantizer = network.input.quantizer
    assert quantizer is not None
    levels = network.execute(quantizer(rows.reshape(len(rows), -1).astype(np.float64)))
    return levels.astype(np.float32) * network.output_scale.astype(np.float32)


def tie_heavy_rows(count: int, shape: tuple[int, ...], scale: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    halves = rng.integers(-280, 280, (count, *shape)) / 2
    levels = np.where(rng.random((count, *shape)) < 0.5, halves, rng.uniform(-140, 140, (count, *shape)))
    return (levels * scale).astype(np.float32)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.0078, 100), (0.1, 101), (1 / 3, 0), (0.0123456, 37)])
def test_input_quantizer(scale: float, zero_point: int) -> None:
    narrow = float(np.float32(scale))
    quantizer = InputQuantizer.from_rule("rint-fma", np.array([narrow]), np.array([zero_point]), 0, 255)
    halves = ((np.arange(-300, 300) / 2) * narrow).astype(np.float32)
    below = quantizer.thresholds[0].astype(np.float32)
    near = np.concatenate(
        [halves, below, np.random.default_rng(0).normal(0, 60 * scale, 60_000).astype(np.float32)]
    )
    near = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])
    codes = torch.quantize_per_tensor(torch.tensor(near), scale, zero_point, torch.quint8).int_repr().numpy()
    np.testing.assert_array_equal(quantizer(near[:, None].astype(np.float64))[:, 0] + zero_point, codes)


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
def test_linear_on_random_and_tie_heavy_sums(per_channel: bool, relu: bool) -> None:
    from torch.ao.nn import quantized as nnq
    from torch.ao.nn.intrinsic import quantized as nniq

    rng = np.random.default_rng([per_channel, relu])
    compared = 0
    for trial in range(20):
        input_scale = 2.0 ** rng.uniform(-9, 2)
        scales = 2.0 ** rng.uniform(-3, 0, 64 if per_channel else 1) / 64
        factor = 2.0 ** rng.uniform(-12, -4)
        if trial % 2:
            input_scale, scales, factor = (2.0 ** np.floor(np.log2(x)) for x in (input_scale, scales, factor))
        output_scale = float(input_scale / 64 / factor)
        codes = rng.integers(-8, 9, (64, 24))
        real = torch.tensor((codes * scales.reshape(-1, 1)).astype(np.float32))
        if per_channel:
            axis_scales, zeros = torch.tensor(scales), torch.zeros(64, dtype=torch.long)
            weights = torch.quantize_per_channel(real, axis_scales, zeros, 0, torch.qint8)
        else:
            weights = torch.quantize_per_tensor(real, float(scales[0]), 0, torch.qint8)
        layer = (nniq.LinearReLU if relu else nnq.Linear)(24, 64)
        layer.set_weight_bias(
            weights, torch.tensor((rng.integers(-120, 120, 64) + 0.5) * output_scale).float()
        )
        layer.scale, layer.zero_point = output_scale, int(rng.integers(60, 200))
        zero_point = int(rng.integers(60, 200))
        start = nnq.Quantize(torch.tensor([input_scale]), torch.tensor([zero_point]), torch.quint8)
        module = torch.nn.Sequential(start, layer, nnq.DeQuantize())
        levels = rng.integers(0, 256, (100, 24)) - zero_point
        rows = (levels * np.float32(input_scale)).astype(np.float32)
        np.testing.assert_array_equal(execute(module, rows), module(torch.tensor(rows)).numpy())
        compared += rows.shape[0] * 64
    assert compared >= OUTPUTS


def perceptron() -> Any:
    torch.manual_seed(3)
    nn = torch.nn
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)).eval()


def images() -> Any:
    torch.manual_seed(4)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=(2, 1), padding=1),
        nn.ReLU(),
        nn.MaxPool2d((2, 1), stride=1, padding=(1, 0)),
        nn.Conv2d(8, 8, 3, padding=(1, 0), groups=8), nn.ReLU(),
        nn.Conv2d(8, 6, (2, 3), dilation=(1, 2), groups=2),
        nn.Flatten(), nn.Linear(6 * 4 * 2, 10),
    ).eval()  # fmt: skip


def quantized(module: Any, shape: tuple[int, ...], *, mode: str, per_channel: bool = False) -> Any:
    """Convert a module in eager or FX graph mode, after calibration on random inputs."""
    from torch.ao import quantization as tq
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    calibration = torch.rand(100, *shape) * 2 - 1
    config = tq.get_default_qconfig("fbgemm" if per_channel else "qnnpack")
    if mode == "fx":
        prepared = prepare_fx(module, tq.QConfigMapping().set_global(config), (calibration,))
        prepared(calibration)
        return convert_fx(prepared)
    wrapped = tq.QuantWrapper(module).eval()
    if mode == "fused":
        pairs = (
            [["0", "1"], ["2", "3"]] if isinstance(module[0], torch.nn.Linear) else [["0", "1"], ["3", "4"]]
        )
        tq.fuse_modules(wrapped.module, pairs, inplace=True)
    wrapped.qconfig = config
    tq.prepare(wrapped, inplace=True)
    wrapped(calibration)
    return tq.convert(wrapped, inplace=True)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("mode", ["eager", "fused", "fx"])
@pytest.mark.parametrize("shape", [(8,), (3, 7, 8)], ids=["perceptron", "images"])
def test_whole_modules(shape: tuple[int, ...], mode: str, per_channel: bool) -> None:
    module = quantized(perceptron() if shape == (8,) else images(), shape, mode=mode, per_channel=per_channel)
    rows = tie_heavy_rows(OUTPUTS // 10, shape, 2 / 255, 5)
    expected = module(torch.tensor(rows)).detach().numpy()
    found = execute(module, rows, shape)
    assert found.size >= OUTPUTS and len(np.unique(found)) > 20
    np.testing.assert_array_equal(found, expected)


def test_bound_of_a_module_and_its_quantized_version() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    small = quantized(module, (3,), mode="fx")
    result = milpq.bound(module, small, ([-0.1] * 3, [0.1] * 3), target="torch-qnnpack", gap=0.01)
    assert result.status == "optimal" and result.witness is not None
    point = torch.tensor([result.witness.input]).float()
    np.testing.assert_array_equal(small(point)[0].numpy(), np.float32(result.witness.quantized_output))


def test_what_is_not_read_is_named() -> None:
    from torch.ao import quantization as tq

    from milpq.errors import UnsupportedModelError

    nn = torch.nn
    with pytest.raises(UnsupportedModelError, match="input_shape"):
        milpq.load(quantized(images(), (3, 7, 8), mode="fx"))
    module = quantized(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), (3,), mode="eager")
    with pytest.raises(UnsupportedModelError, match=r"'module\.1': Sigmoid is not supported"):
        milpq.load(module)

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.layer, self.end = tq.QuantStub(), nn.Linear(3, 3), tq.DeQuantStub()

        def forward(self, x: Any) -> Any:
            x = self.start(x)
            return self.end(self.layer(x) if x.dequantize().sum() > 0 else x)

    module = Branching().eval()
    module.qconfig = tq.get_default_qconfig("qnnpack")
    tq.prepare(module, inplace=True)
    module(torch.rand(4, 3))
    with pytest.raises(UnsupportedModelError, match="cannot be traced"):
        milpq.load(tq.convert(module))
