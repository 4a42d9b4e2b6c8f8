"""Dispatch by ending and content, and that reading one format does not import the others."""

import subprocess
import sys
from typing import Any

import pytest

from milpq.errors import UnsupportedModelError
from milpq.formats import load, load_float, load_quantized
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedModel

HEAVY = ("onnx", "tflite", "torch", "pydantic", "vnnlib", "google.protobuf")


def test_importing_imports_no_format() -> None:
    program = f"import sys, milpq.formats; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("controller.onnx", FloatNetwork),
        ("controller_float.tflite", FloatNetwork),
        ("controller_int8.tflite", QuantizedModel),
    ],
)
def test_kinds(model_path: Any, name: str, kind: type) -> None:
    assert isinstance(load(model_path(name)), kind)
    assert isinstance(load_quantized(str(model_path(name))), kind)
    assert load(model_path(name)).origin.endswith(name)


def test_a_quantized_model_is_no_float_network(model_path: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="quantized model where a float network is needed"):
        load_float(model_path("digits_int8.tflite"))
