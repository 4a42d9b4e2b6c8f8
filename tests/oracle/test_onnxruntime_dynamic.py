"""Dynamically quantized models: execution against onnxruntime, and bounds against executions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import milpq
from milpq.bounds import differential, interval, symbolic
from milpq.errors import CertificateError, TargetError, UnsupportedModelError, UsageError
from milpq.merge import Cubes, Problem
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.region.box import Box
from milpq.rounding.targets import get_target

pytest.importorskip("onnxruntime")

from tests.oracle.onnxruntime_models import perceptron, run


def quantize_dynamic(source: Path, path: Path, *, unsigned: bool = False, per_channel: bool = False) -> None:
    from onnxruntime import quantization as q

    kind = q.QuantType.QUInt8 if unsigned else q.QuantType.QInt8
    q.quantize_dynamic(source, path, weight_type=kind, per_channel=per_channel, reduce_range=True)


def models(tmp_path: Path, sizes: tuple[int, ...], **options: bool) -> tuple[FloatNetwork, DynamicNetwork]:
    perceptron(tmp_path / "f.onnx", sizes, 3, matmul=options.pop("matmul", False))
    quantize_dynamic(tmp_path / "f.onnx", tmp_path / "q.onnx", **options)
    original, network = milpq.load(tmp_path / "f.onnx"), milpq.load(tmp_path / "q.onnx")
    assert isinstance(original, FloatNetwork) and isinstance(network, DynamicNetwork)
    return original, network.on_target(get_target("ort"))


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("matmul", [False, True], ids=["gemm", "matmul"])
def test_execution_is_that_of_the_runtime(
    tmp_path: Path, matmul: bool, unsigned: bool, per_channel: bool
) -> None:
    _, network = models(tmp_path, (12, 24, 16, 40), matmul=matmul, unsigned=unsigned, per_channel=per_channel)
    rng = np.random.default_rng(5)
    rows = rng.uniform(-1, 1, (2600, 12))
    rows[:300] *= rng.uniform(0, 1e-3, (300, 1))
    rows[300:600] = np.abs(rows[300:600])
    rows[600:1600] = np.rint(rows[600:1600] * 51) / 51
    # With a range of 255 the scale is 1, and halves are ties.
    rows[1600:2200] = rng.integers(0, 511, (600, 12)) / 2
    rows[1600:2200, 0], rows[1600:2200, 1] = 255, 0
    rows[2200] = 0
    narrow = rows.astype(np.float32)
    expected = run(tmp_path / "q.onnx", narrow, single=True)
    found = network.evaluate(rows)
    assert found.size >= 100_000
    np.testing.assert_array_equal(found, expected.astype(np.float64))


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
def test_executions_lie_inside_every_bound(tmp_path: Path, unsigned: bool) -> None:
    original, network = models(tmp_path, (4, 8, 8, 3), unsigned=unsigned)
    rng = np.random.default_rng(6)
    middle = rng.uniform(-1, 1, (12, 4))
    middle[:4, :2] = [[1, -1]] * 4
    radius = 2.0 ** rng.uniform(-14, 0, (12, 1)) * np.array([1, 1, 1, 0.5])
    radius[:4, :2] = 0  # the scale of the first layer is fixed
    problem = Problem.create(original, network, Box([-3.0] * 4, [3.0] * 4))
    none = np.zeros((12, 4), dtype=np.int64)
    cubes = Cubes(middle - radius, middle + radius, none, none)
    points = middle + radius * np.where(
        rng.random((4000, 12, 4)) < 0.3,
        rng.choice([-1.0, 1.0], (4000, 12, 4)),
        rng.uniform(-1, 1, (4000, 12, 4)),
    )
    difference, error = problem.differences(points.reshape(-1, 4))
    difference, error = (part.reshape(4000, 12, 3) for part in (difference, error))
    widths = {}
    for bound in (interval, symbolic, differential):
        found = bound(problem, cubes).difference
        assert (difference - error <= found.upper).all() and (difference + error >= found.lower).all()
        widths[bound.__name__] = found.upper - found.lower
    assert (widths["differential"] <= widths["interval"] + 1e-12).all()
    assert (widths["differential"][4:] < widths["interval"][4:]).any()


def test_a_region_that_fixes_the_scale_is_answered_exactly(tmp_path: Path) -> None:
    original, network = models(tmp_path, (4, 3))
    scale = 2 / 255
    # Inputs 2 and 3 stay within one level each, so that the quantized side is one number, but for what float32 rounds.
    lower = [1, -1, (10 - 0.4) * scale, (-7 - 0.4) * scale]
    upper = [1, -1, (10 + 0.4) * scale, (-7 + 0.4) * scale]
    result = milpq.bound(original, network, (lower, upper), target="ort", method="differential")
    assert result.upper - result.lower < 1e-4 * result.upper
    corners = np.array([[1, -1, x, y] for x in (lower[2], upper[2]) for y in (lower[3], upper[3])])
    exact = np.abs(network.evaluate(corners) - original.evaluate(corners)).max()
    assert result.lower <= exact <= result.upper


def test_bound_splits_and_gives_a_witness_of_the_runtime(tmp_path: Path) -> None:
    models(tmp_path, (2, 6, 2))
    result = milpq.bound(
        tmp_path / "f.onnx", tmp_path / "q.onnx", ([0.2, -0.4], [0.3, -0.3]), target="ort", time_limit=2.0
    )
    uppers = {name: method.upper for name, method in result.methods.items()} if isinstance(result.methods, dict) else {
        method.name: method.upper for method in result.methods}  # fmt: skip
    assert result.lower <= result.upper < uppers["interval"] and uppers["split"] <= uppers["differential"]
    assert result.witness is not None and result.certificate.trust == "checked"
    point = np.array([result.witness.input], dtype=np.float32)
    executed = run(tmp_path / "q.onnx", point)[0]
    np.testing.assert_array_equal(executed.astype(np.float64), result.witness.quantized_output)


def test_what_is_not_answered_says_so(tmp_path: Path) -> None:
    files = tmp_path / "f.onnx", tmp_path / "q.onnx"
    models(tmp_path, (2, 6, 2))
    region = [0.0, 0.0], [0.1, 0.1]
    with pytest.raises(TargetError, match="--target ort"):
        milpq.bound(*files, region)
    with pytest.raises(TargetError, match="--target ort"):
        milpq.bound(*files, region, target="tflm")
    for method in ("lp", "milp"):
        with pytest.raises(UsageError, match="--method"):
            milpq.bound(*files, region, target="ort", method=method)
    proof = tmp_path / "c.milpq"
    milpq.bound(*files, region, target="ort", certificate=proof, method="differential", time_limit=2)
    with pytest.raises(CertificateError, match="a question that these networks do not answer"):
        milpq.check(proof, files[0], files[0])
    assert milpq.check(proof, *files).target == "ort"
    with pytest.raises(UnsupportedModelError, match="float network is needed"):
        milpq.bound(files[1], files[1], region, target="ort")
    model = onnx.load(files[1])
    model.graph.node.append(
        helper.make_node("Tanh", [model.graph.output[0].name], ["squashed"], name="squash")
    )
    model.graph.output[0].name = "squashed"
    onnx.save(model, tmp_path / "tanh.onnx")
    with pytest.raises(UnsupportedModelError, match=r"Tanh 'squash': is not supported"):
        milpq.load(tmp_path / "tanh.onnx")
