"""How many cubes a second each propagation bounds: ACAS Xu N1_1 against its int8 weights, one thread.

    python benchmarks/cubes.py

Reads the network from MILPQ_DATA (default ../shared/data).  Times are processor seconds, the best of three.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from milpq.bench.tasks.weights import rounded_weights
from milpq.bounds import differential
from milpq.bounds.zonotope import zonotope_objectives
from milpq.formats.load import load_float
from milpq.merge import Problem
from milpq.region.box import Box

RADIUS = 0.05


def main() -> int:
    """Print the table."""
    path = Path(os.environ.get("MILPQ_DATA", "../shared/data")) / "acasxu/ACASXU_run2a_1_1_batch_2000.onnx"
    if not path.exists():
        print(f"skipped: {path} is not there; set MILPQ_DATA")
        return 0
    network = load_float(path)
    quantized = rounded_weights(network, 8)
    problem = Problem.create(network, quantized, Box(np.full(5, -RADIUS), np.full(5, RADIUS)))
    none = np.full(2 * len(problem.outputs), np.inf)
    methods = {
        "zonotope": lambda cubes: zonotope_objectives(problem, cubes, none),
        "differential": lambda cubes: differential(problem, cubes),
    }
    rng = np.random.default_rng(0)
    print("| half-width | " + " | ".join(f"{name}, cubes/s" for name in methods) + " |")
    for width in (RADIUS, 0.01, 0.003, 0.001):
        count = 1 if width == RADIUS else 1000
        centre = rng.uniform(-RADIUS + width, RADIUS - width, size=(count, 5))
        cubes = problem.domain.cubes_of_boxes(centre - width, centre + width)
        rates = []
        for method in methods.values():
            method(cubes)
            spent = []
            for _ in range(3):
                start = time.process_time()
                method(cubes)
                spent.append(time.process_time() - start)
            rates.append(count / min(spent))
        print(f"| {width} | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
