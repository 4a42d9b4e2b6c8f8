"""Whatever duals a solver hands over, the bound made from them holds in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpq._arrays import Float64Array
from milpq.milp.backends import choose_backend
from milpq.milp.model import LinearModel, ModelBuilder
from milpq.milp.safe import safe_infeasible, safe_upper_bound


def random_model(rng: np.random.Generator, spread: int = 8) -> LinearModel:
    """Return a model whose point ``middle`` is feasible, with coefficients of many sizes."""
    count, height = int(rng.integers(1, 12)), int(rng.integers(1, 9))
    builder = ModelBuilder()
    middle = rng.normal(size=count) * 10.0 ** rng.integers(-spread, spread, count)
    reach = np.abs(middle) * rng.random(count) + 10.0 ** rng.integers(-spread, spread, count)
    x = builder.add_columns(middle - reach, middle + reach)
    matrix = rng.normal(size=(height, count)) * 10.0 ** rng.integers(-spread, spread, (height, count))
    matrix *= rng.random((height, count)) < 0.6
    activity, slack = matrix @ middle, np.abs(rng.normal(size=height)) * (np.abs(matrix) @ reach + 1e-9)
    kind = rng.integers(0, 4, height)
    row_lower = np.where(kind == 0, -np.inf, activity - slack)
    row_upper = np.where(kind == 1, np.inf, np.where(kind == 2, activity - slack, activity + slack))
    builder.add_rows([(x, matrix)], row_lower, row_upper)
    return builder.build()


def exact_bound(model: LinearModel, objective: Float64Array, duals: list[Fraction]) -> Fraction:
    """Evaluate the bound of Neumaier and Shcherbina in fractions, entry by entry."""
    total = Fraction(0)
    reduced = [Fraction(float(c)) for c in objective]
    for i, y in enumerate(duals):
        side = float(model.row_upper[i] if y > 0 else model.row_lower[i])
        if y == 0 or not np.isfinite(side):
            continue
        total += y * Fraction(side)
        for k in range(model.indptr[i], model.indptr[i + 1]):
            reduced[model.indices[k]] -= y * Fraction(float(model.values[k]))
    for j, r in enumerate(reduced):
        total += max(r * Fraction(float(model.lower[j])), r * Fraction(float(model.upper[j])))
    return total


def as_fractions(duals: Float64Array) -> list[Fraction]:
    """Return the duals as fractions, zero where they are not finite."""
    return [Fraction(y) if np.isfinite(y) else Fraction(0) for y in duals.tolist()]


def on_grid(duals: list[Fraction], objective: Float64Array) -> list[Fraction]:
    """Truncate to the grid of the exact path: ``2^−60`` of the power of two above the largest coefficient."""
    unit = Fraction(2) ** (int(np.frexp(np.max(np.abs(objective)))[1]) - 60)
    return [int(y / unit) * unit for y in duals]


def garbage(rng: np.random.Generator, size: int) -> Float64Array:
    """Return duals of every sort, finite and not."""
    duals = rng.normal(size=size) * 10.0 ** rng.integers(-320, 300, size)
    poison = np.array([np.nan, np.inf, -np.inf, 1.7e308, -1.7e308, 5e-324, -0.0, 0.0])
    return np.where(rng.random(size) < 0.3, rng.choice(poison, size), duals)


def above(bound: float, exact: Fraction) -> bool:
    return bound == np.inf or Fraction(bound) >= exact


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.integers(1, 12),
    kind=st.sampled_from(["near", "wide", "garbage"]),
)
def test_the_bound_is_never_below_its_exact_value(seed: int, spread: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, spread)
    objective = rng.normal(size=model.columns) * 10.0 ** rng.integers(-spread, spread, model.columns)
    duals = {
        "near": rng.normal(size=model.rows),
        "wide": rng.normal(size=model.rows) * 10.0 ** rng.integers(-30, 30, model.rows),
        "garbage": garbage(rng, model.rows),
    }[kind]
    trivial = exact_bound(model, objective, [Fraction(0)] * model.rows)
    y = as_fractions(duals)
    rounded = safe_upper_bound(model, objective, duals)
    assert above(rounded, min(exact_bound(model, objective, y), trivial))
    assert rounded <= float(trivial) + 1e-9 * magnitude(model, objective)
    exact = safe_upper_bound(model, objective, duals, exact=True)
    assert above(exact, min(exact_bound(model, objective, on_grid(y, objective)), trivial))
    assert exact <= np.nextafter(float(trivial), np.inf)


def homogeneous(columns: list[Float64Array], lower: Float64Array, upper: Float64Array) -> LinearModel:
    """Return a model of columns over rows that are to be zero, which they are at zero."""
    builder = ModelBuilder()
    x = builder.add_columns(lower, upper)
    zero = np.zeros(len(columns[0]))
    builder.add_rows([(x, np.stack(columns, axis=1))], zero, zero)
    return builder.build()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1e9), (-1e9, 1.0), (-1e9, 1e9)])
def test_what_the_reduced_costs_lose_counts_over_the_box(low: float, high: float) -> None:
    """In float64 the objective is just what the rows add up to; in exact arithmetic a wide box tells them apart."""
    duals = np.full(2000, 0.1)
    for sign in (1.0, -1.0):
        column = sign * np.ones(len(duals))
        model = homogeneous([column], np.array([low]), np.array([high]))
        objective = np.bincount(np.zeros(len(duals), dtype=np.int64), weights=column * duals)
        exact = exact_bound(model, objective, as_fractions(duals))
        assert exact > 0
        assert above(safe_upper_bound(model, objective, duals), exact)


def test_products_that_underflow_count_over_the_box() -> None:
    columns = [np.array([1.0, 0.0]), np.array([0.0, 1e-200])]
    reach = np.array([1e-95, 1e300])  # so that rounding the first column is nothing beside losing the second
    model = homogeneous(columns, -reach, reach)
    objective, duals = np.array([1.0, 0.0]), np.array([1.0, 1e-200])
    exact = exact_bound(model, objective, as_fractions(duals))
    assert exact > 0
    assert above(safe_upper_bound(model, objective, duals), exact)


def test_terms_that_underflow_are_counted_one_by_one() -> None:
    count = 1000
    upper = np.full(count, 0.9 * 2.0**-475)
    model = homogeneous([np.zeros(1)] * count, np.zeros(count), upper)
    objective = np.full(count, 2.0**-600)
    exact = exact_bound(model, objective, [Fraction(0)])
    assert exact > 400 * Fraction(5e-324)
    for way in (False, True):
        assert above(safe_upper_bound(model, objective, None, exact=way), exact)


def magnitude(model: LinearModel, objective: Float64Array) -> float:
    return float(np.abs(objective) @ np.maximum(np.abs(model.lower), np.abs(model.upper)))


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_with_duals_on_the_grid_the_exact_path_rounds_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng, 3)
    objective = rng.normal(size=model.columns)
    duals = rng.integers(-(2**20), 2**20, model.rows) / 2**18
    value = min(exact_bound(model, objective, y) for y in (as_fractions(duals), [Fraction(0)] * model.rows))
    bound = safe_upper_bound(model, objective, duals, exact=True)
    assert Fraction(np.nextafter(bound, -np.inf)) < value <= Fraction(bound)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), poison=st.booleans())
def test_no_ray_proves_a_feasible_model_infeasible(seed: int, poison: bool) -> None:
    rng = np.random.default_rng(seed)
    count, height = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    builder = ModelBuilder()
    point = rng.integers(-8, 9, count).astype(np.float64)
    x = builder.add_columns(point, point + rng.integers(0, 3, count))
    matrix = rng.integers(-9, 10, (height, count)).astype(np.float64)
    builder.add_rows([(x, matrix)], matrix @ point, matrix @ point)  # tight: integers, so exactly feasible
    ray = garbage(rng, height) if poison else rng.normal(size=height)
    for exact in (False, True):
        assert not safe_infeasible(builder.build(), ray, exact=exact)


@pytest.mark.parametrize("seed", range(30))
def test_true_duals_lose_at_most_a_billionth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, height = 60, 40
    builder = ModelBuilder()
    x = builder.add_columns(-1.0 - rng.random(count), 1.0 + rng.random(count))
    matrix = rng.normal(size=(height, count))
    builder.add_rows(
        [(x, matrix)], np.where(rng.random(height) < 0.5, -np.inf, -1.0), 1.0 + rng.random(height)
    )
    model, objective = builder.build(), rng.normal(size=count)
    with choose_backend("highs").backend.open(model) as session:
        solution = session.maximize(objective)
    assert solution.status == "optimal"
    for exact in (False, True):
        bound = safe_upper_bound(model, objective, solution.duals, exact=exact)
        assert abs(bound - solution.claimed_value) <= 1e-9 * max(1.0, abs(solution.claimed_value))


def test_a_solver_that_lies_about_its_bound_changes_nothing() -> None:
    """The claimed bound and value never enter the safe bound, and scaled or shuffled duals only weaken it."""
    rng = np.random.default_rng(3)
    model = random_model(rng, 1)
    objective = rng.normal(size=model.columns)
    with choose_backend("highs").backend.open(model) as session:
        solution = session.maximize(objective)
    assert solution.duals is not None
    honest = safe_upper_bound(model, objective, solution.duals)
    for lie in (2.0 * solution.duals, -solution.duals, solution.duals[::-1].copy(), 0.0 * solution.duals):
        assert safe_upper_bound(model, objective, lie) >= honest - 1e-9 * abs(honest)
