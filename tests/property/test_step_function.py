"""Step functions against the executable formulas they stand for, and against their own definition."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milpq.errors import AccumulatorOverflowError
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.requantizers import (
    EXPLICIT_ROUNDINGS,
    POWER_OF_TWO_ROUNDINGS,
    explicit_requantizer,
    power_of_two_requantizer,
)
from milpq.rounding.step import NEVER, StepFunction
from milpq.rounding.targets import get_target

CHANNELS = 3
SCALED = (
    "tflm",
    "tflm:multiplier=float32",
    "litert-ref",
    "litert-nodelegate",
    "litert-xnnpack",
    "ort",
    "cmsis-single",
    "tosa-single",
)
POWER_OF_TWO = ("pow2-half-up", "pow2-floor", "pow2-half-even")


def limits(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw an output zero point and ordered code limits."""
    zero_point = draw(st.integers(-128, 127))
    lower, upper = sorted((draw(st.integers(-128, 127)), draw(st.integers(-128, 127))))
    return zero_point, lower, upper


@st.composite
def requantizers(draw: st.DrawFn) -> tuple[Requantizer, int, int]:
    """Draw any executable requantization and its code limits."""
    zero_point, lower, upper = limits(draw)
    kind = draw(st.sampled_from(("target", "power of two", "explicit", "shift")))
    if kind == "explicit":
        multipliers = draw(st.lists(st.integers(0, 2**31 - 1), min_size=CHANNELS, max_size=CHANNELS))
        shifts = draw(st.lists(st.integers(-31, 4), min_size=CHANNELS, max_size=CHANNELS))
        rounding = draw(st.sampled_from(sorted(EXPLICIT_ROUNDINGS)))
        made = explicit_requantizer(
            np.array(multipliers), np.array(shifts), rounding, zero_point, lower, upper
        )
    elif kind == "shift":
        shifts = draw(st.lists(st.integers(-4, 34), min_size=CHANNELS, max_size=CHANNELS))
        rounding = draw(st.sampled_from(sorted(POWER_OF_TWO_ROUNDINGS)))
        made = power_of_two_requantizer(np.array(shifts), rounding, zero_point, lower, upper)
    else:
        exponents = draw(st.lists(st.floats(-30, 5), min_size=CHANNELS, max_size=CHANNELS))
        if kind == "power of two":
            exponents = [float(round(value)) for value in exponents]
        per_channel = draw(st.booleans())
        weight_scales = (2.0 ** np.array(exponents)).astype(np.float32).astype(np.float64)
        if not per_channel:
            weight_scales[:] = weight_scales[0]
        operator = draw(st.sampled_from(("fully_connected", "conv", "depthwise")))
        name = draw(st.sampled_from(POWER_OF_TWO if kind == "power of two" else SCALED))
        made = get_target(name).requantizer(
            Requantization(operator, 0.5, weight_scales, per_channel, 0.25, zero_point, lower, upper)
        )
    return made, lower, upper


@settings(deadline=None, max_examples=300)
@given(
    requantizers(),
    st.lists(st.tuples(st.integers(-(2**27), 2**27), st.integers(0, 2**27)), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_executable_formula(
    drawn: tuple[Requantizer, int, int], ranges: list[tuple[int, int]], seed: int
) -> None:
    function, lower, upper = drawn
    first = np.array([start for start, _ in ranges], dtype=np.int64)
    last = first + np.array([length for _, length in ranges], dtype=np.int64)
    try:
        step = StepFunction.from_function(function, first, last, lower, upper)
    except AccumulatorOverflowError:
        # Refused: then at least one end of the range must be what the requantizer refuses.
        try:
            function(np.stack((first, last), axis=1))
        except AccumulatorOverflowError:
            return
        raise
    rng = np.random.default_rng(seed)
    near = (
        step.thresholds[:, rng.integers(0, max(step.thresholds.shape[1], 1), 40)]
        if step.thresholds.shape[1]
        else np.zeros((CHANNELS, 0), dtype=np.int64)
    )
    points = np.concatenate(
        (
            near,
            near - 1,
            np.linspace(first, last, 50, axis=1).astype(np.int64),
            np.stack((first, last, np.zeros_like(first), np.full_like(first, -1)), axis=1),
        ),
        axis=1,
    )
    points = np.clip(points, first[:, None], last[:, None])
    codes = function(points)
    np.testing.assert_array_equal(step(points.T), codes.T)
    np.testing.assert_array_equal(step.evaluate_fast(points.T.astype(np.float64)), codes.T)
    # Monotone, and never outside its image.
    assert (np.diff(function(np.sort(points, axis=1)), axis=1) >= 0).all()
    smallest, largest = step.image(first, last)
    assert (smallest[:, None] <= codes).all()
    assert (codes <= largest[:, None]).all()


@st.composite
def tables(draw: st.DrawFn) -> StepFunction:
    """Draw a step function of arbitrary rows: jumps, flat stretches, padding, the seam at zero."""
    steps = draw(st.integers(0, 6))
    distinct = draw(st.integers(1, 4))
    threshold = st.one_of(st.integers(-4, 4), st.integers(-50, 50), st.just(int(NEVER)), st.just(-int(NEVER)))
    thresholds = [sorted(draw(st.lists(threshold, min_size=steps, max_size=steps))) for _ in range(distinct)]
    if draw(st.booleans()):
        values = [
            list(range(start, start + steps + 1))
            for start in draw(st.lists(st.integers(-5, 5), min_size=distinct, max_size=distinct))
        ]
    else:
        values = [
            sorted(draw(st.lists(st.integers(-6, 6), min_size=steps + 1, max_size=steps + 1)))
            for _ in range(distinct)
        ]
    rows = draw(st.lists(st.integers(0, distinct - 1), min_size=1, max_size=6))
    return StepFunction(
        np.array(thresholds, dtype=np.int64).reshape(distinct, steps),
        np.array(values, dtype=np.int64),
        np.array(rows, dtype=np.int64),
    )


def literal(step: StepFunction, accumulator: np.ndarray) -> np.ndarray:
    """Return the value by the definition in the class docstring, one neuron at a time."""
    return np.array(
        [
            [
                step.values[row, sum(int(threshold) <= int(a) for threshold in step.thresholds[row])]
                for a, row in zip(line, step.rows, strict=True)
            ]
            for line in accumulator
        ]
    )


@settings(deadline=None, max_examples=200)
@given(tables())
@example(StepFunction(np.array([[0]]), np.array([[-3, 4]]), np.array([0, 0])))
@example(StepFunction(np.zeros((2, 0)), np.array([[1], [-1]]), np.array([1, 0])))
@example(StepFunction(np.array([[-2, -2, 2, 2]]), np.array([[0, 1, 2, 3, 4]]), np.array([0])))
@example(StepFunction(np.array([[-NEVER, 0, NEVER]]), np.array([[0, 1, 2, 3]]), np.array([0])))
def test_every_answer_follows_from_the_definition(step: StepFunction) -> None:
    accumulator = np.repeat(
        np.concatenate((np.arange(-60, 61), [-(2**31), 2**31 - 1, -(2**39), 2**39]))[:, None],
        step.size,
        axis=1,
    )
    expected = literal(step, accumulator)
    np.testing.assert_array_equal(step(accumulator), expected)
    np.testing.assert_array_equal(step.evaluate_fast(accumulator.astype(np.float64)), expected)
    some = np.arange(step.size)[::-2]
    chosen = step.select(some)
    np.testing.assert_array_equal(chosen(accumulator[:, some]), expected[:, some])
    np.testing.assert_array_equal(
        chosen.evaluate_fast(accumulator[:, some].astype(np.float64)), expected[:, some]
    )
    for lower in range(-8, 9):
        for upper in range(lower, 9):
            ends = np.full(step.size, lower), np.full(step.size, upper)
            first, last = step.preimage(*ends)
            inside = (accumulator >= first) & (accumulator <= last)
            np.testing.assert_array_equal(inside, (expected >= lower) & (expected <= upper))


@settings(deadline=None)
@given(st.floats(-20, 12), st.integers(-128, 127), st.integers(0, 2**32 - 1))
def test_steep_and_flat_rows(exponent: float, zero_point: int, seed: int) -> None:
    """Several levels per accumulator step, and many accumulators per level."""
    multiplier, shift = np.array([2**30 + seed % 2**30]), np.array([int(np.floor(exponent))])
    function = explicit_requantizer(multiplier, shift, "double", zero_point, -128, 127)
    reach = np.array([2 ** (30 - max(int(shift[0]), 0)) - 1])
    step = StepFunction.from_function(function, -reach, reach, -128, 127)
    width = int(2.0 ** (9 - exponent))
    points = np.clip(np.linspace(-width, width, 401).astype(np.int64), -reach, reach)[:, None]
    codes = function(points.T).T
    np.testing.assert_array_equal(step(points), codes)
    np.testing.assert_array_equal(step.evaluate_fast(points.astype(np.float64)), codes)
