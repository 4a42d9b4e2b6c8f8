from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

import milpq
from milpq.errors import UsageError
from milpq.formats.provenance import SourceFile, source_files
from milpq.network.float_network import FloatNetwork

ModelPath = Callable[[str], Path]


def test_a_file_is_told_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    content = bytes(range(256)) * 1000
    path.write_bytes(content)
    (file,) = source_files(path, FloatNetwork(1, (), 0), milpq.Box([0.0], [1.0]))
    assert file == SourceFile("float", str(path), len(content), sha256(content).hexdigest())


def test_what_is_in_memory_or_not_read_has_no_file(model_path: ModelPath) -> None:
    float_path, quantized_path = model_path("controller.onnx"), model_path("controller_int8.tflite")
    region = ([-0.1] * 3, [0.1] * 3)
    roles = [file.role for file in source_files(float_path, quantized_path, region, "dequantized")]
    assert roles == ["quantized"]
    pair = milpq.load(float_path), milpq.load(quantized_path)
    result = milpq.bound(*pair, region, target="tflm", method="interval")
    assert result.problem.files == ()
    assert result.problem.hash


def test_an_explanation_names_its_files(model_path: ModelPath) -> None:
    paths = [
        model_path(name) for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml")
    ]
    found = milpq.explain(*paths, target="tflm", parts=1)
    assert [file.path for file in found.files] == [str(path) for path in paths]


def test_a_file_that_vanishes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.onnx: was read"):
        source_files(tmp_path / "gone.onnx", tmp_path / "gone.tflite", tmp_path / "gone.toml")
