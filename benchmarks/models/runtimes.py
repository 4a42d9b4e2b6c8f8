"""Run a model file, one input row at a time, in the runtimes it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro.python.tflite_micro import runtime as tflm

Rows = npt.NDArray[Any]
Runner = Callable[[bytes, Rows], Rows]
"""Takes a model file and inputs, shape (n, in), and returns the raw outputs, shape (n, out)."""


def run_onnxruntime(model: bytes, rows: Rows) -> Rows:
    """Run a float ONNX model in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0])


def run_litert(model: bytes, rows: Rows) -> Rows:
    """Run a `.tflite` model in LiteRT as it comes: optimised kernels and the XNNPACK delegate."""
    return litert_session(model, OpResolverType.AUTO)(rows)


def run_litert_reference(model: bytes, rows: Rows) -> Rows:
    """Run a `.tflite` model in LiteRT with the reference kernels."""
    return litert_session(model, OpResolverType.BUILTIN_REF)(rows)


def litert_session(model: bytes, resolver: OpResolverType) -> Callable[[Rows], Rows]:
    """Return a function that runs rows through one LiteRT interpreter of `model`."""
    interpreter = Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]

    def run(rows: Rows) -> Rows:
        outputs = []
        for row in rows:
            interpreter.set_tensor(source, row[None])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(result)[0])
        return np.stack(outputs)

    return run


def run_tflm(model: bytes, rows: Rows) -> Rows:
    """Run a `.tflite` model in TensorFlow Lite Micro."""
    interpreter = tflm.Interpreter.from_bytes(model)
    outputs = []
    for row in rows:
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    return np.stack(outputs)


INT8_RUNNERS: dict[str, Runner] = {
    "LiteRT": run_litert,
    "LiteRT reference": run_litert_reference,
    "TFLM": run_tflm,
}
