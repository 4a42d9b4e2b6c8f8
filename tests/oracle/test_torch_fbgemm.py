"""torch's FBGEMM engine against the target `torch-fbgemm`, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import milpq
from milpq.errors import TargetError
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target

torch = pytest.importorskip("torch")

# torch.ao.quantization is deprecated as a whole, and says so in many places.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("fbgemm")]
OUTPUTS = 100_000
SIDE = 6

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """A layer; `kernel` 0 is Linear."""

    inputs: int
    outputs: int
    kernel: int = 0
    padding: int = 0
    stride: int = 1
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.inputs, SIDE, SIDE) if self.kernel else (self.inputs,)

    @property
    def weights(self) -> tuple[int, ...]:
        return (self.outputs, self.inputs // self.groups, *[self.kernel] * (2 if self.kernel else 0))


KINDS = {
    "linear": Kind(24, 64),
    "linear-odd": Kind(7, 13),
    "pointwise": Kind(16, 24, 1),
    "3x3": Kind(3, 17, 3, 1),
    "3x3-stride": Kind(8, 24, 3, 1, 2),
    "grouped": Kind(16, 16, 3, 1, 1, 4),
    "depthwise": Kind(16, 16, 3, 1, 1, 16),
    "depthwise-stride": Kind(16, 16, 3, 1, 2, 16),
    "depthwise-5x5": Kind(16, 16, 5, 2, 1, 16),
    "depthwise-twice": Kind(8, 16, 3, 1, 1, 8),
}


def codes_of(module: Any, rows: Float32Array, shape: tuple[int, ...], target: str) -> npt.NDArray[np.int64]:
    """Return the output codes that milpq executes."""
    model = milpq.load(module, input_shape=shape)
    assert isinstance(model, QuantizedModel)
    network = model.on_target(get_target(target))
    assert network.input.quantizer is not None
    levels = network.execute(network.input.quantizer(rows.reshape(len(rows), -1).astype(np.float64)))
    return levels + network.output_zero_point


def near_ties(
    sums: npt.NDArray[np.float64], unit: Float32Array, factor: Float32Array, rng: np.random.Generator
) -> Float32Array:
    """Return a bias a channel that puts one of its sums at a tie, where it can so that orders of operations differ.

    Parameters
    ----------
    sums : shape (rows, channels)
        Accumulators that occur.
    """
    picked = sums[rng.integers(0, len(sums), sums.shape[1]), np.arange(sums.shape[1])]
    tie = (rng.integers(-60, 60, len(picked)) + 0.5) / factor.astype(np.float64) - picked
    offsets = np.arange(-200, 201)[:, None]
    centre = (tie * unit).astype(np.float32)
    candidates = (centre + offsets * np.spacing(np.abs(centre))).astype(np.float32)
    inverse = np.float32(1) / unit
    exact = candidates.astype(np.float64) * inverse + picked
    fused, apart, divided = (
        np.rint(total.astype(np.float32) * factor)
        for total in (
            exact,
            candidates * inverse + picked.astype(np.float32),
            candidates / unit + picked.astype(np.float32),
        )
    )
    telling = (fused != apart) * 2 + (fused != divided) + (apart != divided)
    return candidates[telling.argmax(axis=0), np.arange(len(picked))]


def layer_of(
    kind: Kind,
    rng: np.random.Generator,
    *,
    per_channel: bool,
    relu: bool,
    bias: bool = True,
    largest: int = 8,
    powers: bool = False,
    zero_point: int = 0,
) -> tuple[Any, Float32Array]:
    """Return a module of one layer, and float rows that its quantizer takes to codes without rounding."""
    from torch.ao.nn import quantized as nnq
    from torch.ao.nn.intrinsic import quantized as nniq

    input_scale, factor = 2.0 ** rng.uniform(-9, 2), 2.0 ** rng.uniform(-12, -4) * 8 / largest
    scales = 2.0 ** rng.uniform(-3, 0, kind.outputs if per_channel else 1) / 64
    if powers:
        input_scale, scales, factor = (2.0 ** np.floor(np.log2(x)) for x in (input_scale, scales, factor))
    input_scale, scales = float(np.float32(input_scale)), scales.astype(np.float32).astype(np.float64)
    output_scale = float(np.float32(input_scale / 64 / factor))
    ends = [-128, 127] if largest == 128 else np.arange(-largest, largest + 1)
    codes = rng.choice(ends, kind.weights)
    along = scales.reshape(-1, *[1] * (codes.ndim - 1))
    real = torch.tensor(((codes - zero_point) * along).astype(np.float32))
    if per_channel:
        zeros = torch.full((kind.outputs,), zero_point)
        weights = torch.quantize_per_channel(real, torch.tensor(scales), zeros, 0, torch.qint8)
    else:
        weights = torch.quantize_per_tensor(real, float(scales[0]), zero_point, torch.qint8)
    assert np.array_equal(weights.int_repr().numpy(), codes)
    input_zero, output_zero = (int(point) for point in rng.integers(60, 200, 2))
    levels = rng.integers(0, 256, (100 if kind.kernel == 0 else 8, *kind.shape)) - input_zero
    wide, matrix = torch.tensor(levels).double(), torch.tensor(codes - zero_point).double()
    if kind.kernel:
        options: dict[str, Any] = {"stride": kind.stride, "padding": kind.padding, "groups": kind.groups}
        layer = (nniq.ConvReLU2d if relu else nnq.Conv2d)(kind.inputs, kind.outputs, kind.kernel, **options)
        sums = torch.nn.functional.conv2d(wide, matrix, **options).movedim(1, -1).reshape(-1, kind.outputs)
    else:
        layer = (nniq.LinearReLU if relu else nnq.Linear)(kind.inputs, kind.outputs)
        sums = wide @ matrix.T
    unit = np.broadcast_to(np.float32(input_scale) * scales.astype(np.float32), (kind.outputs,))
    stored = near_ties(sums.numpy(), unit, unit / np.float32(output_scale), rng)
    layer.set_weight_bias(weights, torch.tensor(stored) if bias else None)
    layer.scale, layer.zero_point = output_scale, output_zero
    start = nnq.Quantize(torch.tensor([input_scale]), torch.tensor([input_zero]), torch.quint8)
    return torch.nn.Sequential(start, layer), (levels * np.float32(input_scale)).astype(np.float32)


def compare(
    module: Any, rows: Float32Array, shape: tuple[int, ...], target: str = "torch-fbgemm"
) -> npt.NDArray[np.int64]:
    found = codes_of(module, rows, shape, target)
    expected = module(torch.tensor(rows)).int_repr().numpy().reshape(len(rows), -1)
    np.testing.assert_array_equal(found, expected)
    return found


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
def test_layers_at_and_near_ties(per_channel: bool) -> None:
    compared, inside = 0, 0
    for number, kind in enumerate(KINDS.values()):
        rng = np.random.default_rng([number, per_channel])
        for trial in range(8):
            module, rows = layer_of(
                kind, rng, per_channel=per_channel, relu=trial % 3 == 1, bias=trial != 6, powers=trial % 2 == 1,
                zero_point=3 * (trial == 5),
            )  # fmt: skip
            found = compare(module, rows, kind.shape)
            compared += found.size
            inside += int(((found > 0) & (found < 255)).sum())
    assert compared >= 2 * OUTPUTS and inside >= OUTPUTS


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("name", ["linear", "3x3", "grouped"])
def test_large_weights_need_vnni(name: str, per_channel: bool) -> None:
    rng, kind = np.random.default_rng(2), KINDS[name]
    module, rows = layer_of(kind, rng, per_channel=per_channel, relu=False, largest=128)
    with pytest.raises(TargetError, match="vnni=yes"):
        codes_of(module, rows, kind.shape, "torch-fbgemm")
    codes_of(module, rows, kind.shape, "torch-qnnpack")
    if torch.cpu._is_vnni_supported():
        compare(module, rows, kind.shape, "torch-fbgemm:vnni=yes")


@pytest.mark.parametrize("name", ["depthwise", "depthwise-twice"])
def test_depthwise_kernels_saturate_also_with_vnni(name: str) -> None:
    rng, kind = np.random.default_rng(3), KINDS[name]
    module, rows = layer_of(kind, rng, per_channel=True, relu=False, largest=128)
    with pytest.raises(TargetError, match="depthwise"):
        codes_of(module, rows, kind.shape, "torch-fbgemm:vnni=yes")
    expected = module(torch.tensor(rows)).int_repr().numpy().reshape(len(rows), -1)
    # The refusal is needed: the exact sums give other codes, by more than a rounding.
    off = np.abs(codes_of(module, rows, kind.shape, "torch-qnnpack") - expected)
    assert off.max() > 1
    module, rows = layer_of(kind, rng, per_channel=True, relu=False, largest=64)
    compare(module, rows, kind.shape)


def quantized(module: Any, calibration: Any) -> Any:
    """Convert in FX graph mode, to weights of 7 bits, which cannot saturate."""
    from torch.ao import quantization as tq
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    weights = tq.PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-64, quant_max=63
    )
    config = tq.QConfig(tq.get_default_qconfig("fbgemm").activation, weights)
    prepared = prepare_fx(module.eval(), tq.QConfigMapping().set_global(config), (calibration,))
    prepared(calibration)
    return convert_fx(prepared)


def test_whole_modules_and_what_has_other_kernels() -> None:
    torch.manual_seed(5)
    nn, shape = torch.nn, (1, SIDE, SIDE)
    parts = [
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU6(), nn.Linear(16, 10),
    ]  # fmt: skip
    small = quantized(nn.Sequential(*parts), torch.rand(200, *shape))
    rows = np.random.default_rng(0).uniform(-0.2, 1.2, (OUTPUTS // 10, *shape)).astype(np.float32)
    network = milpq.load(small, input_shape=shape).on_target(get_target("torch-fbgemm"))
    assert network.input.quantizer is not None
    levels = network.execute(network.input.quantizer(rows.reshape(len(rows), -1).astype(np.float64)))
    assert len(np.unique(levels)) > 20
    found = levels.astype(np.float32) * network.output_scale.astype(np.float32)
    np.testing.assert_array_equal(found, small(torch.tensor(rows)).numpy())
    averaged = quantized(nn.Sequential(*parts[:2], nn.AvgPool2d(2)), torch.rand(200, *shape))
    with pytest.raises(TargetError, match="torch-fbgemm: its POOL is not known"):
        milpq.load(averaged, input_shape=shape).on_target(get_target("torch-fbgemm"))


def test_bound_of_a_module_and_its_quantized_version() -> None:
    torch.manual_seed(6)
    module = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
    small = quantized(module, torch.rand(100, 2) * 2 - 1)
    result = milpq.bound(module, small, ([-0.1] * 2, [0.1] * 2), target="torch-fbgemm", gap=0.01)
    assert result.status == "optimal" and result.witness is not None
    point = torch.tensor([result.witness.input]).float()
    np.testing.assert_array_equal(small(point)[0].numpy(), np.float32(result.witness.quantized_output))


def test_files_state_no_float_bias() -> None:
    with pytest.raises(TargetError, match="only quantized torch modules"):
        milpq.quantize(torch.nn.Linear(3, 2), np.zeros((4, 3)), target="torch-fbgemm")
