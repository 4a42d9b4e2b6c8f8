"""A run with a journal that kills itself, for real, when a search has left its state so many times.

python resumed.py CASE JOURNAL SECTION COUNT [CERTIFICATE]
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import milpq
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.search import checkpoint
from milpq.search.enumerate import enumerate_codes

MODELS = Path(__file__).parents[3] / "benchmarks/models"


def main() -> None:
    """Run and die."""
    case, journal, section, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    write, seen = checkpoint.Journal._write, []
    checkpoint._EVERY_S = checkpoint._COST = 0.0
    enumerate_codes.__kwdefaults__["range_size"] = 1 << 11

    def counting(self: checkpoint.Journal, sections: dict) -> None:
        write(self, sections)
        seen.extend([1] if list(sections)[-1] == section else [])
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.Journal._write = counting
    run(case, journal=journal, jobs=1, certificate=sys.argv[5] if len(sys.argv) > 5 else None)


def run(case: str, **given: object) -> milpq.Result:
    """Answer the question of a case."""
    rng = np.random.default_rng(3)
    if case == "enumeration":
        pair, box = (
            (MODELS / "controller.onnx", MODELS / "controller_int8.tflite"),
            milpq.Box([-0.12] * 3, [0.12] * 3),
        )
        return milpq.bound(*pair, box, target="tflm", input_domain="codes", **given)
    sizes, radius = {
        "tree": ([3, 6, 6, 2], 0.5),
        "certificate": ([9, 6, 1], 0.3),
        "phases": ([10, 8, 1], 0.3),
    }[case]
    nodes: list[Affine | Clamp] = []
    for index, (fan_in, size) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(size, fan_in)) * np.sqrt(2 / fan_in)
        nodes.append(Affine(f"linear{index}", (Term(len(nodes), weights),), 0.3 * rng.normal(size=size)))
        if index < len(sizes) - 2:
            nodes.append(Clamp(f"clamp{index}", len(nodes), 0.0, np.inf))
    moved = [
        Affine(
            n.name,
            (Term(n.terms[0].source, n.terms[0].matrix + 0.01 * rng.normal(size=n.terms[0].matrix.shape)),),
            n.bias,
        )
        if isinstance(n, Affine)
        else n
        for n in nodes
    ]
    pair = [FloatNetwork(sizes[0], tuple(part), len(part)) for part in (nodes, moved)]
    box = milpq.Box([-radius] * sizes[0], [radius] * sizes[0])
    if case != "phases":
        return milpq.bound(*pair, box, method="milp", **given)
    return milpq.bound(*pair, box, gap=0.3, **given)


if __name__ == "__main__":
    main()
