import numpy as np
import pytest
from random_pairs import box, float_network, quantized
from search_problems import problem_of

from milpq.merge import Problem
from milpq.search.gradient import difference_gradient
from milpq.search.inputs import FeedableInputs, inward_float32
from milpq.search.moves import Moves


def float32_only(points):
    return np.array_equal(points, points.astype(np.float32).astype(np.float64))


def test_inward_float32_ends():
    lower, upper = inward_float32(np.array([0.1, 0.5, -1e-50]), np.array([0.1, 0.5, 1e-50]))
    assert lower[0] > 0.1 > upper[0]
    assert lower[1] == upper[1] == 0.5
    assert lower[2] == 0.0 == upper[2]
    assert float32_only(lower)
    assert float32_only(upper)


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_snapped_and_random_points_are_feedable(kind):
    problem = problem_of(kind)
    inputs = FeedableInputs(problem)
    rng = np.random.default_rng(0)
    root = problem.domain.root
    for points in (inputs.snap(rng.normal(size=(500, 3)) * 2), inputs.random(rng, 500)):
        assert ((points >= root.lower) & (points <= root.upper)).all()
        assert np.array_equal(inputs.snap(points), points)
        if kind != "codes":
            assert float32_only(points)
    if kind != "real":
        levels = inputs.levels(inputs.random(rng, 500))
        assert np.array_equal(levels.min(axis=0), root.level_lower[0])
        assert np.array_equal(levels.max(axis=0), root.level_upper[0])


def test_cell_ends_are_the_outermost_float32_numbers_of_a_level():
    problem = problem_of("continuous")
    inputs = FeedableInputs(problem)
    points = inputs.random(np.random.default_rng(0), 200)
    levels = inputs.levels(points)
    lower, upper = inputs.cell_ends(levels)
    assert ((lower <= points) & (points <= upper)).all()
    for end, outwards in ((lower, -np.inf), (upper, np.inf)):
        assert float32_only(end)
        assert np.array_equal(inputs.levels(end), levels)
        beyond = np.nextafter(end.astype(np.float32), np.float32(outwards)).astype(np.float64)
        inside = (beyond >= inputs.lower) & (beyond <= inputs.upper)
        assert (inputs.levels(beyond)[inside] != levels[inside]).all()


def test_a_box_without_float32_numbers_keeps_its_own_point():
    network = float_network(np.random.default_rng(0), [2, 3, 1], (0.0, np.inf))
    region = box(0.1, 0.1, 2)
    problem = Problem.create(
        network, quantized(np.random.default_rng(0), network, "tflm"), region, "continuous"
    )
    inputs = FeedableInputs(problem)
    assert np.array_equal(inputs.snap(np.zeros((1, 2))), [[0.1, 0.1]])


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_children_and_lines_are_feedable(kind):
    problem = problem_of(kind)
    inputs = FeedableInputs(problem)
    moves = Moves(inputs)
    rng = np.random.default_rng(0)
    parents = inputs.random(rng, 12)
    children = moves.children(rng, parents, np.arange(12) % 4, 16)
    assert children.shape == (12, 16, 3)
    flat = children.reshape(-1, 3)
    assert np.array_equal(inputs.snap(flat), flat)
    line = moves.line(parents[0], np.ones(3), 1)
    assert np.array_equal(inputs.snap(line), line)
    assert np.array_equal(line[:, 2], np.full(len(line), parents[0, 2]))
    if kind == "codes":
        root = problem.domain.root
        levels = np.arange(root.level_lower[0, 1], root.level_upper[0, 1] + 1)
        assert np.array_equal(inputs.levels(line)[:, 1], levels)


def test_the_gradient_of_two_real_networks_is_the_slope_between_near_points():
    problem = problem_of("real")
    rng = np.random.default_rng(5)
    points = rng.uniform(-0.4, 0.5, size=(40, 3))
    objective = np.arange(40) % 4
    gradient = sum(difference_gradient(problem, points, objective))
    step = 1e-7 * rng.normal(size=points.shape)
    change = problem.differences(points + step)[0] - problem.differences(points - step)[0]
    signs = np.where(objective < 2, 1.0, -1.0)
    change = signs * change[np.arange(40), objective % 2]
    predicted = 2 * (gradient * step).sum(axis=1)
    # A kink between the two points makes a few of them differ.
    assert np.mean(np.isclose(change, predicted, rtol=1e-4, atol=1e-12)) > 0.9


def test_the_gradient_of_the_integer_side_points_uphill_on_average():
    problem = problem_of("codes", sizes=(3, 16, 16, 2))
    inputs = FeedableInputs(problem)
    points = inputs.random(np.random.default_rng(0), 300)
    objective = np.zeros(300, dtype=np.int64)
    through_quantized, through_float = difference_gradient(problem, points, objective)
    step = 2 * problem.domain.integer.scale
    up = problem.run_quantized(inputs.snap(points + step * np.sign(through_quantized)))[:, 0]
    assert (up - problem.run_quantized(points)[:, 0]).mean() > 0
    there = inputs.snap(points + step * np.sign(through_float))
    fall = problem.float_network.evaluate(there) - problem.float_network.evaluate(points)
    assert fall[:, 0].mean() < 0
