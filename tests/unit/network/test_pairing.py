"""Which networks are a pair, and the dequantized twin."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpq.errors import NotAPairError, UnsupportedModelError
from milpq.formats import load_float, load_quantized
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.pairing import check_pair, dequantized_twin
from milpq.network.quantized_model import QuantizedLookup, QuantizedModel

ROOT = Path(__file__).resolve().parents[3]


def quantized(path: Path) -> QuantizedModel:
    model = load_quantized(path)
    assert isinstance(model, QuantizedModel)
    return model


@pytest.fixture
def models() -> Path:
    folder = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data")) / "models"
    if not folder.is_dir():
        pytest.skip("MILPQ_DATA is not there")
    return folder


@pytest.mark.parametrize("name", ["digits", "controller"])
def test_bundled_pairs(model_path: Any, name: str) -> None:
    model = quantized(model_path(f"{name}_int8.tflite"))
    for ending in (".onnx", "_float.tflite"):
        check_pair(load_float(model_path(name + ending)), model)
    check_pair(load_float(model_path(f"{name}.onnx")), load_float(model_path(f"{name}_float.tflite")))


@pytest.mark.parametrize("name", ["silabs_autoencoder", "mlperftiny_ad01"])
def test_public_pairs(models: Path, name: str) -> None:
    check_pair(load_float(models / f"{name}_fp32.tflite"), quantized(models / f"{name}_int8.tflite"))


def test_two_trainings_are_no_pair(models: Path) -> None:
    model = quantized(models / "tflm_hello_world_int8.tflite")
    with pytest.raises(NotAPairError, match=r"layer 1 .*187\.7 LSB.*--float-twin dequantized"):
        check_pair(load_float(models / "tflm_hello_world_float.tflite"), model)
    check_pair(dequantized_twin(model), model)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_one_weight_too_far(model_path: Any, layer: int) -> None:
    model = quantized(model_path("controller_int8.tflite"))
    twin = dequantized_twin(model)
    index = [i for i, node in enumerate(twin.nodes) if isinstance(node, Affine)][layer - 1]
    node = twin.nodes[index]
    assert isinstance(node, Affine)
    step = model.layers[layer - 1].weight_scales[0]  # type: ignore[union-attr]
    for factor, fits in ((0.5, True), (-0.5, True), (0.501, False), (-3.0, False)):
        weights = np.array(node.terms[0].matrix)
        weights[0, 2] += factor * step
        changed = replace(node, terms=(Term(node.terms[0].source, weights),))
        network = replace(twin, nodes=(*twin.nodes[:index], changed, *twin.nodes[index + 1 :]))
        if fits:
            check_pair(network, model)
        else:
            with pytest.raises(NotAPairError, match=rf"layer {layer} .*weight \[0, 2\].*LSB"):
                check_pair(network, model)


def test_other_shapes(model_path: Any) -> None:
    small, large = (load_float(model_path(f"{name}.onnx")) for name in ("controller", "digits"))
    with pytest.raises(NotAPairError, match="16×3 against 32×64"):
        check_pair(small, large)
    with pytest.raises(NotAPairError, match="--float-twin"):
        check_pair(large, quantized(model_path("controller_int8.tflite")))
    shorter = replace(small, nodes=small.nodes[:3], output=3)
    with pytest.raises(NotAPairError, match="2 linear layers against 3"):
        check_pair(shorter, small)


def test_twin(model_path: Any) -> None:
    model = quantized(model_path("digits_int8.tflite"))
    twin = dequantized_twin(model)
    original = load_float(model_path("digits.onnx"))
    points = np.random.default_rng(0).uniform(0, 1, (100, 64))
    assert np.abs(twin.evaluate(points) - original.evaluate(points)).max() < 1.0
    clamps = [node for node in twin.nodes if isinstance(node, Clamp)]
    assert [(clamp.lower, clamp.upper) for clamp in clamps] == [(0.0, np.inf)] * 2
    first, layer = twin.nodes[0], model.layers[0]
    assert isinstance(first, Affine)
    assert (first.terms[0].matrix / layer.weight_scales[:, None] == layer.weights).all()  # type: ignore[union-attr]


def test_tables_have_no_twin(model_path: Any) -> None:
    model = quantized(model_path("controller_int8.tflite"))
    table = QuantizedLookup("table", 3, np.arange(-128, 128), -128, 0, 1.0, 0)
    with pytest.raises(UnsupportedModelError, match="'table'"):
        dequantized_twin(replace(model, layers=(*model.layers, table), output=4))
