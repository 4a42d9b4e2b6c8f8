"""On random pairs of every kind: witness <= truth <= bound, and the search closes the gap."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import all_codes, box, float_network, interval_bounds, perturbed, quantized, sample

from milpq.merge import Problem
from milpq.search.bounding import Propagated
from milpq.search.budget import Budget
from milpq.search.enumerate import enumerate_codes
from milpq.search.execution import Execution, signed
from milpq.search.pool import enclose_difference, refine_pool
from milpq.search.split import SplitOptions, split_search
from milpq.search.witness import WitnessOptions, search_witnesses

TARGETS = ["tflm", "cmsis-single", "litert-xnnpack", "litert-ref", "pow2-half-up", "pow2-floor"]
CLAMPS = [(0.0, np.inf), (0.0, 6.0), (-np.inf, np.inf)]


@st.composite
def problems(draw, kinds=("codes", "continuous", "real")):
    seed = draw(st.integers(0, 2**32 - 1))
    kind = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(seed)
    sizes = [draw(st.integers(1, 3)), *draw(st.lists(st.integers(1, 5), max_size=2)), draw(st.integers(1, 3))]
    network = float_network(rng, sizes, draw(st.sampled_from(CLAMPS)))
    half = draw(st.floats(0.13, 0.4))
    if kind == "real":
        return Problem.create(network, perturbed(rng, network, 0.02), box(-half, half, sizes[0]))
    other = quantized(
        rng,
        network,
        draw(st.sampled_from(TARGETS)),
        bits=draw(st.sampled_from([4, 8])),
        stretch=draw(st.sampled_from([0.5, 1.0])),
        raw_output=draw(st.booleans()),
    )
    return Problem.create(network, other, box(-half, half, sizes[0]), kind)


@settings(deadline=None, max_examples=40)
@given(problems(kinds=("codes",)))
def test_witness_truth_and_bound_are_in_order(problem):
    exact = [[least for least, _ in enclose_difference(problem, point)] for point in all_codes(problem)]
    chosen = len(problem.outputs)
    truth = [max(row[k] for row in exact) for k in range(chosen)]
    truth += [max(-row[k] for row in exact) for k in range(chosen)]
    enumerated = enumerate_codes(problem)
    searched = refine_pool(problem, search_witnesses(problem, WitnessOptions(evaluations=500)))
    options = SplitOptions(gap=0.0, absolute_gap=1e-9, each=True, enumerate_codes=16, witness_evaluations=200)
    split = split_search(problem, Propagated(interval_bounds), options)
    assert split.status == "closed"
    for k, value in enumerate(truth):
        assert searched.lower[k] <= value
        assert Fraction(float(enumerated.pool.lower[k])) <= value <= Fraction(float(enumerated.upper[k]))
        assert split.pool.lower[k] <= value <= split.upper[k] <= float(value) + 1.1e-9


@settings(deadline=None, max_examples=40)
@given(problems(kinds=("continuous", "real")), st.integers(0, 3))
def test_brackets_hold_for_every_sample(problem, seed):
    options = SplitOptions(gap=0.05, max_cubes=300, batch=32, enumerate_cells=64, witness_evaluations=300)
    result = split_search(problem, Propagated(interval_bounds), options, budget=Budget(time_limit_s=20))
    points = sample(np.random.default_rng(seed), problem, 2000)
    seen = signed(Execution(problem).run(points)).max(axis=0)
    assert (seen <= result.upper + 1e-12).all()
    assert (result.pool.lower <= result.upper).all()
    for objective in range(len(result.upper)):
        witness = result.pool.witness(objective)
        assert witness is not None
        position = int(np.flatnonzero(problem.outputs == witness.output)[0])
        exact = witness.sign * enclose_difference(problem, witness.point)[position][0]
        assert Fraction(witness.lower) <= exact
        assert (
            (problem.domain.box.lower <= witness.point) & (witness.point <= problem.domain.box.upper)
        ).all()
        assert np.array_equal(witness.point.astype(np.float32).astype(np.float64), witness.point)
