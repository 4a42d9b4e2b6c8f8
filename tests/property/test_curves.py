"""Sigmoid and tanh: enclosures, lines and planes against rational arithmetic, and whole networks in every bound."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from curve_pairs import smooth_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import all_codes, box
from test_bounds import assert_inside, sub_cubes

from milpq.bounds import differential, interval, symbolic, zonotope
from milpq.bounds.curve_hull import curve_points
from milpq.bounds.curves import curve_difference, curve_pair_planes, curve_planes, image, peak
from milpq.bounds.values import Interval
from milpq.merge import Problem
from milpq.network.curves import CURVE_ERROR, SIGMOID, TANH, Curve
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Smooth, Term
from milpq.search.bounding import Propagated, Zonotope, fitting
from milpq.search.pool import enclose_difference, refine_pool
from milpq.search.split import SplitOptions, split_search

METHODS = {"interval": interval, "symbolic": symbolic, "differential": differential, "zonotope": zonotope}
WIDTH = Fraction(1, 10**45)

reals = st.one_of(
    st.floats(-60, 60),
    st.floats(-1e-3, 1e-3),
    st.sampled_from([0.0, 5e-324, -1e-300, 40.0, -745.0, 1e6, -1e308, 18.714973875118524]),
)
curves = st.sampled_from([SIGMOID, TANH])


def truth(curve: Curve, x: Fraction) -> Fraction:
    return curve.enclose(x, x)[0]


def at(array: np.ndarray) -> Fraction:
    return Fraction(float(array[0, 0]))


def one(lower: float, upper: float) -> Interval:
    return Interval(np.array([[lower]]), np.array([[upper]]))


@settings(deadline=None, max_examples=300)
@given(curves, reals)
def test_float64_is_as_near_as_stated(curve, x):
    low, high = curve.enclose(Fraction(x), Fraction(x))
    assert low <= high <= low + WIDTH
    near = np.array([x])
    assert abs(Fraction(float(curve.value(near)[0])) - low) <= CURVE_ERROR
    assert abs(Fraction(float(curve.odd(near)[0])) + Fraction(curve.centre) - low) <= CURVE_ERROR
    share = (low - Fraction(curve.centre)) / Fraction(curve.amplitude)
    slope = Fraction(curve.steepest) * (1 - share * share)
    assert abs(Fraction(float(curve.slope(near)[0])) - slope) <= CURVE_ERROR
    assert curve.odd(-near)[0] == -curve.odd(near)[0]


@settings(deadline=None, max_examples=100)
@given(curves, reals, reals)
def test_enclosures_grow(curve, x, y):
    x, y = sorted((Fraction(x), Fraction(y)))
    assert curve.enclose(x, x)[0] <= curve.enclose(y, y)[1]


def test_the_logistic_function_itself():
    """The curve against another formula: the logarithm series of its inverse, at a value where both are short."""
    # tanh(x) = 1/2 at x = ln(3)/2 = atanh(1/2) = Σ 2^-(2k+1)/(2k+1).
    x = sum(Fraction(1, (2 * k + 1) * 2 ** (2 * k + 1)) for k in range(90))
    assert abs(truth(TANH, x) - Fraction(1, 2)) < WIDTH
    assert abs(truth(SIGMOID, 2 * x) - Fraction(3, 4)) < WIDTH


def shares(draw_lower: float, draw_upper: float) -> list[Fraction]:
    low, high = Fraction(draw_lower), Fraction(draw_upper)
    inner = [low + (high - low) * Fraction(k, 7) for k in range(8)]
    return [*inner, min(max(Fraction(0), low), high)]


@settings(deadline=None, max_examples=150)
@given(curves, reals, reals, st.floats(0, 1.5))
def test_peaks_lie_above(curve, x, y, slope):
    lower, upper = min(x, y), max(x, y)
    found = at(peak(curve, np.array([[slope]]), np.array([[lower]]), np.array([[upper]])))
    for point in shares(lower, upper):
        assert truth(curve, point) - Fraction(curve.centre) - Fraction(slope) * point <= found + WIDTH


@settings(deadline=None, max_examples=150)
@given(curves, reals, reals, reals, reals, st.floats(1e-12, 1.0))
def test_planes_and_images_hold(curve, a1, a2, d1, d2, scale):
    limit = 1e100
    a1, a2, d1, d2 = (float(np.clip(number, -limit, limit)) for number in (a1, a2, d1 * scale, d2 * scale))
    a, d = one(min(a1, a2), max(a1, a2)), one(min(d1, d2), max(d1, d2))
    ends = [np.nextafter(a.lower + d.lower, -np.inf), np.nextafter(a.upper + d.upper, np.inf)]
    v = Interval(*ends)
    low_slope, low, high_slope, high = (at(part) for part in curve_planes(curve, a))
    pair = curve_pair_planes(curve, a, v, d).widened(a, d)
    values, difference = image(curve, a), curve_difference(curve, a, v, d)
    for x in shares(a.lower[0, 0], a.upper[0, 0]):
        h = truth(curve, x)
        assert at(values.lower) - WIDTH <= h <= at(values.upper) + WIDTH
        assert low_slope * x + low - WIDTH <= h <= high_slope * x + high + WIDTH
        for y in shares(d.lower[0, 0], d.upper[0, 0]):
            r = truth(curve, x + y) - h
            assert at(difference.lower) - WIDTH <= r <= at(difference.upper) + WIDTH
            below, above = pair.lower, pair.upper
            assert at(below.slope_a) * x + at(below.slope_d) * y + at(below.offset) <= r + WIDTH
            assert at(above.slope_a) * x + at(above.slope_d) * y + at(above.offset) >= r - WIDTH


@pytest.mark.parametrize("seed", range(24))
def test_every_value_lies_inside_every_bound(seed):
    problem = smooth_pair(seed)
    rng = np.random.default_rng(seed)
    cubes = sub_cubes(rng, problem, 3)
    found = {name: method(problem, cubes) for name, method in METHODS.items()}
    found["together"] = found["interval"].intersect(found["symbolic"]).intersect(found["differential"])
    found["together"] = found["together"].intersect(found["zonotope"])
    assert_inside(problem, cubes, found, rng, 6)
    for tighter, looser in (("symbolic", "interval"), ("differential", "interval")):
        assert (found[tighter].difference.upper <= found[looser].difference.upper).all()


@settings(deadline=None, max_examples=40)
@given(
    curves,
    st.floats(-6, 6),
    st.sampled_from([1e-6, 1e-2, 1.0, 6.0]),
    st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    st.sampled_from([1e-9, 1e-3, 1.0]),
)
def test_points_hold_the_graph(curve, a, width, shares_of, size):
    """No functional is larger anywhere on the graph than at some point; those tangent to the graph come closest."""
    d1, d2 = sorted(size * share for share in shares_of[:2])
    ranges = [
        one(a, a + width),
        one(np.nextafter(a + d1, -np.inf), np.nextafter(a + width + d2, np.inf)),
        one(d1, d2),
    ]
    found = np.stack([part[0, 0] for part in curve_points(curve, None, *ranges)])
    exact = [[Fraction(x) for x in part] for part in found.tolist()]
    on_h, on_delta = Fraction(shares_of[2]), Fraction(shares_of[3])
    for x in shares(a, a + width):
        for y in shares(d1, d2):
            h, z = truth(curve, x), truth(curve, x + y)
            at_x, at_both = (Fraction(float(curve.slope(np.array([float(t)]))[0])) for t in (x, x + y))
            eta = on_delta * at_both
            gamma = on_h * at_x + on_delta * (at_both - at_x)
            here = on_h * h + on_delta * (z - h) - gamma * x - eta * y
            best = max(
                on_h * p[2] + on_delta * p[3] - gamma * p[0] - eta * p[1] for p in zip(*exact, strict=True)
            )
            assert here <= best + WIDTH


def one_neuron(curve: Curve, weights: list[float], biases: list[float]) -> Problem:
    """Return a pair of single curves with other weights and biases, over [−1, 1]."""
    pair = [
        FloatNetwork(1, (Affine("a", (Term(0, np.array([[w]])),), np.array([b])), Smooth("s", 1, curve)), 2)
        for w, b in zip(weights, biases, strict=True)
    ]
    return Problem.create(*pair, box(-1, 1, 1))


@settings(deadline=None, max_examples=150)
@given(
    curves,
    st.floats(-8, 8),
    st.floats(-12, 12),
    st.sampled_from([1e-12, 1e-6, 1e-2, 1.0]),
    st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    st.sampled_from([1e-9, 1e-3, 0.1, 1.0]),
)
def test_forms_of_one_neuron_hold_in_exact_arithmetic(curve, weight, bias, change, shares_of, radius):
    other, middle = [change * share for share in shares_of[:2]], (1 - radius) * shares_of[2]
    problem = one_neuron(curve, [weight, weight + other[0]], [bias, bias + other[1]])
    cubes = problem.domain.cubes_of_boxes(np.array([[middle - radius]]), np.array([[middle + radius]]))
    # Both the objective alone and all bounds; the latter are intersected with intervals, the former is not.
    alone = Zonotope()(problem, cubes, np.full(2, np.inf)).upper[0]
    every = zonotope(problem, cubes).difference
    for x in shares(float(cubes.lower[0, 0]), float(cubes.upper[0, 0])):
        a = Fraction(weight) * x + Fraction(bias)
        v = Fraction(weight + other[0]) * x + Fraction(bias + other[1])
        r = truth(curve, v) - truth(curve, a)
        assert -Fraction(alone[1]) - WIDTH <= r <= Fraction(alone[0]) + WIDTH
        assert at(every.lower) - WIDTH <= r <= at(every.upper) + WIDTH


def test_forms_of_a_small_cube_are_of_second_order():
    problem = one_neuron(TANH, [1.0, 1.03], [0.4, 0.38])
    widths = []
    for radius in (0.1, 0.01):
        cubes = problem.domain.cubes_of_boxes(np.array([[0.2 - radius]]), np.array([[0.2 + radius]]))
        points = np.linspace(cubes.lower[0], cubes.upper[0], 1001)
        upper = Zonotope()(problem, cubes, np.full(2, np.inf)).upper[0, 0]
        widths.append(upper - problem.differences(points)[0].max())
    assert widths[1] < 0.02 * widths[0]


@pytest.mark.parametrize("bounding", [Propagated(differential), Zonotope()])
@pytest.mark.parametrize("seed", range(4))
def test_splitting_closes_on_brute_force(seed, bounding):
    problem = smooth_pair(seed, sizes=[1, 3, 1], domain="codes")
    exact = [[least for least, _ in enclose_difference(problem, x)] for x in all_codes(problem)]
    options = SplitOptions(gap=0.0, absolute_gap=1e-9, enumerate_codes=2, witness_evaluations=200)
    split = split_search(problem, bounding, options)
    assert split.status == "closed"
    largest = max(abs(row[0]) for row in exact)
    assert Fraction(float(split.upper.max())) >= largest
    assert refine_pool(problem, split.pool).largest <= largest <= Fraction(float(split.upper.max()))
    assert float(split.upper.max()) - float(largest) < 1e-8


@pytest.mark.parametrize(("domain", "gap"), [("real", 1e-2), ("continuous", 1e-3)])
def test_splitting_closes_the_gap(domain, gap):
    problem = smooth_pair(5, sizes=[1, 3, 1], domain=domain)
    options = SplitOptions(gap=gap, max_cubes=20_000, witness_evaluations=2_000)
    bounding = fitting(problem)
    assert isinstance(bounding, Zonotope)
    split = split_search(problem, bounding, options)
    assert split.status == "closed"
    assert split.pool.largest > 0
