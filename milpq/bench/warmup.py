"""Code that is compiled on its first use, compiled before anything is timed."""

from __future__ import annotations

import numpy as np

from milpq.bench.tasks import random_pair, rounded_weights
from milpq.merge import Problem
from milpq.region.box import Box
from milpq.rounding.targets import get_target
from milpq.search.bounding import fitting


def warm_up() -> None:
    """Bound a small problem of every kind, so that the compiled bounds are on disk for the cases to come.

    The first time after an installation this takes some twenty seconds of processor time, then hardly any.
    """
    network, model = random_pair([2, 4, 2], 8, 0)
    integer = model.on_target(get_target("tflm"))
    box = Box([-0.1, -0.1], [0.1, 0.1])
    for problem in (
        Problem.create(network, rounded_weights(network, 8), box),
        Problem.create(network, integer, box, "codes"),
        Problem.create(network, integer, box, "continuous"),
    ):
        nothing = np.full(2 * len(problem.outputs), -np.inf)
        fitting(problem)(problem, problem.domain.root, nothing)
