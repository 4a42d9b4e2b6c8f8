"""Keras files written here with h5py: read as they are meant, and hostile ones refused in one line."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import milpq
from milpq.errors import InvalidNetworkError, MilpqError, ModelFileError, UnsupportedModelError
from milpq.formats import _hdf5
from milpq.network.float_network import FloatNetwork
from tests.oracle.layouts import CHANNELS, SPATIAL, twins

Weights = dict[str, list[np.ndarray]]


def layer(kind: str, name: str, reads: list[str], **options: object) -> dict[str, Any]:
    """Return a layer as Keras 3 states it; joins read a list of tensors."""
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": [read, 0, 0]}} for read in reads
    ]
    arguments = [tensors] if len(tensors) > 1 else tensors
    nodes = [{"args": arguments, "kwargs": {}}] if reads else []
    return {"class_name": kind, "config": {"name": name, **options}, "name": name, "inbound_nodes": nodes}


def network_of(folder: Path) -> tuple[dict[str, Any], Weights]:
    """Return the network of `twins` as a Keras model, and its weights by layer."""
    file, _ = twins(folder, 1)
    stored = {c.name: numpy_helper.to_array(c) for c in onnx.load(file).graph.initializer}
    order = np.arange(18).reshape(2, 3, 3).transpose(1, 2, 0).ravel()
    weights = {f"c{k}": [stored[f"wc{k}"].transpose(2, 3, 1, 0), stored[f"bc{k}"]] for k in (0, 2, 3)}
    weights["c1"] = [stored["wc1"].transpose(2, 3, 0, 1), stored["bc1"]]
    weights["dense"] = [stored["w9"][:, order].T, stored["b9"]]
    layers = [
        layer("InputLayer", "image", [], batch_shape=[None, *SPATIAL, CHANNELS]),
        layer("ZeroPadding2D", "pad", ["image"], padding=[[1, 1], [1, 1]]),
        layer("Conv2D", "c0", ["pad"], kernel_size=[3, 3], strides=[1, 2], activation="relu"),
        layer("DepthwiseConv2D", "c1", ["c0"], kernel_size=[3, 3], padding="same"),
        layer("ReLU", "r1", ["c1"], max_value=6.0),
        layer("Conv2D", "c2", ["r1"], kernel_size=[1, 1]),
        layer("Add", "skip", ["c2", "c0"]),
        layer("Activation", "r2", ["skip"], activation="relu"),
        layer("MaxPooling2D", "largest", ["r2"], pool_size=[2, 1]),
        layer("AveragePooling2D", "mean", ["r2"], pool_size=[2, 1]),
        layer("Concatenate", "join", ["largest", "mean"], axis=-1),
        layer("Conv2D", "c3", ["join"], kernel_size=[2, 2], padding="same", activation="relu"),
        layer("Flatten", "flat", ["c3"]),
        layer("Dense", "dense", ["flat"]),
    ]
    ends = {"input_layers": [["image", 0, 0]], "output_layers": [["dense", 0, 0]]}
    return {"class_name": "Functional", "config": {"layers": layers, **ends}}, weights


PLACES = {"c0": "conv2d", "c1": "depthwise_conv2d", "c2": "conv2d_1", "c3": "conv2d_2", "dense": "dense"}


def write_keras(path: Path, config: dict[str, Any], weights: Weights, *, group: str = "layers") -> Path:
    """Write a `.keras` archive."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, arrays in weights.items():
            for index, array in enumerate(arrays):
                file[f"{group}/{PLACES[name]}/vars/{index}"] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", stream.getvalue())
    return path


def write_h5(path: Path, config: dict[str, Any], weights: Weights) -> Path:
    """Write the older format, one HDF5 file."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        for name, arrays in weights.items():
            names = [f"{name}/{what}" for what, _ in zip(("kernel", "bias"), arrays, strict=True)]
            group = file.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = np.array(names, dtype="S")
            for spelled, array in zip(names, arrays, strict=True):
                group[spelled] = array
    return path


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_says_what_other_formats_say(tmp_path: Path, ending: str) -> None:
    config, weights = network_of(tmp_path)
    write = write_keras if ending == ".keras" else write_h5
    network = milpq.load(write(tmp_path / f"model{ending}", config, weights))
    other = milpq.load(tmp_path / "nhwc.tflite")
    assert isinstance(network, FloatNetwork) and isinstance(other, FloatNetwork)
    points = np.random.default_rng(3).uniform(-1, 1, (40, network.input_size))
    np.testing.assert_allclose(network.evaluate(points), other.evaluate(points), atol=1e-12)
    # Not only the same function: the same layers, so it pairs with what was quantized from another file.
    assert [type(node) for node in network.nodes] == [type(node) for node in other.nodes]


def test_quantized_from_keras(tmp_path: Path) -> None:
    config, weights = network_of(tmp_path)
    layers = config["config"]["layers"]
    chain = [
        *layers[:3],
        layer("Flatten", "flat", ["c0"]),
        layer("Dense", "dense", ["flat"], activation="sigmoid"),
    ]
    config["config"]["layers"] = chain
    weights = {
        "c0": weights["c0"],
        "dense": [np.ones((7 * 3 * 4, 2), np.float32) / 50, np.zeros(2, np.float32)],
    }
    path = write_keras(tmp_path / "model.keras", config, weights)
    points = np.random.default_rng(1).uniform(-1, 1, (50, 126)).astype(np.float32)
    model = milpq.quantize(path, points, target="tflm")
    milpq.save(model, tmp_path / "model.tflite")
    box = milpq.Box(np.full(126, -0.01), np.full(126, 0.01))
    result = milpq.bound(path, tmp_path / "model.tflite", box, target="tflm", method="interval", time_limit=2)
    assert "final sigmoid" in " ".join(result.report()["problem"]["notes"])
    assert 0 < result.lower <= result.upper < 1


def changed(layers: list[Any], name: str, **options: object) -> None:
    next(entry for entry in layers if entry["name"] == name)["config"].update(options)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("c0", {"activation": "gelu"}, UnsupportedModelError, "Conv2D 'c0': has activation 'gelu'"),
        ("c0", {"data_format": "channels_first"}, UnsupportedModelError, "data_format='channels_last'"),
        ("c0", {"kernel_size": [2**40, 1]}, ModelFileError, "not two positive integers"),
        ("c0", {"kernel_size": [2, 2]}, InvalidNetworkError, "instead of"),
        ("c0", {"groups": 2}, ModelFileError, "groups 2 do not divide 3"),
        ("c0", {"strides": [0, 1]}, ModelFileError, "not two positive integers"),
        ("c0", {"padding": "causal"}, UnsupportedModelError, "padding 'causal'"),
        ("pad", {"padding": 2**30}, ModelFileError, "padding"),
        ("pad", {"padding": 2**19}, UnsupportedModelError, "values"),
        ("r1", {"negative_slope": 0.1}, UnsupportedModelError, "negative slope"),
        ("join", {"axis": 0}, ModelFileError, "axis 0"),
        (
            "mean",
            {"padding": "same", "pool_size": [2, 2], "strides": [2, 2]},
            UnsupportedModelError,
            "uneven padding",
        ),
        ("image", {"batch_shape": [None, None, 6, 3]}, UnsupportedModelError, "not settled"),
        ("image", {"batch_shape": [None, 2**30, 6, 3]}, UnsupportedModelError, "milpq reads 1 to"),
    ],
)
def test_what_is_not_read_is_named(
    tmp_path: Path, name: str, options: dict[str, Any], error: type[MilpqError], message: str
) -> None:
    config, weights = network_of(tmp_path)
    changed(config["config"]["layers"], name, **options)
    path = write_keras(tmp_path / "model.keras", config, weights)
    with pytest.raises(error, match=message) as caught:
        milpq.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_unknown_layers_and_models_are_named(tmp_path: Path) -> None:
    config, weights = network_of(tmp_path)
    config["config"]["layers"][-2]["class_name"] = "LSTM"
    with pytest.raises(
        UnsupportedModelError, match=r"layer LSTM 'flat': is not supported; milpq reads Activation"
    ):
        milpq.load(write_keras(tmp_path / "a.keras", config, weights))
    config["class_name"] = "MyModel"
    with pytest.raises(UnsupportedModelError, match="is a 'MyModel'"):
        milpq.load(write_keras(tmp_path / "b.keras", config, weights))
    config, weights = network_of(tmp_path)
    config["config"]["layers"][2]["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = ["c3", 0, 0]
    with pytest.raises(ModelFileError, match="reads what no layer gives"):
        milpq.load(write_keras(tmp_path / "c.keras", config, weights))
    config, weights = network_of(tmp_path)
    with pytest.raises(ModelFileError, match="'layers' are not in the file"):
        milpq.load(write_keras(tmp_path / "d.keras", config, weights, group="other"))


def test_hostile_archives(tmp_path: Path) -> None:
    """Bombs, several members of one name, links that lead out of the file, compressed arrays, deep nesting."""
    config, weights = network_of(tmp_path)
    good = write_keras(tmp_path / "good.keras", config, weights)
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def packed(name: str, changed: dict[str, bytes], twice: str = "") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in {**members, **changed}.items():
                archive.writestr(member, content)
            if twice:
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr(twice, members[twice])
        return tmp_path / name

    def weights_file(change: Any) -> bytes:
        stream = io.BytesIO(members["model.weights.h5"])
        with h5py.File(stream, "a") as file:
            change(file["layers/conv2d/vars"])
        return stream.getvalue()

    def external(group: Any) -> None:
        del group["0"]
        group["0"] = h5py.ExternalLink("/etc/passwd", "/0")

    def soft(group: Any) -> None:
        del group["0"]
        group["0"] = h5py.SoftLink("/layers/conv2d_1/vars/0")

    def compressed(group: Any) -> None:
        del group["0"]
        group.create_dataset("0", shape=(3, 3, 3, 4), dtype="f4", chunks=(3, 3, 3, 4), compression="gzip")

    def outside(group: Any) -> None:
        del group["0"]
        group.create_dataset("0", shape=(3, 3, 3, 4), dtype="f4", external=[(str(tmp_path / "raw"), 0, 432)])

    def huge(group: Any) -> None:
        del group["0"]
        group.create_dataset("0", shape=(2**20, 2**20), dtype="f4")

    def text(group: Any) -> None:
        del group["0"]
        group["0"] = "words"

    cases = [
        (packed("bomb.keras", {"config.json": b" " * (2**26 + 1)}), "unpacks to more than"),
        (packed("twice.keras", {}, "config.json"), "with one config.json"),
        (packed("many.keras", {f"m{k}": b"" for k in range(70)}), "with one config.json"),
        (packed("deep.keras", {"config.json": b"[" * 100_000}), "nested too deeply|readable"),
        (packed("list.keras", {"config.json": b"[]"}), "no JSON object"),
        (packed("external.keras", {"model.weights.h5": weights_file(external)}), "'0' is a link"),
        (packed("soft.keras", {"model.weights.h5": weights_file(soft)}), "'0' is a link"),
        (packed("compressed.keras", {"model.weights.h5": weights_file(compressed)}), "compressed or outside"),
        (packed("outside.keras", {"model.weights.h5": weights_file(outside)}), "compressed or outside"),
        (packed("huge.keras", {"model.weights.h5": weights_file(huge)}), "more than the file holds"),
        (packed("text.keras", {"model.weights.h5": weights_file(text)}), "weights; milpq reads float32"),
    ]
    for path, message in cases:
        with pytest.raises(MilpqError, match=message) as caught:
            milpq.load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_mutated_files(survives: Any, tmp_path: Path, ending: str) -> None:
    """Few, as each starts a process."""
    config, weights = network_of(tmp_path)
    write = write_keras if ending == ".keras" else write_h5
    content = write(tmp_path / f"good{ending}", config, weights).read_bytes()
    assert survives(content, f"model{ending}", milpq.load, rounds=8, cuts=4) > 0


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import time; time.sleep(60)", "did not end"),
        ("import os; os.abort()", "crashed"),
        ("print('no archive')", "no readable Keras file"),
        ("import sys; sys.exit('what went wrong')", r"\(what went wrong\)"),
    ],
)
def test_a_library_that_hangs_or_crashes_is_outlived(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, message: str
) -> None:
    (tmp_path / "child.py").write_text(program, encoding="utf-8")
    monkeypatch.setattr(_hdf5, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(_hdf5, "TIMEOUT_S", 1.0)
    path = write_h5(tmp_path / "model.h5", *network_of(tmp_path))
    with pytest.raises(ModelFileError, match=message):
        milpq.load(path)
