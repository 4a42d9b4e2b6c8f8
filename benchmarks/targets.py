"""One model on every target: certified brackets side by side.

`python benchmarks/targets.py` bounds the bundled controller around upright on each runtime, once as bundled, and once
quantized with power-of-two scales, which the shifting targets can run too.  The integers of a model are the same in
every line; only the runtime's rounding differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import milpq  # noqa: E402
from milpq.errors import TargetError  # noqa: E402
from milpq.rounding.targets import BUILTIN  # noqa: E402

MODELS = HERE / "models"
REGION = MODELS / "controller_small.toml"


def main() -> None:
    """Print a line for each model and target."""
    calibration = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
    models = {
        "bundled": milpq.load(MODELS / "controller_int8.tflite"),
        "powers of two": milpq.quantize(
            MODELS / "controller.onnx", calibration, power_of_two=True, symmetric_activations=True
        ),
    }
    for name, model in models.items():
        for target in BUILTIN:
            try:
                result = milpq.bound(MODELS / "controller.onnx", model, REGION, target=target)
            except TargetError as error:
                print(f"{name:14} {target:18} {error}")
                continue
            assert result.lsb is not None
            print(
                f"{name:14} {target:18} [{result.lower:.6f}, {result.upper:.6f}] = "
                f"[{result.lower / result.lsb:.3f}, {result.upper / result.lsb:.3f}] LSB, {result.status}, "
                f"{result.time_s.total:.1f} s"
            )


if __name__ == "__main__":
    main()
