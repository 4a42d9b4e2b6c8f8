"""HiGHS, Gurobi and CBC agree, and their sessions keep what they should between solves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from milpq._arrays import Float64Array
from milpq.errors import UsageError
from milpq.milp.backends import Session, SolveOptions, choose_backend
from milpq.milp.backends.protocol import objective_scale
from milpq.milp.model import LinearModel, ModelBuilder
from milpq.milp.safe import safe_infeasible, safe_upper_bound

SmallModel = Callable[[int, bool], tuple[LinearModel, Float64Array]]
SOLVERS = ("highs", "gurobi", "pulp")


@pytest.fixture(params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pair() -> LinearModel:
    """The set ``x + y ≤ 3, −1 ≤ x − y ≤ 1`` in the square ``[0, 2]²``, x an integer."""
    builder = ModelBuilder()
    xy = builder.add_columns(0.0, 2.0, count=2, integer=np.array([True, False]))
    matrix = np.array([[1.0, 1.0], [1.0, -1.0]])
    builder.add_rows([(xy, matrix)], np.array([-np.inf, -1.0]), np.array([3.0, 1.0]))
    return builder.build()


@pytest.fixture
def session(solver: str, pair: LinearModel) -> Iterator[Session]:
    with choose_backend(solver).backend.open(pair) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("integer", [False, True], ids=["lp", "milp"])
def test_solvers_agree(small_model: SmallModel, seed: int, integer: bool) -> None:
    model, objective = small_model(seed, integer)
    unit = float(np.max(np.abs(objective)))
    values: list[float] = []
    statuses: set[str] = set()
    for name in SOLVERS:
        with choose_backend(name).backend.open(model) as opened:
            solution = opened.maximize(objective)
        statuses.add(solution.status)
        values.append(solution.claimed_value)
        assert not solution.interrupted
        if solution.status == "optimal":
            assert solution.point is not None
            assert model.violation(solution.point) < 1e-6
            assert abs(solution.claimed_bound - solution.claimed_value) <= 1e-6 * unit
            if not model.has_integers:
                excess = safe_upper_bound(model, objective, solution.duals) - solution.claimed_value
                assert -1e-6 * unit <= excess <= (1e-6 if name == "pulp" else 1e-9) * unit
        else:
            assert solution.status == "infeasible"
            assert (solution.claimed_bound, solution.claimed_value) == (-np.inf, -np.inf)
            assert solution.point is None
            if not model.has_integers and name != "pulp":
                assert safe_infeasible(model, solution.ray)
    assert len(statuses) == 1
    if statuses == {"optimal"}:
        assert max(values) - min(values) <= 1e-6 * unit


def test_one_session_maximizes_many_objectives(session: Session) -> None:
    for objective, value in (([1.0, 2.0], 5.0), ([-1.0, -2.0], 0.0), ([1.0, -1.0], 1.0), ([0.0, 0.0], 0.0)):
        assert session.maximize(np.array(objective)).claimed_value == pytest.approx(value, abs=1e-7)


def test_bounds_change_and_change_back(session: Session) -> None:
    objective = np.array([1.0, 2.0])
    column = np.array([1])
    session.set_bounds(column, np.array([0.0]), np.array([0.5]))
    assert session.maximize(objective).claimed_value == pytest.approx(2.0, abs=1e-7)
    session.set_bounds(column, np.array([0.0]), np.array([2.0]))
    assert session.maximize(objective).claimed_value == pytest.approx(5.0, abs=1e-7)
    session.set_bounds(np.array([0, 1]), np.array([0.0, 2.0]), np.array([0.0, 2.0]))
    assert session.maximize(objective).status == "infeasible"
    session.set_bounds(np.array([0, 1]), np.zeros(2), np.full(2, 2.0))
    assert session.maximize(objective).claimed_value == pytest.approx(5.0, abs=1e-7)


def test_bad_bounds_and_objectives_are_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="outside"):
        session.set_bounds(np.array([2]), np.zeros(1), np.ones(1))
    with pytest.raises(UsageError, match="inverted"):
        session.set_bounds(np.array([0]), np.ones(1), np.zeros(1))
    with pytest.raises(UsageError, match="shape"):
        session.maximize(np.ones(3))
    with pytest.raises(UsageError, match="not finite"):
        session.maximize(np.array([1.0, np.nan]))
    assert session.maximize(np.array([1.0, 2.0])).status == "optimal"


def test_tiny_differences_are_solved_as_well_as_large_ones(solver: str) -> None:
    """Differences this small would drown in the default tolerances of every solver."""
    # HiGHS needs its own integrality tolerance of 1e-6 to be right elsewhere, and drowns columns below it.
    tiny = 1e-5 if solver == "highs" else 1e-7
    builder = ModelBuilder()
    x = builder.add_columns(0.0, tiny, count=3)
    p = builder.add_columns(0.0, 1.0, count=3, integer=True)
    builder.add_rows([(x, 1.0), (p, -0.9 * tiny)], -np.inf, 0.0)
    builder.add_rows([(p, np.ones((1, 3)))], 0.0, 2.0)
    model = builder.build()
    with choose_backend(solver).backend.open(model) as opened:
        solution = opened.maximize(model.objective(x, np.array([1.0, 2.0, 3.0])))
    assert solution.claimed_value == pytest.approx(4.5 * tiny, rel=2e-2)
    assert solution.claimed_bound >= 4.5 * tiny * (1 - 1e-6)


def test_the_objective_scale_is_a_power_of_two_that_never_shrinks(pair: LinearModel) -> None:
    for size in (1e-9, 3e-4, 0.1, 1.0, 1e6):
        scale = objective_scale(pair, np.array([size, 0.0]))
        assert np.frexp(scale)[0] == 0.5
        assert scale >= 1.0
        assert scale == 1.0 or 0.5 <= scale * size * 2.0 <= 1.0
    assert objective_scale(pair, np.zeros(2)) == 1.0


@pytest.mark.parametrize("name", ["highs", "gurobi"])
def test_a_basis_can_be_kept_and_used_again(
    name: str, knapsack_model: Callable[..., tuple[LinearModel, Float64Array]]
) -> None:
    model, objective = knapsack_model(30, 20, integer=False)
    with choose_backend(name).backend.open(model) as opened:
        first = opened.maximize(objective)
        basis = opened.basis()
        assert basis is not None
        opened.maximize(-objective)
        opened.set_basis(basis)
        again = opened.maximize(objective)
    assert again.claimed_value == pytest.approx(first.claimed_value, rel=1e-9)


@pytest.mark.parametrize("name", ["highs", "gurobi"])
def test_warm_started_linear_solves_stay_right(
    name: str, knapsack_model: Callable[..., tuple[LinearModel, Float64Array]]
) -> None:
    model, _ = knapsack_model(25, 15, integer=False)
    rng = np.random.default_rng(1)
    with choose_backend(name).backend.open(model) as warm:
        for _ in range(15):
            column = rng.integers(0, 25, 1)
            lower = np.floor(rng.random(1) * 2)
            warm.set_bounds(column, lower, lower + 1.0)
            model = model.with_column_bounds(column, lower, lower + 1.0)
            objective = rng.normal(size=25)
            with choose_backend(name).backend.open(model) as cold:
                expected = cold.maximize(objective)
            found = warm.maximize(objective)
            assert found.status == expected.status
            if expected.status == "optimal":
                assert found.claimed_value == pytest.approx(expected.claimed_value, abs=1e-8)
                bound = safe_upper_bound(model, objective, found.duals)
                assert bound == pytest.approx(expected.claimed_value, abs=1e-8)


def test_a_start_may_be_partial_or_wrong(solver: str, pair: LinearModel) -> None:
    objective = np.array([1.0, 2.0])
    for start in (np.array([1.0, 2.0]), np.array([np.nan, 2.0]), np.array([7.0, -3.0]), np.full(2, np.nan)):
        with choose_backend(solver).backend.open(pair) as opened:
            solution = opened.maximize(objective, SolveOptions(start=start))
        assert solution.claimed_value == pytest.approx(5.0, abs=1e-7)


def test_a_model_without_rows_is_its_box(solver: str) -> None:
    builder = ModelBuilder()
    builder.add_columns(np.array([-1.0, 2.0]), 5.5, integer=np.array([True, False]))
    for model, value in ((builder.build(), 10.5), (builder.build().relaxed(), 11.0)):
        with choose_backend(solver).backend.open(model) as opened:
            assert opened.maximize(np.ones(2)).claimed_value == pytest.approx(value)


def test_closing_twice_is_allowed(solver: str, pair: LinearModel) -> None:
    opened = choose_backend(solver).backend.open(pair)
    opened.close()
    opened.close()


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": -1.0},
        {"time_limit": float("nan")},
        {"gap_relative": -0.1},
        {"threads": 0},
        {"seed": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SolveOptions(**options)  # type: ignore[arg-type]
