from __future__ import annotations

import numpy as np
import pytest

from milpq.errors import UsageError
from milpq.milp.model import LinearModel, ModelBuilder
from milpq.milp.safe import safe_infeasible, safe_upper_bound


@pytest.fixture
def triangle() -> LinearModel:
    """The set ``x + y ≤ 3`` in the square ``[0, 2]²``; the maximum of ``x + 2y`` is 5."""
    builder = ModelBuilder()
    xy = builder.add_columns(0.0, 2.0, count=2)
    builder.add_rows([(xy, np.ones((1, 2)))], -np.inf, 3.0)
    return builder.build()


@pytest.mark.parametrize("exact", [False, True])
def test_true_duals_give_the_optimum_and_others_something_above(triangle: LinearModel, exact: bool) -> None:
    objective = np.array([1.0, 2.0])
    assert safe_upper_bound(triangle, objective, np.array([1.0]), exact=exact) == pytest.approx(
        5.0, abs=1e-13
    )
    assert safe_upper_bound(triangle, objective, np.array([1.5]), exact=exact) == pytest.approx(
        5.5, abs=1e-13
    )
    for duals in (None, np.array([-1.0]), np.array([np.nan]), np.array([1e308]), np.array([np.inf])):
        assert 6.0 <= safe_upper_bound(triangle, objective, duals, exact=exact) <= 6.0 + 1e-13


def test_exact_evaluation_is_exact_where_float64_can_say_it(triangle: LinearModel) -> None:
    assert safe_upper_bound(triangle, np.array([1.0, 2.0]), np.array([1.0]), exact=True) == 5.0
    assert safe_upper_bound(triangle, np.array([1.0, 2.0]), np.array([1.0])) > 5.0


@pytest.mark.parametrize("exact", [False, True])
def test_a_smaller_box_gives_a_smaller_bound(triangle: LinearModel, exact: bool) -> None:
    objective, duals = np.array([1.0, 2.0]), np.array([1.0])
    bound = safe_upper_bound(triangle, objective, duals, np.zeros(2), np.array([2.0, 1.0]), exact=exact)
    assert bound == pytest.approx(4.0, abs=1e-13)


@pytest.mark.parametrize("exact", [False, True])
def test_infeasibility_needs_a_proof(triangle: LinearModel, exact: bool) -> None:
    lower, upper = np.full(2, 1.75), np.full(2, 2.0)
    for sign in (1.0, -1.0):
        assert safe_infeasible(triangle, np.array([sign]), lower, upper, exact=exact)
        assert not safe_infeasible(triangle, np.array([sign]), exact=exact)
    assert not safe_infeasible(triangle, None, lower, upper)
    assert not safe_infeasible(triangle, np.array([np.nan]), lower, upper)
    # touching in one point is feasible
    assert not safe_infeasible(triangle, np.array([1.0]), np.full(2, 1.5), upper, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_models_without_rows_columns_or_entries(exact: bool) -> None:
    empty = ModelBuilder().build()
    assert 0.0 <= safe_upper_bound(empty, np.zeros(0), np.zeros(0), exact=exact) <= 1e-300
    builder = ModelBuilder()
    x = builder.add_columns(0.0, 1.0, count=2)
    builder.add_rows([(x, np.zeros((1, 2)))], 0.0, 0.0)
    assert safe_upper_bound(builder.build(), np.ones(2), np.ones(1), exact=exact) == pytest.approx(2.0)


def test_wrong_arguments_are_refused(triangle: LinearModel) -> None:
    ones = np.ones(2)
    with pytest.raises(UsageError, match="objective has shape"):
        safe_upper_bound(triangle, np.ones(3), None)
    with pytest.raises(UsageError, match="objective has entries"):
        safe_upper_bound(triangle, np.array([1.0, np.nan]), None)
    with pytest.raises(UsageError, match="duals have shape"):
        safe_upper_bound(triangle, ones, np.ones(2))
    with pytest.raises(UsageError, match="upper has entries"):
        safe_upper_bound(triangle, ones, None, upper=np.array([1.0, np.inf]))
    with pytest.raises(UsageError, match="empty"):
        safe_upper_bound(triangle, ones, None, lower=np.full(2, 3.0))
