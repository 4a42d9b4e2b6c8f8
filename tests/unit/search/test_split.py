from dataclasses import replace

import numpy as np
import pytest
from random_pairs import all_codes, box, float_network, interval_bounds, quantized, sample
from search_problems import almost_constant, problem_of

from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.errors import SoundnessError, UsageError
from milpq.merge import Cubes, Problem
from milpq.search.bounding import Propagated
from milpq.search.budget import Budget
from milpq.search.enumerate import enumerate_codes
from milpq.search.execution import Execution, signed
from milpq.search.split import SplitOptions, split_search
from milpq.search.threads import ThreadExecutor

FEW = {"witness_evaluations": 500}


def small(kind, seed=0, half=0.12, sizes=(2, 4, 2)):
    rng = np.random.default_rng(seed)
    network = float_network(rng, list(sizes), (0.0, np.inf))
    return Problem.create(network, quantized(rng, network, "tflm"), box(-half, half, sizes[0]), kind)


def scaled(bounds, factor):
    """Return the bounds with the output difference shrunk by a factor: a lie where that is below 1."""
    values = list(bounds.values)
    value = values[bounds.output]
    difference = Interval(factor * value.difference.lower, factor * value.difference.upper)
    values[bounds.output] = ValueBounds(value.float_side, value.quantized_side, difference)
    return Bounds(tuple(values), bounds.output)


@pytest.mark.parametrize("enumerate_up_to", [0, 1, 10, 4096])
@pytest.mark.parametrize("each", [False, True])
def test_codes_close_to_the_enumeration(enumerate_up_to, each):
    problem = problem_of("codes", 1)
    truth = enumerate_codes(problem).upper
    options = SplitOptions(
        gap=0.0, each=each, enumerate_codes=max(1, enumerate_up_to), absolute_gap=1e-9, **FEW
    )
    result = split_search(problem, Propagated(interval_bounds), options)
    assert result.status == "closed"
    assert result.open_cubes == 0
    assert (result.upper >= truth).all()
    lower, upper = result.bracket
    assert lower <= truth.max() <= upper <= lower + 1e-9
    if each:
        assert np.allclose(result.upper, truth, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cells", [0, 512])
@pytest.mark.parametrize("seed", [0, 1])
def test_continuous_closes_above_every_sample(cells, seed):
    problem = small("continuous", seed)
    result = split_search(
        problem, Propagated(interval_bounds), SplitOptions(gap=0.02, enumerate_cells=cells, each=True, **FEW)
    )
    assert result.status == "closed"
    points = sample(np.random.default_rng(0), problem, 20_000)
    assert (signed(Execution(problem).run(points)).max(axis=0) <= result.upper).all()
    assert (result.upper <= result.pool.lower + 0.02 * np.abs(result.pool.lower) + 1e-15).all()


def test_two_real_networks_close_as_well():
    problem = problem_of("real", sizes=(2, 4, 2))
    result = split_search(problem, Propagated(interval_bounds), SplitOptions(gap=0.05, **FEW))
    assert result.status == "closed"
    points = sample(np.random.default_rng(0), problem, 20_000)
    assert (signed(Execution(problem).run(points)).max(axis=0) <= result.upper).all()


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_the_bracket_holds_at_any_stop(kind):
    problem = problem_of(kind)
    seen = signed(Execution(problem).run(sample(np.random.default_rng(0), problem, 5000))).max(axis=0)
    previous = np.full(4, np.inf)
    for most in (1, 5, 30, 100):
        options = SplitOptions(gap=0.0, max_cubes=most, batch=4, enumerate_codes=8, enumerate_cells=8, **FEW)
        result = split_search(problem, Propagated(interval_bounds), options)
        assert (result.upper >= seen - 1e-9).all()
        assert (result.upper <= previous).all()
        previous = result.upper
    assert result.status == "limit"
    assert len(result.open) == result.open_cubes == len(result.open_upper)
    assert result.open_upper.max() <= result.upper.max()


def test_open_and_closed_cubes_cover_the_domain():
    problem = problem_of("codes", 1)
    closed = []
    options = SplitOptions(max_cubes=60, batch=4, enumerate_codes=300, **FEW)
    result = split_search(problem, Propagated(interval_bounds), options, on_closed=closed.append)
    cubes = Cubes.concatenate([result.open, *(work.closed for work in closed)])
    bound = np.concatenate([result.open_upper, *(work.closed_upper for work in closed)])
    points = all_codes(problem)
    values = signed(Execution(problem).run(points))
    levels = problem.quantized_levels(points)
    inside = (cubes.level_lower <= levels[:, None]) & (levels[:, None] <= cubes.level_upper)
    holders = inside.all(axis=2)
    assert (holders.sum(axis=1) == 1).all()
    assert (values <= bound[np.argmax(holders, axis=1)] + 1e-12).all()
    assert any(work.enumerated.any() for work in closed)


def test_executors_agree():
    problem = small("continuous")
    options = SplitOptions(gap=0.01, batch=8, **FEW)
    serial = split_search(problem, Propagated(interval_bounds), options)
    with ThreadExecutor(2) as executor:
        threads = split_search(problem, Propagated(interval_bounds), options, executor=executor)
    assert serial.status == threads.status == "closed"
    assert serial.rounds == threads.rounds
    assert np.array_equal(serial.upper, threads.upper)
    assert np.array_equal(serial.pool.points, threads.pool.points)
    again = split_search(problem, Propagated(interval_bounds), options)
    assert np.array_equal(serial.upper, again.upper)


def test_short_memory_dives_and_stays_sound():
    problem = problem_of("codes", 1)
    truth = enumerate_codes(problem).upper
    most = []
    options = SplitOptions(gap=0.0, absolute_gap=1e-9, memory_bytes=0, batch=8, enumerate_codes=2, **FEW)
    result = split_search(
        problem,
        Propagated(interval_bounds),
        options,
        on_progress=lambda _low, _high, open_cubes, _done: most.append(open_cubes),
    )
    assert result.status == "closed"
    assert result.upper.max() >= truth.max()
    wide = []
    options = SplitOptions(gap=0.0, absolute_gap=1e-9, batch=8, enumerate_codes=2, **FEW)
    split_search(
        problem,
        Propagated(interval_bounds),
        options,
        on_progress=lambda _low, _high, open_cubes, _done: wide.append(open_cubes),
    )
    assert max(most) < max(wide)


@pytest.mark.parametrize("round_", [1, 3])
def test_an_interrupt_returns_a_valid_bracket(round_):
    problem = problem_of("codes", 1)
    truth = enumerate_codes(problem).upper
    calls = []

    def interrupted(problem, cubes):
        calls.append(len(cubes))
        if len(calls) > round_:
            raise KeyboardInterrupt
        return interval_bounds(problem, cubes)

    result = split_search(
        problem, Propagated(interrupted), SplitOptions(gap=0.0, enumerate_codes=1, batch=4, **FEW)
    )
    assert result.status == "interrupted"
    assert (result.upper >= truth).all()
    assert (result.pool.lower <= truth).all()
    assert np.isfinite(result.upper).all()


def test_an_interrupt_before_the_first_bound_claims_nothing():
    def interrupted(_problem, _cubes):
        raise KeyboardInterrupt

    problem = problem_of("codes", 1)
    result = split_search(problem, Propagated(interrupted), upper=np.full(4, 7.0))
    assert result.status == "interrupted"
    assert result.bracket[1] == 7.0
    assert split_search(problem, Propagated(interrupted)).bracket[1] == np.inf


def test_cancelling_and_time_limits():
    problem = problem_of("codes", 1)
    rounds = []
    options = SplitOptions(gap=0.0, batch=1, enumerate_codes=1, **FEW)
    result = split_search(
        problem,
        Propagated(interval_bounds),
        options,
        budget=Budget(cancelled=lambda: len(rounds) > 3),
        on_progress=lambda *_: rounds.append(1),
    )
    assert result.status == "interrupted"
    late = split_search(problem, Propagated(interval_bounds), options, budget=Budget(time_limit_s=0.0))
    assert late.status == "limit"
    assert np.isfinite(late.upper).all()


def test_tolerances_are_decided():
    problem = problem_of("codes", 1)
    truth = enumerate_codes(problem).upper.max()
    above = split_search(problem, Propagated(interval_bounds), SplitOptions(tolerance=truth * 1.001))
    assert above.status == "certified"
    assert above.bracket[1] <= truth * 1.001
    below = split_search(problem, Propagated(interval_bounds), SplitOptions(tolerance=truth * 0.999))
    assert below.status == "violated"
    assert below.bracket[0] > truth * 0.999


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_lying_bounds_raise_the_alarm(kind):
    problem = problem_of(kind, 1)
    with pytest.raises(SoundnessError, match="above"):
        split_search(
            problem, Propagated(lambda problem, cubes: scaled(interval_bounds(problem, cubes), 1e-3))
        )


def test_a_lie_about_one_deep_cube_is_found_by_the_witness_in_it():
    problem = problem_of("codes", 1)
    best = enumerate_codes(problem).pool

    def lying(problem, cubes):
        bounds = interval_bounds(problem, cubes)
        lie = len(cubes) > 1
        return scaled(bounds, 0.01) if lie else bounds

    with pytest.raises(SoundnessError, match="witness"):
        split_search(
            problem, Propagated(lying), SplitOptions(enumerate_codes=1, witness_evaluations=0), pool=best
        )


def test_a_point_domain_ends():
    network = float_network(np.random.default_rng(0), [2, 4, 2], (0.0, np.inf))
    other = quantized(np.random.default_rng(0), network, "tflm")
    for region, kind in ((box(0.125, 0.125, 2), "codes"), (box(0.1, 0.1, 2), "continuous")):
        problem = Problem.create(network, other, region, kind)
        result = split_search(problem, Propagated(interval_bounds), SplitOptions(gap=0.0))
        assert result.status in {"exhausted", "closed"}
        lower, upper = result.bracket
        assert upper - lower < 1e-8
    real = Problem.create(network, network, box(0.1, 0.1, 2))
    result = split_search(real, Propagated(interval_bounds), SplitOptions(gap=0.0))
    assert result.status in {"exhausted", "closed"}
    assert result.bracket[1] < 1e-12


def test_cubes_within_the_noise_of_execution_end():
    result = split_search(
        almost_constant(64), Propagated(interval_bounds), SplitOptions(gap=0.0, enumerate_codes=1)
    )
    assert result.status == "exhausted"
    assert result.bracket[1] - result.bracket[0] < 1e-8


def test_a_score_chooses_where_to_split():
    problem = problem_of("codes", 1)
    asked = []

    class FirstOnly(Propagated):
        def __call__(self, problem, cubes, threshold):
            asked.append(len(cubes))
            found = Propagated.__call__(self, problem, cubes, threshold)
            return replace(found, score=np.repeat([[1.0, 0.0, 0.0]], len(cubes), axis=0))

    closed = []
    options = SplitOptions(max_cubes=6, batch=1, enumerate_codes=1, **FEW)
    result = split_search(problem, FirstOnly(interval_bounds), options, on_closed=closed.append)
    assert asked
    root = problem.domain.root
    assert (result.open.level_lower[:, 1:] == root.level_lower[:, 1:]).all()


def test_options_are_checked():
    for wrong in ({"gap": -1.0}, {"witness_rounds": 0}, {"batch": 0}):
        if wrong != {"batch": 0}:
            with pytest.raises(UsageError):
                SplitOptions(**wrong)
    with pytest.raises(UsageError):
        ThreadExecutor(0)
