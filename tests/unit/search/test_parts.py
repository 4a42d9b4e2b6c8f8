import numpy as np
import pytest
from random_pairs import interval_bounds, sample
from search_problems import problem_of

from milpq.merge import Cubes
from milpq.search.execution import Execution
from milpq.search.frontier import Frontier
from milpq.search.halves import choose, halve, splittable
from milpq.search.slopes import float_slopes, influence, mean_value_bound


def test_the_frontier_keeps_rows_together():
    rng = np.random.default_rng(0)
    frontier = Frontier(2, 2)
    model = {}
    stamp = 0
    for _ in range(60):
        count = int(rng.integers(1, 200))
        ids = np.arange(stamp, stamp + count)
        stamp += count
        lower = np.stack([ids, -ids], axis=1)
        frontier.push(
            Cubes(lower * 1.0, lower + 1.0, lower, lower + 2), np.stack([ids, ids], axis=1) * 0.5, ids % 2
        )
        model.update({int(i): True for i in ids})
        rows = rng.permutation(len(frontier))[: int(rng.integers(0, len(frontier)))]
        for i in frontier.get(rows)[0].level_lower[:, 0]:
            del model[int(i)]
        frontier.take(rows, 7)
        np.testing.assert_array_equal(frontier.taken(7), np.sort(rows))
        assert not np.isin(frontier.free(), rows).any()
        assert len(frontier.free()) + len(rows) == len(frontier)
        frontier.remove(7)
        cubes, bound, dimension = frontier.get(slice(None))
        assert sorted(cubes.level_lower[:, 0].tolist()) == sorted(model)
        ids = cubes.level_lower[:, 0]
        assert np.array_equal(cubes.upper[:, 1], -ids + 1.0)
        assert np.array_equal(cubes.level_upper[:, 1], -ids + 2)
        assert np.array_equal(bound[:, 1], ids * 0.5)
        assert np.array_equal(dimension, ids % 2)
    priority = rng.permutation(len(frontier)) * 1.0
    worst = frontier.worst(5, priority)
    assert priority[worst].tolist() == sorted(priority.tolist(), reverse=True)[:5]
    assert frontier.last(3).tolist() == [len(frontier) - 3, len(frontier) - 2, len(frontier) - 1]


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_halves_cover_their_cube(kind):
    problem = problem_of(kind)
    cubes = problem.domain.root
    points = sample(np.random.default_rng(0), problem, 500)
    levels = problem.quantized_levels(points) if kind != "real" else np.zeros(points.shape, dtype=np.int64)
    rng = np.random.default_rng(1)
    for _ in range(8):
        dimension = rng.integers(3, size=len(cubes))
        can = splittable(problem.domain, cubes)[np.arange(len(cubes)), dimension]
        cubes = Cubes.concatenate(
            [cubes.select(~can), halve(problem.domain, cubes.select(can), dimension[can])]
        )
        assert (cubes.lower <= cubes.upper).all()
        assert (cubes.level_lower <= cubes.level_upper).all()
        inside = (cubes.lower <= points[:, None]) & (points[:, None] <= cubes.upper)
        inside &= (cubes.level_lower <= levels[:, None]) & (levels[:, None] <= cubes.level_upper)
        assert inside.all(axis=2).any(axis=1).all()


def test_a_single_code_cell_is_halved_in_real_numbers():
    problem = problem_of("continuous")
    levels = problem.domain.root.level_lower
    cell = problem.domain.cubes_of_levels(levels, levels)
    halves = halve(problem.domain, cell, np.array([1]))
    assert np.array_equal(halves.level_lower, np.repeat(levels, 2, axis=0))
    assert halves.upper[0, 1] == halves.lower[1, 1]
    assert cell.lower[0, 1] < halves.upper[0, 1] < cell.upper[0, 1]


def test_points_cannot_be_split():
    problem = problem_of("real")
    point = np.full((1, 3), 0.1)
    none = np.zeros((1, 3), dtype=np.int64)
    cubes = Cubes(point, np.nextafter(point, 1.0), none, none)
    assert not splittable(problem.domain, cubes).any()
    assert not choose(problem.domain, cubes, np.ones((1, 3)))[1].any()


def test_ties_go_to_the_widest_input():
    problem = problem_of("real")
    none = np.zeros((1, 3), dtype=np.int64)
    cubes = Cubes(np.zeros((1, 3)), np.array([[0.1, 0.3, 0.2]]), none, none)
    assert choose(problem.domain, cubes, np.zeros((1, 3)))[0].tolist() == [1]
    assert choose(problem.domain, cubes, np.array([[2.0, 1.0, np.nan]]))[0].tolist() == [0]


@pytest.mark.parametrize("clamp", [(0.0, np.inf), (0.0, 6.0), (-np.inf, np.inf)])
def test_slopes_hold_between_any_two_points(clamp):
    problem = problem_of("continuous", clamp=clamp)
    cubes = problem.domain.root
    for _ in range(5):
        slopes = float_slopes(problem, interval_bounds(problem, cubes))
        rng = np.random.default_rng(0)
        first, second = (rng.uniform(cubes.lower[0], cubes.upper[0], size=(300, 3)) for _ in range(2))
        change = np.abs(problem.float_network.evaluate(first) - problem.float_network.evaluate(second))
        assert (change <= np.abs(first - second) @ slopes[0].T + 1e-12).all()
        assert (influence(problem, interval_bounds(problem, cubes)) >= slopes[0].max(axis=0) - 1e-9).all()
        cubes = halve(problem.domain, cubes, np.array([0])).select(slice(0, 1))
        cubes = halve(problem.domain, cubes, np.array([1])).select(slice(0, 1))


def test_mean_value_bounds_hold_and_are_tight_on_small_cells():
    problem = problem_of("continuous")
    points = sample(np.random.default_rng(0), problem, 100)
    levels = problem.quantized_levels(points)
    cells = problem.domain.cubes_of_levels(levels, levels)
    slopes = float_slopes(problem, interval_bounds(problem, cells))
    execution = Execution(problem)
    upper, _ = mean_value_bound(execution, cells, slopes)
    best = np.full(upper.shape, -np.inf)
    rng = np.random.default_rng(1)
    for _ in range(60):
        share = rng.choice([0.0, 0.5, 1.0], size=cells.lower.shape)
        values = execution.run(cells.lower + share * (cells.upper - cells.lower), levels)
        best = np.maximum(best, np.concatenate([values, -values], axis=1))
    assert (best <= upper).all()
    # Exact wherever no activation switches inside the cell.
    assert np.mean(upper - best < 1e-10) > 0.1
