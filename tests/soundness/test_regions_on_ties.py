"""Regions that end beside a threshold of the input quantizer, where a level has real inputs but no float32 number."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import milpq
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, Term
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target
from milpq.search.inputs import FeedableInputs
from milpq.search.moves import Moves

SCALE = float(np.float32(0.1))
WEIGHTS = [[3.0, 1.0]]


def pair(target: str) -> tuple[FloatNetwork, IntegerNetwork]:
    """Return a line of two inputs, whose difference grows towards the ends of each cell."""
    matrix = np.array(WEIGHTS) * 0.51
    network = FloatNetwork(2, (Affine("line", (Term(0, matrix),), np.zeros(1)),), 1)
    scale = np.full(1, 0.5)
    rounding = Requantization("fully_connected", SCALE, scale, False, 2.0, 0, -128, 127)
    one = np.zeros(1, dtype=np.int64)
    layer = QuantizedLinear("line", 0, np.array(WEIGHTS), one, SCALE, scale, one, rounding)
    scales = np.full(2, SCALE)
    return network, QuantizedModel(scales, 0, -128, 127, scales, (layer,), 1).on_target(get_target(target))


def ends(problem: Problem, level: int, side: int) -> tuple[float, float]:
    """Return the threshold in front of a level, and a number between it and the next float32 on a side."""
    threshold = float(problem.domain.integer.quantizer.cell(np.full((1, 2), level))[0][0, 0])
    return threshold, float(np.nextafter(threshold, side * np.inf))


@pytest.mark.parametrize("target", ["tflm", "litert-xnnpack", "ort"])
@pytest.mark.parametrize("level", [-31, 1, 40])
def test_levels_without_float32_numbers_lead_no_witness_out_of_the_region(target, level):
    network, quantized = pair(target)
    wide = Problem.create(network, quantized, milpq.Box([-9.0, -9.0], [9.0, 9.0]), "continuous")
    for side in (-1, 1):
        threshold, beyond = ends(wide, level, side)
        assert float(np.float32(threshold)) != threshold
        far = threshold - side * 2.3 * SCALE
        low, high = sorted((far, beyond))
        box = milpq.Box([low, 0.31], [high, 0.52])
        problem = Problem.create(network, quantized, box, "continuous")
        inputs = FeedableInputs(problem)
        moves = Moves(inputs)
        for point in inputs.random(np.random.default_rng(0), 4):
            for preferred in (-np.ones(2), np.ones(2)):
                for dimension in range(2):
                    line = moves.line(point, preferred, dimension)
                    assert ((line >= box.lower) & (line <= box.upper)).all()
                    assert np.array_equal(inputs.snap(line), line)
        result = milpq.bound(network, quantized, box, input_domain="continuous", time_limit=5)
        assert ((result.witness.input >= box.lower) & (result.witness.input <= box.upper)).all()
        truth = supremum(problem)
        assert Fraction(result.lower) <= truth <= Fraction(result.upper)


def supremum(problem: Problem) -> Fraction:
    """Return the largest difference over the closed cells, at the corners of which a line has its extremes."""
    root, quantizer = problem.domain.root, problem.domain.integer.quantizer
    best = Fraction(0)
    for first in range(int(root.level_lower[0, 0]), int(root.level_upper[0, 0]) + 1):
        for second in range(int(root.level_lower[0, 1]), int(root.level_upper[0, 1]) + 1):
            levels = np.array([[first, second]])
            low, high = (end[0] for end in quantizer.cell(levels))
            low, high = np.maximum(low, root.lower[0]), np.minimum(high, root.upper[0])
            value = Fraction(float(problem.quantized.output_scale[0])) * int(
                problem.quantized.execute(levels)[0, 0]
            )
            for x in (low[0], high[0]):
                for y in (low[1], high[1]):
                    exact = problem.float_network.evaluate_exact(np.array([x, y]))[0]
                    best = max(best, abs(value - exact))
    return best
