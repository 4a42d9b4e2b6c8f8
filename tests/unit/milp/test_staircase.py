"""Lines of step functions: exact at every accumulator, with margin, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.milp.staircase import MARGIN, Slopes, Window, best_lines, double_lines, single_lines
from milpq.rounding.step import StepFunction


def half_up(multiplier: int, shift: int, low: int, high: int):
    return lambda acc: np.clip((acc * multiplier + (1 << (shift - 1))) >> shift, low, high)


def half_away(scale: float, low: int, high: int):
    def function(acc):
        real = acc * scale
        return np.clip(np.sign(real) * np.floor(np.abs(real) + 0.5), low, high).astype(np.int64)

    return function


def half_even(shift: int, low: int, high: int):
    return lambda acc: np.clip(np.rint(acc / 2.0**shift), low, high).astype(np.int64)


def step_of(function, lower: int, upper: int, low: int, high: int) -> StepFunction:
    return StepFunction.from_function(function, np.array([lower]), np.array([upper]), low, high)


def lines_of(step: StepFunction, lower: int, upper: int, ideal: float):
    window = Window.of(step, np.array([0]), np.array([float(lower)]), np.array([float(upper)]))
    return best_lines(step, np.array([0]), window, Slopes.of(step), np.array([ideal]))


def allowed(lines, step: StepFunction, accumulators: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return how far inside the rows each (accumulator, level) is, binaries chosen as best they can."""
    first, last = step(accumulators[[0]])[0], step(accumulators[[-1]])[0]
    offset = np.where(accumulators >= 0, lines.offset[1, 0], lines.offset[0, 0])[:, None]
    slope = lines.slope[0]
    residue = accumulators[:, None] - slope * levels[None, :]
    below, above = residue - offset, offset + slope - residue
    if lines.clamped_low[0]:
        below = np.where(levels[None, :] == first, np.inf, below)
    if lines.clamped_high[0]:
        above = np.where(levels[None, :] == last, np.inf, above)
    inside = np.minimum(below, above)
    return np.where((levels >= first) & (levels <= last), inside, -np.inf)


CASES = [
    (half_up(1518500250, 38, -128, 127), -20_000, 20_000, 2.0**38 / 1518500250),
    (half_up(1, 16, -128, 127), -32767, 32767, 2.0**16),
    (half_up(3, 2, -128, 127), -400, 400, 4 / 3),
    (half_up(7, 2, -128, 127), -100, 100, 4 / 7),
    (half_away(0.0078125, -128, 127), -9_000, 9_000, 128.0),
    (half_away(0.00731, -128, 127), -30_000, 30_000, 1 / 0.00731),
    (half_away(0.00731, 0, 127), -30_000, 30_000, 1 / 0.00731),
    (half_away(0.00731, -3, 5), -1_000, 4_000, 1 / 0.00731),
]


@pytest.mark.parametrize(("function", "lower", "upper", "ideal"), CASES)
def test_a_line_allows_the_own_level_and_no_other(function, lower, upper, ideal):
    step = step_of(function, lower, upper, -128, 127)
    rng = np.random.default_rng(0)
    ranges = [(lower, upper)] + [tuple(np.sort(rng.integers(lower, upper + 1, size=2))) for _ in range(8)]
    for low, high in ranges:
        window = Window.of(step, np.array([0]), np.array([float(low)]), np.array([float(high)]))
        if window.steps[0] < 2:
            continue
        lines = lines_of(step, int(low), int(high), ideal)
        assert lines.usable[0]
        accumulators = np.arange(low, high + 1)
        levels = np.arange(-128, 128)
        inside = allowed(lines, step, accumulators, levels)
        own = levels[None, :] == step(accumulators[:, None])
        assert inside[own].min() >= 0.5 * MARGIN
        assert inside[~own].max() <= -0.5 * MARGIN


def test_a_tie_is_decided_as_the_runtime_does_at_large_shifts():
    """acc = 32767 at shift 16 is just below the tie: level 0, not 1."""
    step = step_of(half_up(1, 16, -128, 127), -(2**20), 2**20, -128, 127)
    lines = lines_of(step, -(2**20), 2**20, 2.0**16)
    inside = allowed(lines, step, np.array([-(2**20), 32767, 32768, 2**20]), np.array([0, 1]))
    assert inside[1, 0] > 0 > inside[1, 1]
    assert inside[2, 1] > 0 > inside[2, 0]


def test_one_side_needs_one_line_and_mirrored_roundings_two():
    step = step_of(half_away(1 / 4, -128, 127), -500, 500, -128, 127)
    assert lines_of(step, -500, 500, 4.0).split[0]
    assert not lines_of(step, 0, 500, 4.0).split[0]
    assert not lines_of(step, -500, -1, 4.0).split[0]


def test_saturation_costs_a_binary_only_where_it_is_reached():
    step = step_of(half_up(1, 4, 0, 100), -2_000, 2_000, 0, 100)
    lines = lines_of(step, -2_000, 2_000, 16.0)
    assert lines.clamped_low[0]
    assert lines.clamped_high[0]
    lines = lines_of(step, 3, 1_000, 16.0)
    assert not lines.clamped_low[0]
    assert not lines.clamped_high[0]


def test_irregular_tables_are_refused():
    thresholds = np.array([[0, 1, 2, 50, 51, 100]])
    step = StepFunction(thresholds, np.arange(7)[None, :], np.array([0]))
    assert not lines_of(step, -10, 110, 20.0).usable[0]


def test_half_to_even_at_powers_of_two_is_refused():
    """Ties alternate, so no line has margin: such steps become stairs."""
    step = step_of(half_even(3, -128, 127), -400, 400, -128, 127)
    assert not lines_of(step, -400, 400, 8.0).usable[0]


@pytest.mark.parametrize("seed", range(4))
def test_any_lines_with_margin_allow_the_own_level_and_no_other(seed):
    """Few accumulators a level; roundings, dead zones and ends at zero; ranges that end anywhere."""
    rng = np.random.default_rng(seed)
    used = np.zeros(2, dtype=np.int64)
    for _ in range(150):
        scale, shift, dead = 1 / rng.uniform(0.8, 9.0), rng.uniform(-0.5, 0.5, 2), rng.choice([0, 0, 1])
        ends = [(-9, 9), (0, 9), (-9, 0)][rng.integers(3)]

        def function(acc, scale=scale, shift=shift, dead=dead, ends=ends):
            real = np.floor(acc * scale + shift[(acc >= 0).astype(int)] + 0.5)
            return np.clip(np.sign(real) * np.maximum(np.abs(real) - dead, 0), *ends).astype(np.int64)

        step = step_of(function, -60, 60, -9, 9)
        low, high = np.sort(rng.choice([*range(-40, 41), -1, 0, -1, 0], size=2))
        window = Window.of(step, np.array([0]), np.array([float(low)]), np.array([float(high)]))
        if window.steps[0] < 2:
            continue
        slope = np.array([rng.choice([1 / scale, 1.05 / scale, round(1 / scale) or 1.0])])
        seam = tuple(step(np.array([acc])).astype(np.float64) for acc in (-1, 0))
        accumulators, levels = np.arange(low, high + 1), np.arange(-10, 11)
        own = levels[None, :] == step(accumulators[:, None])
        for kind, lines in enumerate((single_lines(window, slope), double_lines(window, slope, seam))):
            if lines.usable[0]:
                used[kind] += 1
                inside = allowed(lines, step, accumulators, levels)
                assert inside[own].min() >= 0.5 * MARGIN
                assert inside[~own].max() <= -0.5 * MARGIN
    assert (used > 10).all()
