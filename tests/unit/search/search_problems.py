"""Problems that the tests of the search share."""

from __future__ import annotations

import numpy as np
from random_pairs import box, float_network, perturbed, quantized

from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerInput, IntegerNetwork
from milpq.network.nodes import Affine, IntegerAffine, Step, Term
from milpq.rounding.step import StepFunction


def problem_of(kind, seed=0, sizes=(3, 6, 6, 2), clamp=(0.0, np.inf)):
    rng = np.random.default_rng(seed)
    network = float_network(rng, list(sizes), clamp)
    if kind == "real":
        return Problem.create(network, perturbed(rng, network, 0.01), box(-0.4, 0.5, sizes[0]))
    return Problem.create(network, quantized(rng, network, "tflm"), box(-0.4, 0.5, sizes[0]), kind)


def almost_constant(codes):
    """Return a problem whose differences all lie within the float64 error of executing it."""
    scale = np.ones(1)
    network = FloatNetwork(1, (Affine("tiny", (Term(0, np.array([[1e-25]])),), np.array([0.1])),), 1)
    step = StepFunction(np.zeros((1, 0)), np.array([[3]]), np.zeros(1))
    accumulate = IntegerAffine("none", (Term(0, np.zeros((1, 1))),), np.zeros(1), scale)
    quantized_network = IntegerNetwork(
        IntegerInput(scale, 0, 0, codes - 1, scale, None),
        (accumulate, Step("step", 1, step, 0.1 * scale)),
        2,
        "test",
    )
    return Problem.create(network, quantized_network, box(0.0, codes - 1.0, 1))
