"""The rows and cuts between the two activations of one neuron: valid, and wrong without their guards."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.milp.encode_pair import Pair, Rounding, add_cuts, add_pair_rows
from milpq.milp.faces import Side
from milpq.milp.model import ModelBuilder


def grid(a_range, v_range, d_range, count=25):
    """Return points (a, d) with a, v = a + d and d inside their ranges, the corners among them."""
    a, d = np.meshgrid(np.linspace(*a_range, count), np.linspace(*d_range, count))
    a, d = a.ravel(), d.ravel()
    v = a + d
    inside = (v >= v_range[0] - 1e-12) & (v <= v_range[1] + 1e-12)
    return a[inside], d[inside]


def model_of(a_range, v_range, d_range, *, sign=1, kink=0.0, cuts=True):
    """Return the model of one pair with columns a, d, δ, p, c, in tilted ranges."""

    def untilted(ends, shift):
        low, high = sorted(sign * end + shift for end in ends)
        return np.array([low]), np.array([high])

    builder = ModelBuilder()
    sides = []
    for ends, shift in ((a_range, kink), (d_range, 0.0), (d_range, 0.0)):
        low, high = untilted(ends, shift)
        columns = builder.add_columns(np.minimum(low, -9), np.maximum(high, 9))
        sides.append(Side(columns, low, high))
    p = builder.add_columns(0.0, 1.0, count=1, integer=True)
    c = builder.add_columns(0.0, 1.0, count=1, integer=True)
    v_low, v_high = untilted(v_range, kink)
    pair = Pair("pair", np.arange(len(p)), kink, sign, sides[0], v_low, v_high, sides[1], sides[2], p, c)
    if cuts:
        add_cuts(builder, pair, Rounding.none(1))
    else:
        add_pair_rows(builder, pair, Rounding.none(1))
    return builder.build()


def points_of(a, d, *, sign=1, kink=0.0):
    """Return the true points of the model of `model_of` at tilted (a, d)."""
    delta = np.maximum(a + d, 0) - np.maximum(a, 0)
    return np.stack([sign * a + kink, sign * d, sign * delta, a > 0, a + d > 0], axis=1).astype(float)


RANGES = [
    ((-1.0, 2.0), (-1.2, 1.9), (-0.3, 0.4)),
    ((-0.1, 0.1), (-0.5, 0.6), (-0.5, 0.6)),
    ((-2.0, 0.05), (-2.0, 0.4), (-0.01, 0.4)),
    ((-0.05, 2.0), (-0.4, 2.0), (-0.4, 0.01)),
    ((-1.0, 1.0), (-1.0, 1.0), (0.1, 0.5)),
]


@pytest.mark.parametrize(("sign", "kink"), [(1, 0.0), (1, 0.7), (-1, 6.0)])
@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("ranges", RANGES)
def test_true_points_satisfy_every_row(ranges, cuts, sign, kink):
    model = model_of(*ranges, sign=sign, kink=kink, cuts=cuts)
    for point in points_of(*grid(*ranges), sign=sign, kink=kink):
        assert model.violation(point) < 1e-12


def test_all_cuts_appear_where_their_guards_hold():
    assert model_of((-1.0, 1.0), (-1.3, 1.4), (-0.3, 0.4)).rows == 6
    assert model_of((-0.1, 0.1), (-0.2, 0.2), (-0.3, 0.3)).rows == 2  # the chords alone


UNGUARDED = {
    # a, d ranges that break just this guard, and the cut without it as a function of (a, d).
    "U2": ((-1.0, 0.1), (-1.3, 0.5), (-0.3, 0.4), lambda a, d: d + 0.3 * (1 - a / 0.1), 1),
    "U3": ((-0.1, 1.0), (-0.4, 1.4), (-0.3, 0.4), lambda a, d: 0.4 * (1 + a / 0.1) + 0 * d, 1),
    "L2": ((-1.0, 1.0), (-1.3, 0.1), (-0.3, 0.4), lambda a, d: d - 0.4 * (1 - (a + d) / 0.1), -1),
    "L3": ((-1.0, 1.0), (-0.1, 1.4), (-0.3, 0.4), lambda a, d: -0.3 * (1 + (a + d) / 0.1), -1),
}


@pytest.mark.parametrize("name", UNGUARDED)
def test_a_cut_without_its_guard_would_be_wrong(name):
    a_range, v_range, d_range, cut, side = UNGUARDED[name]
    a, d = grid(a_range, v_range, d_range)
    delta = np.maximum(a + d, 0) - np.maximum(a, 0)
    violation = side * (delta - cut(a, d))
    assert violation.max() > 1e-3
    # With the guard the cut is left out, and what remains is valid.
    model = model_of(a_range, v_range, d_range)
    assert max(model.violation(point) for point in points_of(a, d)) < 1e-12
