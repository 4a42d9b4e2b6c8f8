"""The search over bits a layer against exhaustive search, on the bundled controller.

`python benchmarks/precision.py [WIDTH ...]` quantizes the controller for TensorFlow Lite Micro with every choice of
these widths (2 to 6 if none are given), decides the tolerance for each with the exact verifier, and then lets the
search find the cheapest choice with and without the front.  It prints CPU seconds and verifier calls.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import milpq  # noqa: E402
from milpq.network.float_network import FloatNetwork  # noqa: E402
from milpq.precision.configurations import Costs  # noqa: E402
from milpq.quantization import linear_layers  # noqa: E402

MODELS = HERE / "models"
REGION = MODELS / "controller_small.toml"
TOLERANCE = 0.04
TARGET = "tflm"


def main() -> None:
    """Run both and compare."""
    widths = tuple(int(argument) for argument in sys.argv[1:]) or (2, 3, 4, 5, 6)
    network = milpq.load(MODELS / "controller.onnx")
    assert isinstance(network, FloatNetwork)
    calibration = np.random.default_rng(0).uniform(-1, 1, (2000, network.input_size))
    costs = Costs.of_layers(linear_layers(network), "memory")

    started = time.process_time()
    certified: dict[tuple[int, ...], int] = {}
    configurations = list(itertools.product(widths, repeat=len(costs.per_bit)))
    for bits in configurations:
        model = milpq.quantize(network, calibration, target=TARGET, bits=bits)
        if milpq.bound(network, model, REGION, tolerance=TOLERANCE).status == "certified":
            certified[bits] = costs.of(bits)
    print(
        f"exhaustive: {len(configurations)} verifier calls, {len(certified)} certified, cheapest "
        f"{min(certified.values()) / 8:,.1f} bytes, {time.process_time() - started:.1f} CPU s"
    )
    for front in (False, True):
        started = time.process_time()
        found = milpq.search_precision(
            network, calibration, REGION, TOLERANCE, target=TARGET, widths=widths, front=front
        )
        assert found.status == "optimal" and found.best is not None
        assert found.best.cost == min(certified.values()) and found.best.widths in certified
        effort = found.effort
        print(
            f"search {'with' if front else 'without'} front: bits {'-'.join(map(str, found.best.widths))}, "
            f"{found.best.cost / 8:,.1f} bytes, certified error {found.best.upper:.6f}; "
            f"{effort.examined} examined, killed {effort.killed}, {effort.decided} calls to decide, "
            f"{effort.measured} for the front, {effort.saved} saved, {time.process_time() - started:.1f} CPU s"
        )


if __name__ == "__main__":
    main()
