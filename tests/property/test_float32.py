"""Float32 evaluations of the float side, in many orders, stay within what is promised."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from onnx import helper, numpy_helper
from random_pairs import box, float_network, perturbed

import milpq
from milpq.bounds import differential, interval
from milpq.bounds.float32 import float32_error
from milpq.errors import UnsupportedModelError, UsageError
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel
from milpq.region.box import Box
from milpq.rounding.requantization import Requantization
from milpq.verify.float_arithmetic import region_error
from tests.oracle.onnxruntime_models import save

MODELS = Path(__file__).parents[2] / "benchmarks/models"


def narrowed(network: FloatNetwork) -> FloatNetwork:
    """Return the network with its weights rounded to float32, as a file stores them."""
    nodes = tuple(
        Affine(
            node.name,
            tuple(Term(t.source, t.matrix.astype(np.float32).astype(np.float64)) for t in node.terms),
            node.bias.astype(np.float32).astype(np.float64),
        )
        if isinstance(node, Affine)
        else node
        for node in network.nodes
    )
    return FloatNetwork(network.input_size, nodes, network.output)


def in_float32(network: FloatNetwork, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Evaluate in float32, every sum in an order of its own."""
    values = [points.astype(np.float32)]
    for node in network.nodes:
        if not isinstance(node, Affine):
            clamped = np.clip(values[node.source], np.float32(node.lower), np.float32(node.upper))
            values.append(clamped.astype(np.float32))
            continue
        columns = [np.broadcast_to(node.bias.astype(np.float32), (len(points), len(node.bias)))]
        for term in node.terms:
            weights = term.matrix.astype(np.float32)
            columns += [
                values[term.source][:, i, None] * weights[None, :, i] for i in range(weights.shape[1])
            ]
        total = np.zeros((len(points), len(node.bias)), dtype=np.float32)
        for i in rng.permutation(len(columns)):
            total = total + columns[i]
        values.append(total)
    return values[network.output].astype(np.float64)


@pytest.mark.parametrize("seed", range(12))
def test_any_order_stays_within_the_error(seed):
    rng = np.random.default_rng(seed)
    clamp = [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0)][seed % 3]
    network = narrowed(float_network(rng, [4, 30, 20, 3], clamp))
    problem = Problem.create(network, perturbed(rng, network, 0.01), box(-2, 2, 4))
    error = float32_error(problem.merged, differential(problem, problem.domain.root))
    points = rng.uniform(-2, 2, (300, 4)).astype(np.float32).astype(np.float64)
    exact, slack = network.evaluate_with_error(points)
    largest = np.zeros(3)
    for _ in range(8):
        largest = np.maximum(largest, (np.abs(in_float32(network, points, rng) - exact) - slack).max(axis=0))
    assert (largest <= error).all()
    assert (largest > 1e-4 * error).all()


def test_a_copy_is_exact_but_for_the_rounding_of_the_input():
    once = (Affine("minus", (Term(0, -np.eye(2)),), np.zeros(2)),)
    twice = (*once, Affine("again", (Term(1, -np.eye(2)),), np.zeros(2)))
    for nodes in (once, twice):
        network = FloatNetwork(2, nodes, len(nodes))
        problem = Problem.create(network, network, box(-1, 1, 2))
        error = float32_error(problem.merged, differential(problem, problem.domain.root))
        assert (error >= 2.0**-24).all() and (error < 1.001 * 2.0**-24).all()


def test_what_codes_stand_for_is_rounded_to_float32():
    """Scale times level has more bits than float32, even where nothing but the input rounds."""
    scale = float(np.float32(0.1))
    network = FloatNetwork(1, (Affine("copy", (Term(0, np.eye(1)),), np.zeros(1)),), 1)
    rounding = Requantization("fully_connected", scale, np.ones(1), False, scale, 0, -128, 127)
    layer = QuantizedLinear(
        "copy", 0, np.eye(1), np.zeros(1, np.int64), scale, np.ones(1), np.zeros(1, np.int64), rounding
    )
    scales = np.full(1, scale)
    model = QuantizedModel(scales, 0, -128, 127, scales, (layer,), 1)
    options = {"target": "tflm", "input_domain": "codes"}
    assert milpq.bound(network, model, box(-12, 12, 1), **options).upper < 1e-12
    wide = milpq.bound(network, model, box(-12, 12, 1), **options, float_arithmetic="float32")
    apart = [abs(Fraction(scale) * n - Fraction(float(np.float32(scale * n)))) for n in range(-119, 120)]
    assert 1e-7 < max(apart) <= Fraction(wide.upper) <= 4 * max(apart)


def assert_covers(network: FloatNetwork, points: np.ndarray) -> np.ndarray:
    """Return the error bound over the box around some points, having compared it there in exact arithmetic."""
    points = points.astype(np.float32).astype(np.float64)
    problem = Problem.create(network, network, Box(points.min(axis=0), points.max(axis=0)))
    error = float32_error(problem.merged, interval(problem, problem.domain.root))
    found = in_float32(network, points, np.random.default_rng(0))
    worst = Fraction(0)
    for x, row in zip(points, found, strict=True):
        for exact, value, most in zip(network.evaluate_exact(x), row, error, strict=True):
            if not np.isfinite(value):
                assert most == np.inf
            elif np.isfinite(most):
                worst = max(worst, abs(exact - Fraction(value)))
                assert abs(exact - Fraction(value)) <= Fraction(most)
    assert worst > 0 or np.isinf(error).any()
    return error


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_larger_end_of_a_range_counts(sign):
    """The other end is 0, where nothing rounds."""
    network = FloatNetwork(2, (Affine("sum", (Term(0, np.array([[0.1, 0.3]])),), np.zeros(1)),), 1)
    points = sign * np.random.default_rng(0).uniform(0, 1000, (50, 2))
    assert assert_covers(network, np.concatenate([points, np.zeros((1, 2))])).max() < 1e-3


@pytest.mark.parametrize(("reach", "weight"), [(1e-40, 1e20), (1e-30, 1e-9)])
def test_inputs_and_products_that_underflow_may_be_flushed_to_zero(reach, weight):
    layers = (np.array([[weight]]), np.array([[1e15]]))
    nodes = tuple(Affine(f"layer{k}", (Term(k, matrix),), np.zeros(1)) for k, matrix in enumerate(layers))
    network = FloatNetwork(1, nodes, 2)
    problem = Problem.create(network, network, box(0.0, reach, 1))
    error = float32_error(problem.merged, interval(problem, problem.domain.root))
    flushed = Fraction(reach) * Fraction(weight) * Fraction(1e15)
    assert flushed <= Fraction(float(error[0]))
    assert float(error[0]) < 1e4 * float(flushed)


def test_both_ends_of_both_extremes_are_widened():
    rng = np.random.default_rng(2)
    network = narrowed(float_network(rng, [2, 6, 2], (0.0, np.inf)))
    pair = network, perturbed(rng, network, 0.01)
    real = milpq.bound(*pair, box(-1, 1, 2), method="differential")
    wide = milpq.bound(*pair, box(-1, 1, 2), method="differential", float_arithmetic="float32")
    error = region_error(Problem.create(*pair, box(-1, 1, 2)))
    for before, after, most in zip(real.outputs, wide.outputs, error.tolist(), strict=True):
        assert after.max_upper >= before.max_upper + most and after.min_upper >= before.min_upper + most
        assert after.max_lower <= before.max_lower - most and after.min_lower <= before.min_lower - most


def test_the_sum_of_two_copies_rounds():
    # The addition of a residual block: no weight but 1, no bias, and yet a rounding.
    rng = np.random.default_rng(0)
    both = (Term(0, np.eye(4, 8)), Term(0, np.eye(4, 8, 4)))
    network = FloatNetwork(8, (Affine("add", both, np.zeros(4)),), 1)
    assert assert_covers(network, rng.uniform(-1, 1, (50, 8))).max() < 1e-5
    sparse = tuple(Term(t.source, sp.csr_array(t.matrix)) for t in both)
    other = FloatNetwork(8, (Affine("add", sparse, np.zeros(4)),), 1)
    problem = Problem.create(other, other, box(-1, 1, 8))
    assert (float32_error(problem.merged, interval(problem, problem.domain.root)) > 1e-7).all()


def test_roundings_of_copies_and_of_their_sum_add_up():
    """All three go upwards here: of the inputs by 1/2 and 1 unit of 2^-23, of the sum by 1."""
    both = (Term(0, np.array([[1.0, 0.0]])), Term(0, np.array([[0.0, 1.0]])))
    network = FloatNetwork(2, (Affine("add", both, np.zeros(1)),), 1)
    unit = 2.0**-23
    point = np.array([1 + 0.5001 * unit, 2 + 1.0002 * unit])
    first, second = point.astype(np.float32)
    found = Fraction(float(first + second)) - sum(map(Fraction, point.tolist()))
    assert found > Fraction(2.4) * Fraction(unit)
    problem = Problem.create(network, network, Box(np.zeros(2), point))
    assert Fraction(float32_error(problem.merged, interval(problem, problem.domain.root))[0]) >= found


def test_ends_of_clamps_round():
    nodes = (Clamp("clamp", 0, -0.7, 0.9), Affine("copy", (Term(1, np.eye(1)),), np.zeros(1)))
    network = FloatNetwork(1, nodes, 2)
    assert assert_covers(network, np.array([[-2.0], [2.0], [0.1]])).max() < 1.6e-7


def test_sums_that_overflow_promise_nothing():
    for weights in ([[3e38, 3e38]], [[1e39, 0.0]]):
        network = FloatNetwork(2, (Affine("sum", (Term(0, np.array(weights)),), np.zeros(1)),), 1)
        with np.errstate(over="ignore", invalid="ignore"):
            assert assert_covers(network, np.array([[1.0, 1.0], [-1.0, 0.5]])).max() == np.inf
        with pytest.raises(UnsupportedModelError, match="overflow float32"):
            region_error(Problem.create(network, network, box(-1, 1, 2)))


@pytest.mark.parametrize("weight", [0.99 * 2.0**-150, 1.7 * 2.0**-149, 2.0**-127 / 3])
def test_weights_that_underflow(weight):
    network = FloatNetwork(1, (Affine("faint", (Term(0, np.array([[weight]])),), np.zeros(1)),), 1)
    assert assert_covers(network, np.array([[1e30], [-1e30], [3e12]])).max() < 1e-7


def test_bound_covers_the_model_as_run():
    files = MODELS / "controller.onnx", MODELS / "controller_int8.tflite", MODELS / "controller_small.toml"
    real = milpq.bound(*files, target="tflm", input_domain="codes")
    wide = milpq.bound(*files, target="tflm", input_domain="codes", float_arithmetic="float32")
    assert wide.lower < real.lower <= real.upper < wide.upper
    assert wide.upper - real.upper < 1e-4
    assert (real.status, wide.status) == ("optimal", "bounded")
    loose = milpq.bound(*files, target="tflm", input_domain="codes", float_arithmetic="float32", gap=0.01)
    assert loose.status == "optimal"
    assert any("float32" in note for note in wide.problem.notes)
    between = 0.5 * (real.upper + wide.upper)
    options = {"target": "tflm", "input_domain": "codes", "tolerance": between}
    assert milpq.bound(*files, **options).status == "certified"
    undecided = milpq.bound(*files, **options, float_arithmetic="float32")
    assert undecided.status == "undecided"
    assert undecided.problem.tolerance == between
    for tolerance, status in ((wide.upper * 1.001, "certified"), (wide.lower * 0.999, "violated")):
        options["tolerance"] = tolerance
        assert milpq.bound(*files, **options, float_arithmetic="float32").status == status
    with pytest.raises(UsageError, match="float arithmetic"):
        milpq.bound(*files, target="tflm", float_arithmetic="float16")


def test_the_region_error_is_that_of_the_chosen_outputs():
    rng = np.random.default_rng(3)
    network = narrowed(float_network(rng, [3, 8, 4], (0.0, np.inf)))
    other = perturbed(rng, network, 0.01)
    every = region_error(Problem.create(network, other, box(-1, 1, 3)))
    some = region_error(Problem.create(network, other, box(-1, 1, 3), outputs=[1, 3]))
    assert (some == every[[1, 3]]).all()


def test_folded_batch_normalizations_are_told_of(tmp_path: Path) -> None:
    """A runtime that does not fold them rounds in other places, which the widened bracket does not cover."""
    rng = np.random.default_rng(5)
    weights = {"w": (4, 3), "b": (4,), "gamma": (4,), "beta": (4,), "mean": (4,), "variance": (4,)}
    constants = [
        numpy_helper.from_array(rng.uniform(0.5, 1, shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["g"], "dense", transB=1)
    normal = helper.make_node(
        "BatchNormalization", ["g", "gamma", "beta", "mean", "variance"], ["y"], "normal"
    )
    notes: list[str] = []
    for name, nodes in (("plain", [gemm]), ("normal", [gemm, normal])):
        save(tmp_path / f"{name}.onnx", nodes, constants, [1, 3], nodes[-1].output[0], [1, 4])
        paths = tmp_path / f"{name}.onnx", tmp_path / f"{name}.onnx"
        box = milpq.Box([-0.1] * 3, [0.1] * 3)
        result = milpq.bound(*paths, box, float_arithmetic="float32", method="interval", time_limit=1)
        notes.append(" ".join(result.problem.notes))
    assert "apart from the layers before them is not covered" in notes[1]
    assert "any order of sums" in notes[0] and "not covered" not in notes[0]
