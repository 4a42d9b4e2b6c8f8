"""`maximize_outputs`: limits, skipping, and what happens when a solver is caught lying."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.errors import UsageError
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend, HighsSession
from milpq.milp.solve import MilpOptions, maximize_outputs
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.region.box import Box

HIGHS = HighsBackend()


def network(weights) -> FloatNetwork:
    """Return ``relu(W x)``, both rows of it."""
    return FloatNetwork(
        2, (Affine("linear", (Term(0, np.array(weights)),), np.zeros(2)), Clamp("relu", 1)), 2
    )


@pytest.fixture
def problem() -> Problem:
    """A pair whose output differences have the extremes [0, 0.2] and [-0.1, 0]."""
    return Problem.create(
        network([[1.0, 1.0], [1.0, -1.0]]),
        network([[1.1, 1.1], [0.95, -0.95]]),
        Box([-1.0, -1.0], [1.0, 1.0]),
    )


@pytest.fixture
def bounds() -> Bounds:
    """Loose bounds on every face."""

    def value(size: float) -> ValueBounds:
        face = Interval(np.full((1, 2), -size), np.full((1, 2), size))
        return ValueBounds(face, face, face)

    one, zero = np.ones((1, 2)), np.zeros((1, 2))
    start = ValueBounds(Interval(-one, one), Interval(-one, one), Interval(zero, zero))
    return Bounds((start, value(3.0), value(3.0)), 2)


def by_key(result):
    return {(found.position, found.sign): found for found in result.objectives}


def test_every_output_and_sign_is_solved(problem, bounds):
    result = maximize_outputs(problem, problem.domain.root, bounds, HIGHS)
    found = by_key(result)
    for key, truth in {(0, 1): 0.2, (0, -1): 0.0, (1, 1): 0.0, (1, -1): 0.1}.items():
        assert found[key].outcome == "optimal"
        assert found[key].solver_trusted
        assert truth - 1e-12 <= found[key].upper <= truth + 1e-5
        assert found[key].attained == pytest.approx(truth, abs=1e-8)
    assert result.upper == found[0, 1].upper
    assert result.attained == found[0, 1].attained
    assert not result.interrupted
    assert result.inputs.shape == (4, 2)


def test_outputs_that_cannot_be_the_largest_are_skipped(problem, bounds):
    options = MilpOptions(largest_only=True, starts=np.array([[1.0, 1.0]]))
    found = by_key(maximize_outputs(problem, problem.domain.root, bounds, HIGHS, options))
    assert found[0, 1].attained == pytest.approx(0.2)
    assert {result.outcome for result in found.values()} <= {"optimal", "stopped", "skipped"}
    assert max(result.upper for result in found.values()) <= 0.2 + 1e-5
    high = MilpOptions(largest_only=True, attained=10.0)
    skipped = maximize_outputs(problem, problem.domain.root, bounds, HIGHS, high)
    assert {result.outcome for result in skipped.objectives} == {"skipped"}


def test_a_tolerance_stops_early(problem, bounds):
    found = maximize_outputs(problem, problem.domain.root, bounds, HIGHS, MilpOptions(tolerance=5.0))
    assert {result.outcome for result in found.objectives} == {"skipped"}


def test_no_time_leaves_the_certified_bounds(problem, bounds):
    result = maximize_outputs(problem, problem.domain.root, bounds, HIGHS, MilpOptions(time_limit=0.0))
    for found in result.objectives:
        assert found.outcome == "unsolved"
        assert not found.solver_trusted
        assert found.upper == 3.0
        assert found.input is None


def test_a_claim_below_an_execution_is_dropped(problem, bounds):
    class Low(HighsSession):
        __slots__ = ()

        def maximize(self, objective, options):
            return replace(super().maximize(objective, options), claimed_bound=-1.0)

    class LowHighs(HighsBackend):
        def open(self, model):
            return Low(model)

    for found in maximize_outputs(problem, problem.domain.root, bounds, LowHighs()).objectives:
        assert found.outcome == "contradicted"
        assert not found.solver_trusted
        assert found.upper == 3.0


def test_a_claim_is_dropped_when_a_later_input_contradicts_it(problem, bounds):
    class FirstLow(HighsSession):
        """Claims too little once, at an input that does not show it."""

        __slots__ = ("_calls",)

        def maximize(self, objective, options):
            self._calls = getattr(self, "_calls", 0) + 1
            solution = super().maximize(objective, options)
            if self._calls == 1:
                return replace(solution, claimed_bound=0.01, point=np.zeros_like(solution.point))
            return replace(solution, point=self.best) if self._calls == 2 else solution

    class FirstLowHighs(HighsBackend):
        def open(self, model):
            with HighsSession(model) as honest:
                column = model.objective(int(model.block("relu/difference")[0]))
                FirstLow.best = honest.maximize(column).point
            return FirstLow(model)

    found = by_key(maximize_outputs(problem, problem.domain.root, bounds, FirstLowHighs()))
    assert found[0, 1].attained == pytest.approx(0.2)
    assert found[0, 1].outcome == "contradicted"
    assert found[0, 1].upper == 3.0


def test_time_that_is_left_goes_to_those_that_ran_out(problem, bounds):
    class Slow(HighsSession):
        """Needs a second try."""

        __slots__ = ("_seen",)

        def maximize(self, objective, options):
            solution = super().maximize(objective, options)
            self._seen = [*getattr(self, "_seen", []), objective.tobytes()]
            if self._seen.count(objective.tobytes()) == 1:
                return replace(solution, status="time_limit", claimed_bound=2.0, time_s=1e-3)
            return solution

    class SlowHighs(HighsBackend):
        def open(self, model):
            return Slow(model)

    result = maximize_outputs(problem, problem.domain.root, bounds, SlowHighs(), MilpOptions(time_limit=60.0))
    assert {found.outcome for found in result.objectives} == {"optimal"}


def test_a_model_called_infeasible_is_no_proof(problem, bounds):
    class Infeasible(HighsSession):
        __slots__ = ()

        def maximize(self, objective, options):
            solution = super().maximize(objective, options)
            return replace(solution, status="infeasible", claimed_bound=-np.inf, point=None)

    class InfeasibleHighs(HighsBackend):
        def open(self, model):
            return Infeasible(model)

    for found in maximize_outputs(problem, problem.domain.root, bounds, InfeasibleHighs()).objectives:
        assert found.outcome == "contradicted"
        assert found.upper == 3.0


def test_interruption_keeps_what_is_known(problem, bounds):
    class Interrupted(HighsSession):
        __slots__ = ()

        def maximize(self, objective, options):
            return replace(super().maximize(objective, options), status="interrupted", interrupted=True)

    class InterruptedHighs(HighsBackend):
        def open(self, model):
            return Interrupted(model)

    result = maximize_outputs(problem, problem.domain.root, bounds, InterruptedHighs())
    assert result.interrupted
    assert sum(found.outcome == "unsolved" for found in result.objectives) == 3


def test_progress_names_the_bracket(problem, bounds):
    """The listener is handed brackets that hold; it may not be called at all on a small model."""
    seen = []

    def listen(progress):
        seen.append(progress)
        return True

    maximize_outputs(problem, problem.domain.root, bounds, HIGHS, MilpOptions(on_progress=listen))
    for progress in seen:
        assert progress.lower <= 0.2 <= progress.upper + 1e-5


def test_starts_of_another_size_are_refused(problem, bounds):
    with pytest.raises(UsageError, match="starts"):
        maximize_outputs(problem, problem.domain.root, bounds, HIGHS, MilpOptions(starts=np.zeros((1, 3))))
