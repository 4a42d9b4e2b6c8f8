"""Compiled execution against big integers and fractions, neuron by neuron, on networks of every kind."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from image_pairs import KINDS, image_pair

from milpq.errors import AccumulatorOverflowError, RegionError
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerInput, IntegerNetwork
from milpq.network.nodes import Affine, Clamp, IntegerAffine, Step, Term
from milpq.network.program import evaluate_fast, execute_fast, levels_fast, program_of
from milpq.rounding.input_quantizer import RULES, InputQuantizer
from milpq.rounding.step import NEVER, StepFunction
from milpq.search.execution import Execution

POINTS = 37
"""Neither a multiple of a block nor less than one."""


def random_matrix(
    rng: np.random.Generator, rows: int, columns: int, largest: int
) -> np.ndarray | sp.csr_array:
    matrix = rng.integers(-largest, largest + 1, (rows, columns)).astype(np.float64)
    if rng.random() < 0.5:
        return matrix
    matrix[rng.random(matrix.shape) < 0.6] = 0
    matrix[rng.integers(rows)] = 0  # a row that reads nothing
    if rng.random() < 0.5:
        matrix[1::2] = matrix[0 : 2 * (rows // 2) : 2] * (matrix[0 : 2 * (rows // 2) : 2] != 0)
    return sp.csr_array(matrix)


def random_step(rng: np.random.Generator, lower: np.ndarray, upper: np.ndarray) -> StepFunction:
    """Return steps over these accumulators: affine ones, half away from zero, coarse, uneven, tables, constants."""
    reach = int(max(np.abs(lower).max(), np.abs(upper).max(), 1))
    if reach >= 2**31:
        raise AccumulatorOverflowError("no step is needed of what is refused")
    kind = rng.integers(4)
    count = int(rng.integers(2, 40))
    if kind == 0:
        start = int(rng.integers(-30, 10))
        thresholds = np.arange(start, start + count)[None]
        values = np.sort(rng.integers(-200, 200, (1, count + 1)), axis=1)
        return StepFunction(thresholds, values, np.zeros(len(lower), dtype=np.int64))
    rows = rng.integers(0, 3, len(lower))
    values = np.tile(np.arange(count + 1) - count // 2, (3, 1))
    if kind == 1:
        thresholds = np.sort(rng.integers(-reach, reach + 1, (3, count)), axis=1)
    else:
        slope = rng.uniform(0.4, 3.0, (3, 1)) * count / (2 * reach + 1)
        exact = (values[:, 1:] - 0.5) / slope
        thresholds = np.where((kind == 2) & (exact < 0), np.floor(exact) + 1, np.ceil(exact)).astype(np.int64)
    thresholds[0, -1] = NEVER
    thresholds[1, 0] = -NEVER
    return StepFunction(thresholds, values, rows)


def random_integer_network(seed: int, largest: int) -> IntegerNetwork:
    """Return a network with skip connections, whose steps have sources that are read later or not."""
    rng = np.random.default_rng(seed)
    entry = IntegerInput(np.full(5, 0.1), 3, -20, 25, np.full(5, 0.1), None)
    nodes: list[IntegerAffine | Step] = []
    sizes, seen = [5], [rng.integers(-20, 26, (400, 5)).astype(np.float64)]
    for _ in range(int(rng.integers(2, 5))):
        size = int(rng.integers(1, 20))
        sources = sorted({len(sizes) - 1, *rng.integers(0, len(sizes), int(rng.integers(0, 2))).tolist()})
        terms = tuple(Term(s, random_matrix(rng, size, sizes[s], largest)) for s in sources)
        bias = rng.integers(-50 * largest, 50 * largest + 1, size)
        nodes.append(IntegerAffine(f"a{len(nodes)}", terms, bias, np.ones(size)))
        accumulator = sum(
            (np.asarray(t.matrix @ seen[t.source].T).T for t in terms), start=bias[None].astype(float)
        )
        step = random_step(rng, accumulator.min(axis=0), accumulator.max(axis=0))
        nodes.append(Step(f"s{len(nodes)}", len(nodes), step, np.ones(size)))
        sizes += [size, size]
        seen += [accumulator, step(accumulator.astype(np.int64)).astype(np.float64)]
    output = len(nodes) if rng.random() < 0.7 else int(rng.integers(0, len(nodes) + 1))
    return IntegerNetwork(entry, tuple(nodes), output, "none")


def in_integers(network: IntegerNetwork, levels: list[int]) -> list[int]:
    """Execute one point in Python's integers, by the definition of each node."""
    values: list[list[int]] = [levels]
    for node in network.nodes:
        if isinstance(node, IntegerAffine):
            total = [int(b) for b in node.bias]
            for term in node.terms:
                dense = term.matrix if isinstance(term.matrix, np.ndarray) else term.matrix.toarray()
                for j, row in enumerate(dense):
                    total[j] += sum(int(w) * x for w, x in zip(row, values[term.source], strict=True))
            values.append(total)
        else:
            function = node.function
            values.append(
                [
                    int(function.values[row, sum(int(t) <= x for t in function.thresholds[row])])
                    for row, x in zip(function.rows, values[node.source], strict=True)
                ]
            )
    return values[network.output]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 127, 5000, 40_000]))
def test_integer_networks_are_executed_exactly(seed, largest):
    try:
        network = random_integer_network(seed, largest)
    except AccumulatorOverflowError:
        assume(False)
        raise
    levels = np.random.default_rng(seed).integers(-20, 26, (POINTS, 5))
    executed = execute_fast(network, levels)
    np.testing.assert_array_equal(executed, network.execute(levels))
    for row in (0, POINTS - 1):
        assert executed[row].tolist() == in_integers(network, levels[row].tolist())


@pytest.mark.parametrize("largest", [1, 2**23 - 1, 2**24, 2**26])
def test_precision_is_single_only_where_that_is_exact(largest):
    """One accumulator is odd and just below the largest, where single precision has even numbers only."""
    entry = IntegerInput(np.ones(2), 0, 0, 1, np.ones(2), None)
    node = IntegerAffine("a", (Term(0, np.array([[largest, -1.0], [1.0, 1.0]])),), np.zeros(2), np.ones(2))
    network = IntegerNetwork(entry, (node,), 1, "none")
    program = program_of(network)
    assert program is not None
    assert program.precision is (np.float32 if largest < 2**24 - 1 else np.float64)
    assert execute_fast(network, np.array([[1, 1]])).tolist() == [[largest - 1, 2]]


@pytest.mark.parametrize("value", [2**24 + 1, 2**24 - 1])
def test_large_levels_are_exact(value):
    step = StepFunction(np.array([[1]]), np.array([[0, value]]), np.zeros(1, dtype=np.int64))
    entry = IntegerInput(np.ones(1), 0, 0, 1, np.ones(1), None)
    network = IntegerNetwork(entry, (Step("s", 0, step, np.ones(1)),), 1, "none")
    assert execute_fast(network, np.array([[0], [1]])).tolist() == [[0], [value]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_staircases_are_the_steps_at_every_accumulator(seed, precision):
    rng = np.random.default_rng(seed)
    reach = int(10 ** rng.uniform(1, 4))
    ends = np.full(4, -reach), np.full(4, reach)
    step = random_step(rng, *ends)
    stairs, exact = step.staircases(precision)
    accumulator = np.concatenate(
        [np.arange(-reach - 5, reach + 6), [1 - 2**24, 2**24 - 1, *rng.integers(-(2**24), 2**24, 50)]]
    )
    slope, negative, other, bottom, top = (stairs[:, i].astype(precision) for i in range(5))
    x = accumulator[:, None].astype(precision)
    computed = np.clip(np.floor(x * slope + np.where(x >= 0, other, negative)), bottom, top)
    expected = step(np.repeat(accumulator[:, None], 4, axis=1))
    np.testing.assert_array_equal(computed[:, exact], expected[:, exact])


def test_a_threshold_beyond_single_precision_is_not_reached_early():
    """The staircase through both thresholds would take the second level at 2^24 − 1 already."""
    thresholds = np.array([[2**23, 2**24 + 2**10]])
    step = StepFunction(thresholds, np.array([[0, 1, 2]]), np.zeros(1, dtype=np.int64))
    stairs, exact = step.staircases(np.float32)
    if exact[0]:
        slope, _, other, bottom, top = stairs[0].astype(np.float32)
        assert np.clip(np.floor(np.float32(2**24 - 1) * slope + other), bottom, top) == 1
    assert step.staircases(np.float64)[1].all()


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_zero_is_on_the_staircase_of_what_is_not_negative(precision):
    """The staircase in front of zero would reach the next level there."""
    step = StepFunction(np.array([[-4, -2, 1, 3]]), np.array([[-3, -2, -1, 0, 1]]), np.zeros(1, np.int64))
    stairs, exact = step.staircases(precision)
    assert exact.all() and np.floor(stairs[0, 1]) != np.floor(stairs[0, 2])
    entry = IntegerInput(np.ones(1), 0, -4, 4, np.ones(1), None)
    weight = 1.0 if precision is np.float32 else float(2**25)
    wide = IntegerAffine("wide", (Term(0, np.array([[weight], [1.0]])),), np.zeros(2), np.ones(2))
    chosen = IntegerAffine("one", (Term(1, np.array([[0.0, 1.0]])),), np.zeros(1), np.ones(1))
    network = IntegerNetwork(entry, (wide, chosen, Step("s", 2, step, np.ones(1))), 3, "none")
    program = program_of(network)
    assert program is not None and program.precision is precision
    assert execute_fast(network, np.arange(-4, 5)[:, None]).ravel().tolist() == [
        -2,
        -2,
        -1,
        -1,
        -1,
        0,
        0,
        1,
        1,
    ]


def random_float_network(seed: int, exponent: float) -> FloatNetwork:
    rng = np.random.default_rng(seed)
    nodes: list[Affine | Clamp] = []
    sizes = [4]
    for _ in range(3):
        size = int(rng.integers(1, 18))
        sources = sorted({len(sizes) - 1, int(rng.integers(len(sizes)))})
        scale = 10.0 ** rng.uniform(-exponent, exponent)
        terms = tuple(Term(s, scale * random_matrix(rng, size, sizes[s], 9) / 7) for s in sources)
        nodes.append(Affine(f"a{len(nodes)}", terms, scale * rng.normal(size=size)))
        nodes.append(Clamp(f"c{len(nodes)}", len(nodes), 0.0, np.inf if rng.random() < 0.5 else 3 * scale))
        sizes += [size, size]
    return FloatNetwork(4, tuple(nodes), len(nodes))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0, 60.0]))
def test_float_networks_are_within_their_error(seed, exponent):
    network = random_float_network(seed, exponent)
    points = np.random.default_rng(seed).normal(size=(POINTS, 4))
    computed = evaluate_fast(network, points)
    error = network.evaluate_with_error(points)[1]
    for row in (0, POINTS - 1):
        for value, exact, bound in zip(
            computed[row], network.evaluate_exact(points[row]), error[row], strict=True
        ):
            assert abs(Fraction(float(value)) - exact) <= Fraction(float(bound))


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_executed_as_their_matrices_are(kind, tmp_path):
    problem = image_pair(3, tmp_path, kind)
    quantized = problem.quantized
    assert isinstance(quantized, IntegerNetwork)
    rng = np.random.default_rng(0)
    levels = rng.integers(
        quantized.input.level_lower, quantized.input.level_upper + 1, (POINTS, quantized.input.size)
    )
    np.testing.assert_array_equal(execute_fast(quantized, levels), quantized.execute(levels))
    points = quantized.input.float_value(levels)
    np.testing.assert_allclose(
        evaluate_fast(problem.float_network, points),
        problem.float_network.evaluate(points),
        rtol=1e-12,
        atol=1e-12,
    )


def test_points_may_be_read_only_transposed_or_none():
    network = random_float_network(1, 0.0)
    points = np.random.default_rng(1).normal(size=(4, POINTS))
    points.flags.writeable = False
    np.testing.assert_array_equal(evaluate_fast(network, points.T), evaluate_fast(network, points.T.copy()))
    assert evaluate_fast(network, np.zeros((0, 4))).shape == (0, network.output_size)


def test_levels_that_the_input_cannot_hold_are_refused():
    with pytest.raises(RegionError, match="input codes must lie in"):
        execute_fast(random_integer_network(0, 1), np.array([[26, 0, 0, 0, 0]]))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_levels_are_those_of_the_quantizer(rule):
    rng = np.random.default_rng(0)
    scales = np.float32([0.1, 1 / 3, 0.1, 1e-37, 3e35]).astype(np.float64)
    quantizer = InputQuantizer.from_rule(rule, scales, np.full(5, -5), -128, 127)
    points = scales * rng.normal(0, 60, (4000, 5))
    steps = quantizer.thresholds[np.arange(5), rng.integers(0, 255, (2000, 5))]
    points[:2000] = np.clip(steps, -2e9 * scales, 2e9 * scales)
    points[1000:1500] = np.nextafter(points[:500], np.inf)
    points[1500:2000] = np.nextafter(points[:500], -np.inf)
    points[2000:2100] *= 1e5
    points[-1] = 0.0
    np.testing.assert_array_equal(levels_fast(quantizer, points), quantizer(points))


def test_levels_of_uneven_steps_are_those_of_the_quantizer():
    """The first guess is far off, and the ends of the table are infinite."""
    rng = np.random.default_rng(0)
    at = np.sort(10.0 ** rng.uniform(-30, 30, (3, 40)), axis=1).astype(np.float32)
    thresholds = 0.5 * (at.astype(np.float64) + np.nextafter(at, np.float32(0)).astype(np.float64))
    thresholds[0, :2], thresholds[1, -3:] = -np.inf, np.inf
    thresholds[2, 1:] = thresholds[2, 1]
    quantizer = InputQuantizer(np.sort(thresholds, axis=1), -7)
    points = np.concatenate(
        [10.0 ** rng.uniform(-35, 35, (500, 3)), at.T.astype(np.float64), [[-1e308, 0, 1e308]]]
    )
    np.testing.assert_array_equal(levels_fast(quantizer, points), quantizer(points))


@pytest.mark.parametrize("x", [np.nan, np.inf, -1e300])
def test_inputs_that_runtimes_wrap_are_refused(x):
    quantizer = InputQuantizer.from_rule("rint-mul", np.full(2, 0.5), np.zeros(2, dtype=np.int64), -128, 127)
    with pytest.raises(RegionError, match="where runtimes wrap"):
        levels_fast(quantizer, np.array([[0.0, 0.0], [0.0, x]]))


def test_a_program_is_made_once_and_not_sent_along():
    network = random_float_network(1, 0.0)
    before = len(pickle.dumps(network))
    assert program_of(network) is program_of(network)
    assert len(pickle.dumps(network)) == before
    copy = pickle.loads(pickle.dumps(network))
    points = np.ones((3, 4))
    np.testing.assert_array_equal(evaluate_fast(copy, points), evaluate_fast(network, points))


def test_execution_is_within_its_error(tmp_path):
    problem = image_pair(1, tmp_path, "residual", domain="codes")
    execution = Execution(problem)
    root = problem.domain.root
    levels = np.random.default_rng(0).integers(
        root.level_lower[0], root.level_upper[0] + 1, (POINTS, root.lower.shape[1])
    )
    assert problem.domain.integer is not None
    points = problem.domain.integer.float_value(levels)
    exact, error = problem.differences(points)
    assert (np.abs(execution.run(points, levels) - exact) <= execution.error + error).all()
