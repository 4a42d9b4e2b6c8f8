"""Damaged and hostile files end in one line that names them, never in another exception."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milpq.errors import MilpqError, ModelFileError, RegionError, UnsupportedModelError
from milpq.formats import load, load_region
from milpq.formats.open_network import write_open_network
from milpq.network.quantized_model import QuantizedModel

NETWORKS = ["controller.onnx", "controller_float.tflite", "controller_int8.tflite"]


@pytest.mark.parametrize("name", NETWORKS)
def test_mutated_models(survives: Any, model_path: Any, name: str) -> None:
    assert survives(model_path(name).read_bytes(), name, load, rounds=600) > 50


def test_mutated_open_network(survives: Any, model_path: Any, tmp_path: Path) -> None:
    model = load(model_path("controller_int8.tflite"))
    assert isinstance(model, QuantizedModel)
    write_open_network(model, tmp_path / "open.json")
    assert survives((tmp_path / "open.json").read_bytes(), "open.json", load) > 50


def test_mutated_nnet(survives: Any) -> None:
    text = "// comment\n2,2,1,3,\n2,3,1,\n0,\n-1,-1,\n1,1,\n0,0,0,\n1,1,1,\n"
    text += "1,2,\n3,4,\n5,6,\n0.5,\n0.25,\n-1e-2,\n1,-1,2,\n0,\n"
    assert survives(text.encode(), "small.nnet", load) > 50


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("box.toml", "center = [0.0, 1.0]\nradius = [0.5, 0.25]\nclip = [-1.0, 1.0]\n"),
        ("box.vnnlib", "(declare-const X_0 Real)\n(assert (<= X_0 0.5))\n(assert (>= X_0 -0.5))\n"),
        (
            "two.vnnlib",
            """(declare-network f (declare-input X real [2]) (declare-output Y real [1]))
            (assert (and (<= X[0] 1) (>= X[0] 0) (<= X[1] 1) (>= X[1] 0)))""",
        ),
    ],
)
def test_mutated_regions(survives: Any, name: str, text: str) -> None:
    assert survives(text.encode(), name, load_region) > 20


def test_mutated_npz_region(survives: Any, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "box.npz", lower=np.zeros(3), upper=np.ones(3, dtype=np.float32))
    assert survives((tmp_path / "box.npz").read_bytes(), "box.npz", load_region) > 50


ENDINGS = ["onnx", "tflite", "nnet", "json"]


@pytest.mark.parametrize("ending", [*ENDINGS, "xyz", "pt"])
def test_missing_directory_empty(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    with pytest.raises(ModelFileError, match="no such file"):
        load(path)
    path.touch()
    with pytest.raises(ModelFileError, match="empty"):
        load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelFileError, match="directory"):
        load(path)


@pytest.mark.parametrize("ending", ["toml", "npz", "vnnlib"])
def test_missing_region(tmp_path: Path, ending: str) -> None:
    with pytest.raises(RegionError, match="no such file"):
        load_region(tmp_path / f"box.{ending}")
    (tmp_path / f"box.{ending}").touch()
    with pytest.raises(RegionError, match="empty"):
        load_region(tmp_path / f"box.{ending}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="regular"):
        load(tmp_path / "model.onnx")


def test_a_null_byte_in_the_name() -> None:
    with pytest.raises(ModelFileError):
        load("model\0.onnx")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UnsupportedModelError, match="pickled"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("other", ENDINGS)
def test_wrong_ending(model_path: Any, tmp_path: Path, name: str, other: str) -> None:
    path = tmp_path / f"model.{other}"
    path.write_bytes(model_path(name).read_bytes())
    if not name.endswith(other):
        with pytest.raises(MilpqError, match="model"):
            load(path)


def _onnx(tmp_path: Path, weights: TensorProto, columns: int = 2) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", weights.name], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    )
    return path


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "weights.bin"])
def test_external_data_are_never_opened(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(UnsupportedModelError, match="another file"):
        load(_onnx(tmp_path, tensor))


@pytest.mark.parametrize("dims", [[2**40, 2**20], [2**31, 2**31], [-1, 2], [3, 2]])
def test_claimed_tensor_sizes_are_checked(tmp_path: Path, dims: list[int]) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    with pytest.raises(ModelFileError, match="'w'"):
        load(_onnx(tmp_path, tensor))


def test_claimed_input_size_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="input"):
        load(_onnx(tmp_path, numpy_helper.from_array(np.ones((2, 2), np.float32), "w"), columns=2**40))


def test_claimed_npy_size_is_checked(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "center.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    (tmp_path / "box.toml").write_text('center = "center.npy"\nradius = 1\n')
    with pytest.raises(RegionError, match="claims shape"):
        load_region(tmp_path / "box.toml")


def test_nan_weights_name_the_layer(tmp_path: Path, model_path: Any) -> None:
    model = onnx.load(model_path("controller.onnx"))
    tensor = model.graph.initializer[2]
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(MilpqError, match=r"nan\.onnx.*'layer1\.Gemm'.*NaN"):
        load(tmp_path / "nan.onnx")


@pytest.mark.parametrize("part", [b"Gemm", b"Relu", b"input"])
def test_a_name_that_is_no_text(tmp_path: Path, model_path: Any, part: bytes) -> None:
    content = model_path("controller.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content.replace(part, b"\xff" + part[1:]))
    with pytest.raises(ModelFileError, match="no text"):
        load(path)
