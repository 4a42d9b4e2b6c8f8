"""Graphs in the open network file: whole ones of the quantizer, tables stated by hand, and what is refused."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milpq
from milpq.errors import MilpqError
from milpq.formats.open_network import open_network_schema
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target
from tests.oracle.random_graphs import random_graph


@pytest.mark.parametrize("target", ["tflm", None])
@pytest.mark.parametrize("bits", [5, 8, 11])
def test_quantized_graphs_are_read_back(target: str | None, bits: int, tmp_path: Path) -> None:
    """Sums, pools, joins, pads, clamps and, of 8 bits, curves; without a target the rounding stays open."""
    rng = np.random.default_rng(1)
    kinds = (
        "conv",
        "add",
        "maximum",
        "average",
        "join",
        "pad",
        "clamp",
        *(("sigmoid", "tanh") * (bits == 8)),
    )
    for seed in range(2):
        network = random_graph(seed, "channels_first", kinds=kinds)
        model = milpq.quantize(
            network,
            rng.uniform(-1, 1, (50, 90)),
            target=target,
            bits=min(bits, 8),
            activation_bits=bits,
            input_bits=bits,
        )
        milpq.save(model, tmp_path / "model.json")
        read = milpq.load(tmp_path / "model.json")
        assert isinstance(read, QuantizedModel)
        assert read.needs_target == (target is None)
        chosen = None if target else get_target("cmsis-single" if bits != 8 else "tflm")
        codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (20, 90))
        np.testing.assert_array_equal(
            read.on_target(chosen).execute_codes(codes), model.on_target(chosen).execute_codes(codes)
        )
        milpq.save(read, tmp_path / "again.json")
        again = json.loads((tmp_path / "again.json").read_text())
        once = json.loads((tmp_path / "model.json").read_text())
        assert again["layers"] == once["layers"]


CODES = {"code_lower": -4, "code_upper": 3}
BY_HAND: dict[str, Any] = {
    "schema": "milpq-network/1",
    "input": {"size": 3, "scale": 0.5, **CODES},
    "layers": [
        {
            "kind": "selection", "name": "pad", "operands": [{"source": 0, **CODES}],
            "chosen": [[0, 1, 2, -1]], "constant": [0, 0, 0, 2],
        },
        {
            "kind": "maximum", "name": "largest", "operand": {"source": 1, **CODES},
            "candidates": [[0, 1], [2, 3], [1, -1]],
        },
        {
            "kind": "sum", "name": "sum", "first": {"source": 0, **CODES}, "second": {"source": 2, **CODES},
            "output": {"scale": 1.0, **CODES},
            "rounding": {
                "first": [-4, -3, -2, -1, 0, 1, 2, 3], "second": [-8, -6, -4, -2, 0, 2, 4, 6],
                "thresholds": [-9, -6, -3, 0, 3, 6, 9], "first_code": -4,
            },
        },
        {
            "kind": "average", "name": "mean", "operand": {"source": 3, **CODES}, "operator": "mean",
            "candidates": [[0, 1, 2]], "output": {"scale": 1.0, **CODES},
            "rounding": {"thresholds": [[-9, -6, -3, 0, 3, 6, 9]], "first_code": -4},
        },
    ],
}  # fmt: skip


def test_tables_stated_by_hand(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(BY_HAND))
    model = milpq.load(tmp_path / "model.json")
    assert isinstance(model, QuantizedModel) and not model.needs_target
    codes = np.random.default_rng(0).integers(-4, 4, (300, 3))
    padded = np.concatenate([codes, np.full((300, 1), 2)], axis=1)
    largest = np.stack([padded[:, :2].max(axis=1), padded[:, 2:].max(axis=1), padded[:, 1]], axis=1)
    total = np.clip((codes + 2 * largest) // 3, -4, 3)
    mean = np.clip(total.sum(axis=1, keepdims=True) // 3, -4, 3)
    np.testing.assert_array_equal(model.on_target(None).execute_codes(codes), mean)
    box = milpq.Box(np.full(3, -1.0), np.full(3, 1.0))
    result = milpq.bound(model, model, box, float_twin="dequantized", input_domain="codes")
    assert result.status == "optimal" and result.lower > 0
    assert {"SumLayer", "AverageLayer", "SparseMatrix"} <= set(open_network_schema()["$defs"])


def test_sparse_weights(tmp_path: Path) -> None:
    dense = {
        "schema": "milpq-network/1",
        "input": {"size": 3, "scale": 0.5, **CODES},
        "layers": [{"name": "a", "weights": [[0, 2, 0], [-3, 0, 1]], "weight_scales": 0.25}],
    }
    sparse = deepcopy(dense)
    entries = {"shape": [2, 3], "rows": [0, 1, 1], "columns": [1, 0, 2], "values": [2, -3, 1]}
    sparse["layers"][0]["weights"] = entries
    codes = np.random.default_rng(0).integers(-4, 4, (50, 3))
    found = []
    for number, file in enumerate((dense, sparse)):
        (tmp_path / f"{number}.json").write_text(json.dumps(file))
        model = milpq.load_quantized(tmp_path / f"{number}.json")
        assert isinstance(model, QuantizedModel)
        found.append(model.on_target(None).execute_codes(codes))
    np.testing.assert_array_equal(*found)
    for change, message in (
        ({"rows": [0, 1, 2]}, "lies outside 2×3"),
        ({"rows": [0, 1]}, "not one list of triples"),
        ({"columns": [1, 2, 2]}, "given twice"),
    ):
        sparse["layers"][0]["weights"] = entries | change
        (tmp_path / "bad.json").write_text(json.dumps(sparse))
        with pytest.raises(MilpqError, match=message):
            milpq.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("layer", "change", "message"),
    [
        (0, {"chosen": [[0, 1, 3, -1]]}, "a neuron that is not there"),
        (0, {"chosen": [[0, 1, 2, -1], [0, 1, 2, -1]]}, "2 rows for 1 operands"),
        (0, {"constant": [1, 0, 0, 2]}, "several things at once"),
        (0, {"constant": [0, 0, 0, 9]}, "a constant is no code"),
        (0, {"operands": [{"source": 5, **CODES}]}, "does not come before"),
        (0, {"operands": [{"source": 0, "code_lower": -2, "code_upper": 3}]}, "come in"),
        (1, {"candidates": [[0, 4], [0, 1], [1, 1]]}, "a neuron that is not there"),
        (1, {"candidates": [[0, 1], [-1, -1], [1, 1]]}, "leave a neuron with none"),
        (2, {"second": {"source": 1, **CODES}}, "adds 3 and 4 neurons"),
        (2, {"rounding": BY_HAND["layers"][2]["rounding"] | {"first": [0, 1]}}, "2 addends for 8 codes"),
        (2, {"rounding": BY_HAND["layers"][2]["rounding"] | {"thresholds": [1, 0]}}, "must not decrease"),
        (2, {"rounding": {"target": "mystery"}}, "unknown target"),
        (3, {"rounding": {"thresholds": [[1, 0]], "first_code": 0}}, "must not decrease"),
        (3, {"output": {"scale": 1.0, "code_lower": 3, "code_upper": 3}}, "not below"),
    ],
)
def test_inconsistent_graphs_are_refused(
    layer: int, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = deepcopy(BY_HAND)
    file["layers"][layer] |= change
    (tmp_path / "bad.json").write_text(json.dumps(file))
    with pytest.raises(MilpqError, match=message) as error:
        milpq.load(tmp_path / "bad.json")
    assert str(error.value).count("\n") == 0
