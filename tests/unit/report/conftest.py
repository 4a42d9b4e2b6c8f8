from collections.abc import Callable
from pathlib import Path

import pytest

import milpq
from milpq.verify import Result


@pytest.fixture(scope="session")
def answer(model_path: Callable[[str], Path]) -> Callable[..., Result]:
    """Answer a question about the bundled controller on quick methods."""

    def run(tolerance: float | None = None, method: str = "differential") -> Result:
        return milpq.bound(
            model_path("controller.onnx"),
            model_path("controller_int8.tflite"),
            model_path("controller_small.toml"),
            target="tflm",
            method=method,
            tolerance=tolerance,
        )

    return run
