from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from random_pairs import box, float_network, sample
from search_problems import problem_of

from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.region.box import Box
from milpq.search.execution import Execution, _largest_error, signed
from milpq.search.pool import enclose_difference


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
@pytest.mark.parametrize("clamp", [(0.0, np.inf), (0.5, 2.0), (-np.inf, np.inf)])
def test_one_error_bound_holds_for_every_point(kind, clamp):
    problem = problem_of(kind, clamp=(0.0, 6.0) if clamp == (0.5, 2.0) and kind != "real" else clamp)
    execution = Execution(problem)
    points = sample(np.random.default_rng(1), problem, 60)
    result = execution.run(points)
    assert (execution.error < 1e-11).all()
    for point, values in zip(points, result, strict=True):
        for value, (exact, same), error in zip(
            values, enclose_difference(problem, point), execution.error, strict=True
        ):
            assert exact == same
            assert abs(Fraction(float(value)) - exact) <= Fraction(float(error))
    assert np.allclose(result, problem.differences(points)[0], rtol=0, atol=1e-12)


def test_the_error_covers_cancellation_and_clamps_away_from_zero():
    large = Affine("large", (Term(0, np.array([[1e12], [1e12]])),), np.array([1e12, -1e12]))
    network = FloatNetwork(
        1,
        (
            large,
            Clamp("clamp", 1, 5e11, 9e11),
            Affine("sum", (Term(2, np.array([[0.1, -0.1]])),), np.array([0.3])),
        ),
        3,
    )
    problem = Problem.create(network, network, box(-1.0, 1.0, 1))
    execution = Execution(problem)
    assert execution.error[0] > 1e-5
    assert np.array_equal(execution.run(np.array([[0.5]])), [[0.0]])


def test_levels_given_stand_for_the_integer_side():
    problem = problem_of("continuous")
    execution = Execution(problem)
    points = sample(np.random.default_rng(2), problem, 20)
    assert np.array_equal(execution.run(points), execution.run(points, problem.quantized_levels(points)))


def test_chunks_do_not_change_the_answer_of_their_rows():
    problem = problem_of("codes")
    execution = Execution(problem)
    points = sample(np.random.default_rng(3), problem, 5000)
    assert np.allclose(execution.run(points)[4000:], execution.run(points[4000:]), rtol=0, atol=1e-13)


def test_objectives_are_both_signs_of_every_output():
    assert np.array_equal(signed(np.array([[1.0, -2.0]])), [[1.0, -2.0, -1.0, 2.0]])


def test_the_error_of_a_deep_sparse_network_is_near_that_of_its_values():
    # By magnitudes of weights alone, and rows as long as a layer is wide, it would be seventy times as large.
    generator = np.random.default_rng(4)
    nodes, size = [], 100
    for layer in range(12):
        matrix = sp.random_array(
            (size, size), density=0.05, rng=generator, data_sampler=generator.standard_normal
        )
        nodes += [
            Affine(
                f"affine{layer}", (Term(2 * layer, sp.csr_array(matrix)),), generator.standard_normal(size)
            ),
            Clamp(f"clamp{layer}", 2 * layer + 1, 0.0, np.inf),
        ]
    network = FloatNetwork(size, tuple(nodes), len(nodes))
    first = Affine("affine0", (Term(0, 1.01 * nodes[0].terms[0].matrix),), nodes[0].bias)
    other = FloatNetwork(size, (first, *nodes[1:]), len(nodes))
    centre = generator.standard_normal(size)
    problem = Problem.create(network, other, Box(centre - 1e-3, centre + 1e-3))
    execution = Execution(problem)
    points = sample(generator, problem, 2)
    result = execution.run(points)
    values = np.abs(network.evaluate(points)).max()
    assert (execution.error < 2e-9 * values).all()
    for point, row in zip(points, result, strict=True):
        exact = enclose_difference(problem, point)
        for value, (low, high), error in zip(row, exact, execution.error, strict=True):
            assert low == high
            assert abs(Fraction(float(value)) - low) <= Fraction(float(error))


def test_the_size_that_errors_are_reckoned_from_holds_at_every_point():
    """Weights of both signs: the ends of an interval add up by their sizes."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        network = float_network(rng, [3, 5, 4, 2], [(0.0, np.inf), (-1.0, 1.0)][rng.integers(2)])
        lower = rng.normal(size=3)
        upper = lower + rng.exponential(size=3)
        size, error = _largest_error(network, lower, upper)
        points = np.where(rng.random((300, 3)) < 0.5, lower, upper)
        outputs = np.abs(network.evaluate(points)).max(axis=0)
        assert (outputs <= size).all()
        assert (error > 0).all() and (error < 1e-12 * size).all()
