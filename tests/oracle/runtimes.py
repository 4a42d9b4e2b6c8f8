"""Drivers of the real inference runtimes, one class each, all with the same two-line interface."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest

Rows = npt.NDArray[Any]


class Runtime(Protocol):
    """A way to run a model file."""

    @property
    def name(self) -> str:
        """The id of the milpq target that claims to be this runtime."""
        ...

    def run(self, model: bytes, rows: Rows) -> Rows:
        """Run rows of shape (n, in) through a model; return its raw outputs, shape (n, out)."""
        ...


@dataclass(frozen=True)
class LiteRT:
    """LiteRT with one of its op resolvers."""

    name: str
    resolver: str

    def run(self, model: bytes, rows: Rows) -> Rows:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=model,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType[self.resolver],
        )
        source = interpreter.get_input_details()[0]["index"]
        result = interpreter.get_output_details()[0]["index"]
        interpreter.resize_tensor_input(source, rows.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, rows)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(result))


@dataclass(frozen=True)
class TensorFlowLiteMicro:
    """TensorFlow Lite Micro's Python interpreter; it cannot resize, so it runs row by row."""

    name: str = "tflm"

    def run(self, model: bytes, rows: Rows) -> Rows:
        from tflite_micro.python.tflite_micro import runtime

        interpreter = runtime.Interpreter.from_bytes(model, arena_size=2**22)
        outputs: list[Rows] = []
        for row in rows:
            interpreter.set_input(row[None], 0)
            interpreter.invoke()
            outputs.append(interpreter.get_output(0)[0].copy())
        return np.stack(outputs)


_PACKAGES = {"tflm": "tflite_micro"}

RUNTIMES: dict[str, Runtime] = {
    "tflm": TensorFlowLiteMicro(),
    "litert-xnnpack": LiteRT("litert-xnnpack", "AUTO"),
    "litert-ref": LiteRT("litert-ref", "BUILTIN_REF"),
    "litert-nodelegate": LiteRT("litert-nodelegate", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
}


def runtime(name: str) -> Runtime:
    """Return a driver, or skip the test where its package is not installed."""
    package = _PACKAGES.get(name, "ai_edge_litert")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return RUNTIMES[name]
