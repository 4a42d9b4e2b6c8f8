"""The open integer-network file: what it can say, that it says it again, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milpq.errors import InvalidNetworkError, MilpqError, ModelFileError, TargetError, UnsupportedModelError
from milpq.formats import load
from milpq.formats.open_network import open_network_schema, read_open_network, write_open_network
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target


def small(**layer: Any) -> dict[str, Any]:
    """Return a valid file of one layer, `layer` replacing or (None) removing its entries."""
    entry: dict[str, Any] = {
        "name": "dense",
        "weights": [[3, -2], [1, 5]],
        "weight_scales": 0.25,
        "bias": [7, -9],
        "output": {
            "scale": 0.5,
            "zero_point": 3,
            "code_lower": -8,
            "code_upper": 7,
            "rounding": {"shift": 3, "rounding": "half-up"},
        },
    } | layer
    return {
        "schema": "milpq-network/1",
        "input": {"size": 2, "scale": 0.5, "zero_point": 1, "code_lower": -8, "code_upper": 7},
        "layers": [{key: value for key, value in entry.items() if value is not None}],
    }


def output(**changes: Any) -> dict[str, Any]:
    return small()["layers"][0]["output"] | changes


def read(folder: Path, content: object) -> QuantizedModel:
    path = folder / "network.json"
    path.write_text(json.dumps(content))
    return read_open_network(path)


def grid(model: QuantizedModel) -> np.ndarray:
    """Return every input code of a network of two inputs."""
    codes = np.arange(model.input_code_lower, model.input_code_upper + 1)
    return np.stack(np.meshgrid(codes, codes), axis=-1).reshape(-1, 2)


def accumulators(model: QuantizedModel) -> np.ndarray:
    return (grid(model) - 1) @ np.array([[3, -2], [1, 5]]).T + np.array([7, -9])


def test_shift(tmp_path: Path) -> None:
    model = read(tmp_path, small())
    wanted = np.clip(((accumulators(model) + 4) >> 3) + 3, -8, 7)
    assert (model.on_target(None).execute_codes(grid(model)) == wanted).all()


def test_shift_per_channel_with_floor(tmp_path: Path) -> None:
    model = read(tmp_path, small(output=output(rounding={"shift": [2, 4], "rounding": "floor"})))
    wanted = np.clip((accumulators(model) >> np.array([2, 4])) + 3, -8, 7)
    assert (model.on_target(None).execute_codes(grid(model)) == wanted).all()


def test_explicit_multiplier(tmp_path: Path) -> None:
    rounding = {"multiplier": [1 << 30, 3 << 29], "shift": -2, "rounding": "single"}
    model = read(tmp_path, small(output=output(rounding=rounding)))
    exact = accumulators(model) * np.array([1 << 30, 3 << 29]) / 2.0**33
    wanted = np.clip(np.floor(exact + 0.5) + 3, -8, 7)
    assert (model.on_target(None).execute_codes(grid(model)) == wanted).all()


def test_thresholds(tmp_path: Path) -> None:
    rows = [[-20, 0, 0, 9], [-5, -4, 30, 31]]
    model = read(tmp_path, small(output=output(rounding={"thresholds": rows, "first_code": 1})))
    sums = accumulators(model)
    wanted = np.stack([1 + (sums[:, [i]] >= np.array(rows[i])).sum(axis=1) for i in range(2)], axis=1)
    assert (model.on_target(None).execute_codes(grid(model)) == wanted).all()


def test_target_stated(tmp_path: Path) -> None:
    stated = read(tmp_path, small(output=output(rounding={"target": "tflm"})))
    open_ = read(tmp_path, small(output=output(rounding={"target": None})))
    codes = grid(stated)
    assert (
        stated.on_target(None).execute_codes(codes)
        == open_.on_target(get_target("tflm")).execute_codes(codes)
    ).all()
    with pytest.raises(TargetError, match="--target"):
        open_.on_target(None)


def test_raw_accumulator(tmp_path: Path) -> None:
    model = read(tmp_path, small(output=None))
    network = model.on_target(None)
    assert (network.execute_codes(grid(model)) == accumulators(model)).all()
    assert (network.output_scale == 0.125).all()


def test_lookup(tmp_path: Path) -> None:
    content = small()
    table = [min(max(code, -2), 5) + 1 for code in range(-8, 8)]
    content["layers"].append(
        {
            "kind": "lookup",
            "name": "clip",
            "table": table,
            "code_lower": -8,
            "output": {"scale": 0.5, "zero_point": 4},
        }
    )
    model = read(tmp_path, content)
    before = read(tmp_path, small()).on_target(None).execute_codes(grid(model))
    assert (model.on_target(None).execute_codes(grid(model)) == np.clip(before, -2, 5) + 1).all()


def fixed_point(
    rng: np.random.Generator, bits: int
) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray]]:
    """Return a fixed point network whose two sides read one input code differently, and its integers.

    Weights, biases and activations have ``bits − 2`` fraction bits; `f` reads k/255, the integer side k/256.
    """
    shapes = [(6, 4), (5, 6), (3, 5)]
    top = 1 << (bits - 1)
    weights = [rng.integers(-top, top, shape) for shape in shapes]
    biases = [rng.integers(-top, top, shape[0]) for shape in shapes]
    step = 2.0 ** -(bits - 2)
    layers = [
        {
            "name": f"layer{i}",
            "weights": weights[i].tolist(),
            "weight_scales": step,
            "bias": biases[i].tolist(),
            "bias_shift": 8 if i == 0 else bits - 2,
            "activation": "relu" if i < 2 else "none",
            "output": {
                "scale": step,
                "code_lower": 0,
                "code_upper": (1 << bits) - 1,
                "rounding": {"shift": 8 if i == 0 else bits - 2, "rounding": "half-up"},
            },
        }
        for i in range(3)
    ]
    del layers[2]["output"]
    content = {
        "schema": "milpq-network/1",
        "input": {"size": 4, "scale": 1 / 256, "float_scale": 1 / 255, "code_lower": -128, "code_upper": 127},
        "layers": layers,
    }
    return content, weights, biases


@pytest.mark.parametrize("bits", [4, 6, 8, 10])
def test_fixed_point_with_another_float_scale(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(bits)
    content, weights, biases = fixed_point(rng, bits)
    network = read(tmp_path, content).on_target(None)
    codes = rng.integers(-128, 128, (500, 4))
    values = codes
    for i, shift in ((0, 8), (1, bits - 2)):
        sums = values @ weights[i].T + (biases[i] << shift)
        values = np.clip(np.floor(sums / 2.0**shift + 0.5), 0, 2**bits - 1).astype(np.int64)
    wanted = values @ weights[2].T + (biases[2] << (bits - 2))
    assert (network.execute_codes(codes) == wanted).all()
    assert (network.output_scale == 2.0 ** -(2 * bits - 4)).all()
    assert (network.input.float_value(codes) == codes * (1 / 255)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output": None},
        {"weight_scales": [0.25, 0.5]},
        {"weight_zero_point": 2, "bias_shift": 3},
        {"output": output(rounding={"target": "tflm"})},
        {"output": output(rounding={"target": None})},
        {"output": output(rounding={"multiplier": [1 << 30, 3 << 29], "shift": -2, "rounding": "double"})},
        {"output": output(rounding={"thresholds": [[-20, 0, 0, 9]], "first_code": 1})},
        {"weights": [[3, -2]] * 3000, "bias": None},
    ],
)
def test_written_file_means_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = read(tmp_path, small(**changes))
    again = tmp_path / "again.json"
    write_open_network(model, again)
    loaded = load(again)
    assert isinstance(loaded, QuantizedModel)
    target = get_target("tflm")
    first, second = model.on_target(target), loaded.on_target(target)
    assert (first.execute_codes(grid(model)) == second.execute_codes(grid(model))).all()
    assert (first.output_scale == second.output_scale).all()
    assert (tmp_path / "again.npz").exists() == (len(model.layers[0].name) > 0 and "weights" in changes)


@pytest.mark.parametrize(
    ("stated", "target", "message"),
    [({"pairs_saturate": True}, "ort", "saturate"), ({"code_type": "uint8"}, "tflm", "no uint8")],
)
def test_what_a_target_refuses_it_refuses_of_the_written_file(
    tmp_path: Path, stated: dict[str, object], target: str, message: str
) -> None:
    model = read(tmp_path, small(output=output(rounding={"target": None} | stated)))
    write_open_network(model, tmp_path / "again.json")
    for each in (model, read_open_network(tmp_path / "again.json")):
        with pytest.raises(TargetError, match=message):
            each.on_target(get_target(target))


def test_fixed_point_is_written_again(tmp_path: Path) -> None:
    model = read(tmp_path, fixed_point(np.random.default_rng(0), 8)[0])
    write_open_network(model, tmp_path / "again.json")
    loaded = read_open_network(tmp_path / "again.json")
    codes = np.random.default_rng(1).integers(-128, 128, (200, 4))
    first, second = model.on_target(None), loaded.on_target(None)
    assert (first.execute_codes(codes) == second.execute_codes(codes)).all()
    assert (first.input.float_scale == second.input.float_scale).all()
    assert [layer.activation for layer in loaded.layers] == ["relu", "relu", "none"]


def test_schema_is_exported() -> None:
    schema = open_network_schema()
    assert schema["properties"]["schema"]["const"] == "milpq-network/1"
    assert json.dumps(schema)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [[1, 2], [3]]}, "weights"),
        ({"weights": [[1, 2, 3], [4, 5, 6]]}, "2 come in"),
        ({"weights": [[1.5, 2], [3, 4]]}, "weights"),
        ({"weights": [[10**30, 2], [3, 4]]}, "weights"),
        ({"weights": []}, "weights"),
        ({"weight_scales": 0.0}, "weight_scales"),
        ({"weight_scales": [0.1, 0.2, 0.3]}, "weight_scales"),
        ({"bias": [1]}, "1 biases"),
        ({"colour": "red"}, "colour"),
        ({"source": 1}, "does not come before"),
        ({"input_scale": 0.75}, "input_scale"),
        ({"channel": [0, 5]}, "channel"),
        ({"weights": {"array": "w"}}, "no array 'w'"),
        ({"output": output(code_lower=7)}, "code_lower"),
        ({"output": output(code_upper=2**40)}, "int32"),
        ({"output": output(code_upper=2**30)}, "codes"),
        ({"output": output(rounding={"shift": 99, "rounding": "half-up"})}, "shift"),
        ({"output": output(rounding={"shift": 1, "rounding": "sideways"})}, "sideways"),
        ({"output": output(rounding={"target": "toaster"})}, "toaster"),
        ({"output": output(rounding={"thresholds": [[3, 2]], "first_code": 0})}, "decrease"),
        ({"output": output(rounding={"thresholds": [[1]] * 3, "first_code": 0})}, "3 rows"),
        ({"output": output(rounding={"shift": 1})}, "rounding"),
        ({"output": output(rounding={"shift": [1, 2, 3], "rounding": "floor"})}, "3 entries"),
    ],
)
def test_refused_with_its_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelFileError, InvalidNetworkError, UnsupportedModelError)) as caught:
        read(tmp_path, small(**changes))
    assert message in str(caught.value)
    assert "network.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../w.npz", "/etc/w.npz", "..", "a\\b.npz", ""])
def test_array_file_must_lie_beside(tmp_path: Path, name: str) -> None:
    with pytest.raises(MilpqError, match="beside it"):
        read(tmp_path, small() | {"arrays": name})


def test_arrays_with_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.array([{}], dtype=object))
    with pytest.raises(MilpqError, match="holds object"):
        read(tmp_path, small(weights={"array": "w"}) | {"arrays": "w.npz"})


def test_float_weights_in_the_array_file_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones((2, 2)))
    with pytest.raises(InvalidNetworkError, match="float64"):
        read(tmp_path, small(weights={"array": "w"}) | {"arrays": "w.npz"})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "NaN", '{"schema": "milpq-network/2"}', "[" * 100_000]
)
def test_what_is_no_such_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "network.json"
    path.write_text(text)
    with pytest.raises(ModelFileError) as caught:
        read_open_network(path)
    assert "\n" not in str(caught.value)
