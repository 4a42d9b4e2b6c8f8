"""Cubes of the input domain against exact fractions: what they hold, and how far a level is from its inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpq.errors import RegionError, UsageError
from milpq.merge import Cubes
from milpq.merge.domain import Domain
from milpq.network.integer_network import IntegerInput
from milpq.region.box import Box
from milpq.rounding.input_quantizer import RULES, InputQuantizer

INPUTS = 3


def an_input(rng: np.random.Generator, rule: str, *, exponent: float, apart: bool = False) -> IntegerInput:
    """Return codes of some type, scales of any size, and, `apart`, other readings of the float side."""
    lower, upper = [(-128, 127), (0, 255), (-8, 7), (-1, 0)][rng.integers(4)]
    zero_point = int(rng.integers(lower, upper + 1))
    scale = (10.0 ** rng.uniform(-exponent, exponent, INPUTS)).astype(np.float32).astype(np.float64)
    quantizer = InputQuantizer.from_rule(
        rule, scale, np.full(INPUTS, zero_point, dtype=np.int64), lower, upper
    )
    reading = scale * rng.uniform(0.9, 1.1, INPUTS) if apart else scale
    return IntegerInput(scale, zero_point, lower - zero_point, upper - zero_point, reading, quantizer)


def random_ends(rng: np.random.Generator, integer: IntegerInput) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of a box: anywhere, on thresholds and beside them, beyond the codes, single points."""
    assert integer.quantizer is not None
    ends = rng.uniform(integer.level_lower - 2, integer.level_upper + 2, (2, INPUTS)) * integer.scale
    steps = integer.quantizer.thresholds
    on = steps[np.arange(INPUTS), rng.integers(0, steps.shape[1], (2, INPUTS))]
    beside = np.nextafter(on, rng.choice([-np.inf, np.inf], on.shape))
    ends = np.choose(rng.integers(0, 3, ends.shape), [ends, on, beside])
    ends[1] = np.where(rng.random(INPUTS) < 0.2, ends[0], ends[1])
    return np.sort(ends, axis=0)[0], np.sort(ends, axis=0)[1]


def assert_differences_hold(domain: Domain, cubes: Cubes) -> None:
    """Compare with the exact ends of every closed cell inside of every cube."""
    integer = domain.integer
    assert integer is not None and integer.quantizer is not None
    lower, upper = domain.difference(cubes)
    for cube in range(len(cubes)):
        for i in range(INPUTS):
            scale, seen = Fraction(integer.scale[i]), list[Fraction]()
            for level in range(int(cubes.level_lower[cube, i]), int(cubes.level_upper[cube, i]) + 1):
                if domain.kind == "codes":
                    seen.append(scale * level - Fraction(integer.float_scale[i] * level))
                    continue
                low, high = (
                    end[0, i] for end in integer.quantizer.cell(np.full((1, INPUTS), level, dtype=np.int64))
                )
                low, high = max(low, cubes.lower[cube, i]), min(high, cubes.upper[cube, i])
                if low <= high:
                    seen += [scale * level - Fraction(low), scale * level - Fraction(high)]
            assert Fraction(lower[cube, i]) <= min(seen) <= max(seen) <= Fraction(upper[cube, i])
            # Wide cubes are charged the thresholds of all levels, within a step of what they hold.
            assert upper[cube, i] - lower[cube, i] <= float(max(seen) - min(seen)) + 2.1 * integer.scale[i]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(RULES)), st.sampled_from([0.5, 3.0, 25.0]))
def test_differences_of_real_inputs_hold_in_every_cell(seed, rule, exponent):
    rng = np.random.default_rng(seed)
    integer = an_input(rng, rule, exponent=exponent)
    domain = Domain(Box(*random_ends(rng, integer)), "continuous", integer)
    root = domain.root
    levels = np.sort(rng.integers(root.level_lower, root.level_upper + 1, (2, 6, INPUTS)), axis=0)
    middle = np.clip(0.5 * root.lower + 0.5 * root.upper, root.lower, root.upper)
    parts = [root, domain.cubes_of_boxes(root.lower, middle), domain.cubes_of_boxes(middle, root.upper)]
    for cubes in (*parts, domain.cubes_of_levels(*levels)):
        assert_differences_hold(domain, cubes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 25.0]), st.booleans())
def test_differences_of_codes_hold_at_every_level(seed, exponent, apart):
    rng = np.random.default_rng(seed)
    integer = an_input(rng, "half-away", exponent=exponent, apart=apart)
    ends = np.sort(rng.integers(integer.level_lower, integer.level_upper + 1, (2, INPUTS)), axis=0)
    domain = Domain(Box(*integer.float_value(ends)), "codes", integer)
    # A box that ends on codes holds them.
    assert np.array_equal(domain.root.level_lower[0], ends[0])
    assert np.array_equal(domain.root.level_upper[0], ends[1])
    parts = np.sort(rng.integers(ends[0], ends[1] + 1, (2, 6, INPUTS)), axis=0)
    for cubes in (domain.root, domain.cubes_of_levels(*parts)):
        assert_differences_hold(domain, cubes)
        assert np.array_equal(cubes.lower, integer.float_value(cubes.level_lower))
        assert np.array_equal(cubes.upper, integer.float_value(cubes.level_upper))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_codes_just_outside_of_a_box_are_not_in_it(seed):
    rng = np.random.default_rng(seed)
    integer = an_input(rng, "half-away", exponent=3.0, apart=bool(rng.integers(2)))
    ends = np.sort(rng.integers(integer.level_lower, integer.level_upper + 1, (2, INPUTS)), axis=0)
    low, high = integer.float_value(ends)
    within = Domain(Box(np.nextafter(low, -np.inf), np.nextafter(high, np.inf)), "codes", integer).root
    assert np.array_equal(within.level_lower[0], ends[0]) and np.array_equal(within.level_upper[0], ends[1])
    inner = Box(np.nextafter(low, np.inf), np.maximum(np.nextafter(high, -np.inf), np.nextafter(low, np.inf)))
    if (ends[1] - ends[0] < 2).any():
        with pytest.raises(RegionError, match="no input code lies in"):
            Domain(inner, "codes", integer)
    else:
        root = Domain(inner, "codes", integer).root
        assert np.array_equal(root.level_lower[0], ends[0] + 1)
        assert np.array_equal(root.level_upper[0], ends[1] - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(RULES)))
def test_cubes_of_levels_hold_every_input_that_reads_as_one(seed, rule):
    rng = np.random.default_rng(seed)
    integer = an_input(rng, rule, exponent=3.0)
    assert integer.quantizer is not None
    domain = Domain(Box(*random_ends(rng, integer)), "continuous", integer)
    root = domain.root
    points = rng.uniform(root.lower[0], root.upper[0], (60, INPUTS))
    steps = integer.quantizer.thresholds[np.arange(INPUTS), rng.integers(0, 1, (60, INPUTS))]
    points[::2] = np.clip(np.nextafter(steps, np.inf), root.lower[0], root.upper[0])[::2]
    points[:4] = root.lower[0], root.upper[0], root.lower[0], root.upper[0]
    levels = integer.quantizer(points)
    assert ((root.level_lower <= levels) & (levels <= root.level_upper)).all()
    cubes = domain.cubes_of_levels(levels, levels)
    assert ((cubes.lower <= points) & (points <= cubes.upper)).all()
    assert ((root.lower <= cubes.lower) & (cubes.upper <= root.upper)).all()
    again = domain.cubes_of_boxes(points, points)
    assert np.array_equal(again.level_lower, levels) and np.array_equal(again.level_upper, levels)


def test_kinds_of_domain_fit_the_network():
    integer = an_input(np.random.default_rng(0), "half-away", exponent=1.0)
    box = Box(np.zeros(INPUTS), integer.scale)
    with pytest.raises(UsageError, match="needs the input domain"):
        Domain(box, "real", integer)
    with pytest.raises(UsageError, match="needs the input domain"):
        Domain(box, "codes", None)
    codes_only = IntegerInput(integer.scale, 0, -8, 7, integer.scale, None)
    with pytest.raises(UsageError, match="use --input-domain codes"):
        Domain(box, "continuous", codes_only)
    with pytest.raises(RegionError):
        Domain(Box([0.0], [1.0]), "codes", integer)
