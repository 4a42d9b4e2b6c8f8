"""The baselines are sound, and as loose as they are known to be."""

import numpy as np
import pytest
from random_pairs import some_pair

from milpq.bench.baselines import Limits, naive_milp, separate, separate_milp
from milpq.bench.baselines import _NaiveEncoder as NaiveEncoder
from milpq.bench.baselines import _subtracted as subtracted
from milpq.bounds import interval
from milpq.bounds.values import Bounds
from milpq.milp.encode import Encoder
from milpq.search.inputs import FeedableInputs

LIMITS = Limits("highs", time_s=20.0)


@pytest.mark.parametrize("seed", range(8))
def test_baselines_lie_above_every_execution(seed: int) -> None:
    problem = some_pair(seed, sizes=[2, 4, 2])
    points = FeedableInputs(problem).random(np.random.default_rng(seed), 4000)
    difference, error = problem.differences(points)
    seen = float((np.abs(difference) - error).max())
    apart, exact_apart, naive = (
        separate(problem),
        separate_milp(problem, LIMITS),
        naive_milp(problem, LIMITS),
    )
    assert seen <= naive.upper + 1e-12
    assert seen <= exact_apart.upper + 1e-12
    assert seen <= apart.upper
    assert not apart.solver_trusted
    if naive.complete and exact_apart.complete:
        assert naive.lower <= naive.upper <= exact_apart.upper * (1 + 1e-4)
        assert exact_apart.upper <= apart.upper * (1 + 1e-6)
        assert naive.upper <= max(naive.lower, seen) * 1.01 + 1e-4


def test_the_naive_model_binds_no_inner_difference() -> None:
    problem = some_pair(3, sizes=[2, 4, 2])
    bounds = subtracted(interval(problem, problem.domain.root))
    assert isinstance(bounds, Bounds)
    full = Encoder(problem).encode(problem.domain.root, bounds)
    naive = NaiveEncoder(problem).encode(problem.domain.root, bounds)
    used = set(naive.model.indices.tolist())
    inner = [face.difference.columns for face in naive.faces[:-1] if face.difference is not None]
    assert not used & set(np.concatenate(inner).tolist())
    assert set(naive.differences.tolist()) <= used
    assert 0 < naive.model.rows < full.model.rows
    points = FeedableInputs(problem).random(np.random.default_rng(0), 50)
    for point in points:
        assert naive.model.violation(naive.start_from_input(point)) < 1e-9
