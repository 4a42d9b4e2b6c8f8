"""Graphs as torch's pt2e quantization converts them, against QNNPACK's kernels on the numbers that they state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import milpq
from milpq.errors import UnsupportedModelError
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target

torch = pytest.importorskip("torch")

# torch warns of parts of its own.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("qnnpack")]

# Its operators are those of pt2e graphs.
pytest.importorskip("torch.ao.quantization.fx._decomposed")

SHAPE = (2, 7, 6)
OUTPUTS = 100_000


class Stated(torch.nn.Module):
    """A convolution, a depthwise one, a max pool and two linear layers, in the operators of pt2e."""

    def __init__(self, seed: int, *, per_channel: bool, unsigned: bool, ties: bool) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.unsigned = unsigned
        self.shapes = [(6, 2, 3, 3), (6, 1, 3, 3), (16, 6 * 3 * 2), (10, 16)]
        self.grids = [(float(np.float32(rng.uniform(0.01, 0.02))), int(rng.integers(-20, 20)))]
        for number, shape in enumerate(self.shapes):
            count = shape[0] if per_channel else 1
            scales = np.exp2(-rng.integers(5, 8, count)) if ties else rng.uniform(0.005, 0.02, count)
            weights = rng.integers(-127, 128, shape).astype(np.int8)
            unit = self.grids[-1][0] * float(scales.mean())
            spread = unit * 73 * 70 * np.sqrt(weights[0].size)
            scale = float(2.0 ** np.ceil(np.log2(spread / 110))) if ties else float(np.float32(spread / 110))
            # Codes that end at 0 where a ReLU comes before them, and that do not.
            zero_point = [-128, -100, int(rng.integers(-20, 20)), 3][number]
            self.grids.append((scale, zero_point))
            bias = rng.normal(size=shape[0]) * spread * 0.3
            self.register_buffer(f"w{number}", torch.from_numpy(weights))
            self.register_buffer(f"b{number}", torch.from_numpy(bias.astype(np.float32)))
            self.register_buffer(f"s{number}", torch.from_numpy(scales.astype(np.float32)))
            self.register_buffer(f"z{number}", torch.zeros(count, dtype=torch.int64))
        self.per_channel = per_channel
        self.single = [float(getattr(self, f"s{k}")[0]) for k in range(4)]

    def codes(self, x: Any, number: int) -> tuple[Any, ...]:
        scale, zero_point = self.grids[number]
        if self.unsigned:
            return x, scale, zero_point + 128, 0, 255, torch.uint8
        return x, scale, zero_point, -128, 127, torch.int8

    def snap(self, x: Any, number: int) -> Any:
        ops = torch.ops.quantized_decomposed
        coded = ops.quantize_per_tensor.default(*self.codes(x, number))
        return ops.dequantize_per_tensor.default(*self.codes(coded, number))

    def weights(self, number: int) -> Any:
        ops, stored = torch.ops.quantized_decomposed, getattr(self, f"w{number}")
        if not self.per_channel:
            return ops.dequantize_per_tensor.default(stored, self.single[number], 0, -127, 127, torch.int8)
        scales, zeros = getattr(self, f"s{number}"), getattr(self, f"z{number}")
        return ops.dequantize_per_channel.default(stored, scales, zeros, 0, -127, 127, torch.int8)

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        x = self.snap(x, 0)
        x = functional.conv2d(x, self.weights(0), self.b0, stride=[1, 2], padding=[1, 0])
        x = self.snap(functional.relu(x), 1)
        x = functional.conv2d(x, self.weights(1), self.b1, padding=1, groups=6)
        x = self.snap(functional.relu(x), 2)
        x = self.snap(functional.max_pool2d(x, [2, 1], [2, 1]), 2)
        x = self.snap(torch.flatten(x, 1), 2)
        x = self.snap(functional.linear(x, self.weights(2), self.b2), 3)
        return self.snap(functional.linear(functional.dropout(x, 0.5, False), self.weights(3), self.b3), 4)

    def lowered(self, rows: Any) -> np.ndarray:
        """Return the codes of QNNPACK's kernels on quint8."""
        ops = torch.ops.quantized
        given = torch.ops.quantized_decomposed.quantize_per_tensor.default(*self.codes(rows, 0))
        scale, zero_point = self.grids[0]
        unsigned = (given.to(torch.int16) + (0 if self.unsigned else 128)).to(torch.uint8)
        x = torch._make_per_tensor_quantized_tensor(unsigned, scale, zero_point + 128)
        for number in range(4):
            weights = self.packed(number)
            scale, zero_point = self.grids[number + 1]
            if number < 2:
                options = ([1, 2], [1, 0], [1, 1], 1) if number == 0 else ([1, 1], [1, 1], [1, 1], 6)
                packed = ops.conv2d_prepack(weights, getattr(self, f"b{number}"), *options)
                x = ops.conv2d_relu(x, packed, scale, zero_point + 128)
            else:
                if number == 2:
                    x = torch.flatten(torch.nn.functional.max_pool2d(x, [2, 1], [2, 1]), 1)
                x = ops.linear(
                    x, ops.linear_prepack(weights, getattr(self, f"b{number}")), scale, zero_point + 128
                )
        return x.int_repr().numpy().astype(np.int64)

    def packed(self, number: int) -> Any:
        stored = getattr(self, f"w{number}")
        if not self.per_channel:
            return torch._make_per_tensor_quantized_tensor(stored, self.single[number], 0)
        scales = getattr(self, f"s{number}").double()
        return torch._make_per_channel_quantized_tensor(stored, scales, getattr(self, f"z{number}"), 0)


@pytest.mark.parametrize(
    ("per_channel", "unsigned", "ties"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, False)],
)
def test_codes_are_those_of_qnnpack(per_channel: bool, unsigned: bool, ties: bool) -> None:
    module = Stated(int(ties), per_channel=per_channel, unsigned=unsigned, ties=ties).eval()
    program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
    model = milpq.load(program)
    assert isinstance(model, QuantizedModel) and "pt2e" in model.note
    network = model.on_target(get_target("torch-qnnpack"))
    assert network.input.quantizer is not None
    rng = np.random.default_rng(7)
    count = OUTPUTS // 10 // 4
    halves = rng.integers(-280, 280, (count, *SHAPE)) / 2 * module.grids[0][0]
    rows = np.where(rng.random((count, *SHAPE)) < 0.5, halves, rng.uniform(-2, 2, (count, *SHAPE)))
    rows = rows.astype(np.float32)
    levels = network.input.quantizer(rows.reshape(count, -1).astype(np.float64))
    found = network.execute(levels) + network.output_zero_point + (0 if unsigned else 128)
    expected = module.lowered(torch.from_numpy(rows))
    assert np.count_nonzero(found != expected) == 0
    assert len(np.unique(found)) > 100
    # What torch computes of the graph itself, in float32, is the same up to single codes at ties.
    with torch.no_grad():
        itself = torch.cat([program.module()(torch.from_numpy(row[None])) for row in rows[:100]]).numpy()
    real = network.execute(levels[:100]) * network.output_scale
    assert np.abs(itself - real).max() < 4 * network.output_scale.max()


class Joined(Stated):
    """A sum with a ReLU, both kinds of pools, a concatenation and a mean, in the operators of pt2e."""

    def __init__(self, seed: int, *, ties: bool, unsigned: bool) -> None:
        super().__init__(seed, per_channel=True, unsigned=unsigned, ties=ties)
        self.grids[3] = (float(np.float32(self.grids[2][0] * 1.25)), -128)

    def forward(self, x: Any) -> Any:
        functional = torch.nn.functional
        x = functional.conv2d(self.snap(x, 0), self.weights(0), self.b0, padding=1)
        x = self.snap(functional.relu(x), 1)
        y = self.snap(functional.conv2d(x, self.weights(1), self.b1, padding=1, groups=6), 2)
        x = self.snap(functional.relu(y + x), 3)
        parts = [functional.avg_pool2d(x, [2, 2], [1, 1]), functional.max_pool2d(x, [2, 2], [1, 1])]
        x = self.snap(torch.cat([self.snap(part, 3) for part in parts], 1), 3)
        return self.snap(x.mean([2, 3]), 3)

    def lowered(self, rows: Any) -> np.ndarray:
        """Return the codes of QNNPACK's kernels on quint8."""
        ops, functional = torch.ops.quantized, torch.nn.functional
        given = torch.ops.quantized_decomposed.quantize_per_tensor.default(*self.codes(rows, 0))
        unsigned = (given.to(torch.int16) + (0 if self.unsigned else 128)).to(torch.uint8)
        grids = [(scale, zero_point + 128) for scale, zero_point in self.grids]
        x = torch._make_per_tensor_quantized_tensor(unsigned, *grids[0])
        packed = ops.conv2d_prepack(self.packed(0), self.b0, [1, 1], [1, 1], [1, 1], 1)
        x = ops.conv2d_relu(x, packed, *grids[1])
        packed = ops.conv2d_prepack(self.packed(1), self.b1, [1, 1], [1, 1], [1, 1], 6)
        x = ops.add_relu(ops.conv2d(x, packed, *grids[2]), x, *grids[3])
        x = torch.cat([functional.avg_pool2d(x, 2, 1), functional.max_pool2d(x, 2, 1)], 1)
        return x.mean([2, 3]).int_repr().numpy().astype(np.int64)


@pytest.mark.parametrize("unsigned", [False, True])
def test_sums_pools_and_joins_are_those_of_qnnpack(unsigned: bool) -> None:
    module = Joined(5, unsigned=unsigned, ties=unsigned).eval()
    program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
    network = milpq.load_quantized(program).on_target(get_target("torch-qnnpack"))
    rng = np.random.default_rng(8)
    count = 2000
    halves = rng.integers(-280, 280, (count, *SHAPE)) / 2 * module.grids[0][0]
    rows = np.where(rng.random((count, *SHAPE)) < 0.5, halves, rng.uniform(-2, 2, (count, *SHAPE)))
    rows = rows.astype(np.float32)
    levels = network.input.quantizer(rows.reshape(count, -1).astype(np.float64))
    found = network.execute(levels) + network.output_zero_point + (0 if unsigned else 128)
    expected = module.lowered(torch.from_numpy(rows))
    assert np.count_nonzero(found != expected) == 0
    assert len(np.unique(found)) > 20
    with torch.no_grad():
        itself = torch.cat([program.module()(torch.from_numpy(row[None])) for row in rows[:300]]).numpy()
    apart = np.rint(itself / module.grids[3][0]) - network.execute(levels[:300])
    # What torch computes of the graph itself is another function: its float32 sums meet ties in other ways.
    assert 0 < np.count_nonzero(apart) < 0.1 * apart.size
    assert np.abs(apart).max() <= 2


def test_what_is_not_read_is_named() -> None:
    class Gelu(Stated):
        def forward(self, x: Any) -> Any:
            return self.snap(torch.nn.functional.gelu(self.snap(x, 0)), 1)

    module = Gelu(0, per_channel=False, unsigned=False, ties=False).eval()
    program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
    with pytest.raises(
        UnsupportedModelError, match=r"aten\.gelu\.default is not supported; milpq reads conv2d"
    ):
        milpq.load(program)

    class Open(Stated):
        def forward(self, x: Any) -> Any:
            return torch.nn.functional.conv2d(self.snap(x, 0), self.weights(0), self.b0)

    module = Open(0, per_channel=False, unsigned=False, ties=False).eval()
    program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
    with pytest.raises(UnsupportedModelError, match="output is not quantized"):
        milpq.load(program)


def test_a_bracket_of_an_exported_graph() -> None:
    module = Stated(3, per_channel=True, unsigned=False, ties=False).eval()
    program = torch.export.export(module, (torch.zeros(1, *SHAPE),))
    box = milpq.Box(np.full(84, -0.01), np.full(84, 0.01))
    result = milpq.bound(
        None, program, box, target="torch-qnnpack", method="interval", float_twin="dequantized", time_limit=2
    )
    assert 0 < result.lower <= result.upper < np.inf


def test_what_torchao_converts() -> None:
    """A graph that torchao's own flow makes, with its quantizer for XNNPACK; batch normalization is folded by it."""
    flow = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    quantizers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(36, 10), torch.nn.ReLU(), torch.nn.Linear(10, 3),
    ).eval()  # fmt: skip
    example = (torch.randn(1, *SHAPE),)
    scheme = quantizers.get_symmetric_quantization_config(is_per_channel=True)
    quantizer = quantizers.XNNPACKQuantizer().set_global(scheme)
    prepared = flow.prepare_pt2e(torch.export.export(module, example).module(), quantizer)
    rows = torch.randn(50, 1, *SHAPE)
    for row in rows:
        prepared(row)
    converted = flow.convert_pt2e(prepared)
    for given in (converted, torch.export.export(converted, example)):
        model = milpq.load(given)
        assert isinstance(model, QuantizedModel) and len(model.layers) == 4
        network = model.on_target(get_target("torch-qnnpack"))
        assert network.input.quantizer is not None
        found = network.execute(network.input.quantizer(rows.reshape(50, -1).double().numpy()))
        with torch.no_grad():
            itself = np.concatenate([converted(row).numpy() for row in rows])
        assert np.abs(itself - found * network.output_scale).max() < 4 * network.output_scale.max()
