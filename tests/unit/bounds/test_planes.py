"""Every plane bounds what it claims to bound, on dense samples of the polygons it is used on."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.bounds.planes import (
    PlaneChoice,
    clamp_pair_planes,
    clamp_planes,
    relu_pair_planes,
    relu_planes,
    relu_planes_at,
)
from milpq.bounds.values import Interval

GRID = np.linspace(0.0, 1.0, 17)


def intervals(rng: np.random.Generator, count: int, around: float = 0.0) -> Interval:
    """Return random intervals: whole numbers, so that ends meet kinks and each other, or any numbers."""
    ends = rng.integers(-4, 5, size=(2, 1, count)).astype(np.float64)
    ends = np.where(rng.random(count) < 0.5, ends, ends * rng.uniform(0.1, 1.0, size=ends.shape))
    return Interval(ends.min(axis=0) + around, ends.max(axis=0) + around)


def between(x: Interval, share: np.ndarray) -> np.ndarray:
    """Return points of intervals, shape (shares, neurons), the ends exactly."""
    points = x.lower + (x.upper - x.lower) * share[:, None]
    return np.where(share[:, None] == 1.0, x.upper, np.clip(points, x.lower, x.upper))


def triple(rng: np.random.Generator, count: int, around: float = 0.0) -> tuple[Interval, Interval, Interval]:
    """Return bounds on a, v and d: of v either what a and d allow, or some of it."""
    a, d = intervals(rng, count, around), intervals(rng, count)
    low, high = a.lower + d.lower, a.upper + d.upper
    cut = rng.uniform(0.0, 0.4, size=(2, count)) * (rng.random(count) < 0.5) * (high - low)
    return a, Interval(low + cut[0], high - cut[1]), d


def polygon(a: Interval, v: Interval, d: Interval, kinks: tuple[float, ...]):
    """Return points of ``{(a, d): a + d in v}``, shape (points, neurons) each, and which of them lie in it.

    Points on the kinks ``a = k`` and ``v = k`` and on the ends of ``v`` are among them.
    """
    at_a = np.concatenate(
        [between(a, GRID), *[np.clip(np.full_like(a.lower, k), a.lower, a.upper) for k in kinks]]
    )
    at_d = np.concatenate([between(d, GRID), np.clip(np.zeros_like(d.lower), d.lower, d.upper)])
    pairs = [np.repeat(at_a, len(at_d), axis=0), np.tile(at_d, (len(at_a), 1))]
    xs, ys = [pairs[0]], [pairs[1]]
    for end in (v.lower, v.upper, *[np.full_like(a.lower, k) for k in kinks]):
        xs.append(at_a)
        ys.append(np.clip(end - at_a, d.lower, d.upper))
    x, y = np.concatenate(xs), np.concatenate(ys)
    return x, y, (x + y >= v.lower) & (x + y <= v.upper)


def assert_holds(planes, x, y, inside, value) -> None:
    slack = 1e-12 * (1 + np.abs(x) + np.abs(y))
    low, high = planes.lower, planes.upper
    above = high.slope_a * x + high.slope_d * y + high.offset - value
    below = value - (low.slope_a * x + low.slope_d * y + low.offset)
    assert (above >= -slack)[inside].all()
    assert (below >= -slack)[inside].all()


@pytest.mark.parametrize("kink", [0.0, 1.0, -2.0, 0.3])
def test_relu_planes(kink):
    x = intervals(np.random.default_rng(0), 2000, around=kink)
    points = np.concatenate([between(x, GRID), np.clip(np.full_like(x.lower, kink), x.lower, x.upper)])
    value = np.maximum(points - kink, 0.0)
    many = np.full(x.lower.shape[1], kink)
    for planes in (relu_planes(x, kink), relu_planes_at(x.lower, x.upper, many)):
        low_slope, low_offset, high_slope, high_offset = planes
        assert (low_slope * points + low_offset <= value + 1e-12).all()
        assert (high_slope * points + high_offset >= value - 1e-12).all()
        # Exact at both ends above, and everywhere where the neuron is stable.
        for end in (x.lower, x.upper):
            np.testing.assert_allclose(high_slope * end + high_offset, np.maximum(end - kink, 0), atol=1e-12)
        stable = ((x.lower >= kink) | (x.upper <= kink)) & (x.lower < x.upper)
        np.testing.assert_array_equal(low_slope[stable], high_slope[stable])


CLAMPS = [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 1.0), (0.0, 6.0), (0.0, 1.0), (-1.0, 2.0), (-0.7, 0.9)]


@pytest.mark.parametrize(("lower", "upper"), CLAMPS)
def test_clamp_planes(lower, upper):
    x = intervals(np.random.default_rng(1), 2000)
    kinks = [np.clip(np.full_like(x.lower, k), x.lower, x.upper) for k in (lower, upper) if np.isfinite(k)]
    points = np.concatenate([between(x, GRID), *kinks])
    value = np.clip(points, lower, upper)
    low_slope, low_offset, high_slope, high_offset = clamp_planes(x, lower, upper)
    assert (low_slope * points + low_offset <= value + 1e-12).all()
    assert (high_slope * points + high_offset >= value - 1e-12).all()


@pytest.mark.parametrize("kink", [0.0, 1.0, -0.3])
def test_relu_pair_planes(kink):
    rng = np.random.default_rng(2)
    a, v, d = triple(rng, 1500, around=kink)
    x, y, inside = polygon(a, v, d, (kink,))
    value = np.maximum(x + y - kink, 0.0) - np.maximum(x - kink, 0.0)
    assert_holds(relu_pair_planes(a, v, d, kink), x, y, inside, value)


@pytest.mark.parametrize("kink", [0.0, 1.0])
def test_every_candidate_plane_holds_whether_it_is_chosen_or_not(kink, monkeypatch):
    rng = np.random.default_rng(3)
    a, v, d = triple(rng, 1500, around=kink)
    x, y, inside = polygon(a, v, d, (kink,))
    value = np.maximum(x + y - kink, 0.0) - np.maximum(x - kink, 0.0)
    offered = []

    class Recorder(PlaneChoice):
        def __init__(self, middle_a, middle_d, sign):
            super().__init__(middle_a, middle_d, sign)
            self._is_upper = sign > 0

        def offer(self, plane, valid=None):
            offered.append((self._is_upper, plane, np.ones(1, dtype=bool) if valid is None else valid))
            super().offer(plane, valid)

    monkeypatch.setattr("milpq.bounds.planes.PlaneChoice", Recorder)
    relu_pair_planes(a, v, d, kink)
    assert len(offered) == 8
    for is_upper, plane, valid in offered:
        assert valid.any()
        gap = plane.slope_a * x + plane.slope_d * y + plane.offset - value
        holds = gap >= -1e-10 if is_upper else gap <= 1e-10
        assert (holds | ~inside | ~valid).all()


@pytest.mark.parametrize(("lower", "upper"), CLAMPS)
def test_clamp_pair_planes(lower, upper):
    rng = np.random.default_rng(4)
    a, v, d = triple(rng, 1000)
    x, y, inside = polygon(a, v, d, tuple(k for k in (lower, upper) if np.isfinite(k)))
    value = np.clip(x + y, lower, upper) - np.clip(x, lower, upper)
    planes = clamp_pair_planes(a, v, d, lower, upper)
    assert_holds(planes, x, y, inside, value)
    assert_holds(-planes, x, y, inside, -value)


def test_a_stable_pair_is_exact():
    a, d = (
        Interval(np.array([[1.0, -5.0]]), np.array([[2.0, -4.0]])),
        Interval(np.full((1, 2), -0.5), np.ones((1, 2))),
    )
    v = Interval(a.lower + d.lower, a.upper + d.upper)
    planes = relu_pair_planes(a, v, d)
    for plane in (planes.lower, planes.upper):
        np.testing.assert_array_equal(plane.slope_a, [[0.0, 0.0]])
        np.testing.assert_array_equal(plane.slope_d, [[1.0, 0.0]])
        np.testing.assert_array_equal(plane.offset, [[0.0, 0.0]])


def test_ends_a_subnormal_away_from_the_kink_do_not_overflow():
    tiny = 5e-324
    a = Interval(np.array([[-1.0, -tiny]]), np.array([[tiny, 1.0]]))
    d = Interval(np.array([[-1.0, -1.0]]), np.array([[1.0, 1.0]]))
    v = Interval(np.array([[-2.0, -tiny]]), np.array([[tiny, 2.0]]))
    planes = relu_pair_planes(a, v, d)
    for plane in (planes.lower, planes.upper):
        assert np.isfinite(plane.slope_a).all() and np.isfinite(plane.offset).all()
    x, y, inside = polygon(a, v, d, (0.0,))
    assert_holds(planes, x, y, inside, np.maximum(x + y, 0.0) - np.maximum(x, 0.0))
