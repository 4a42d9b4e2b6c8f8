"""Layers of legacy uint8 `.tflite` models, read by milpq and run by LiteRT, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.models.tflite_graph import Codes, GraphWriter, Value
from milpq.errors import TargetError
from tests.oracle.execution import executed
from tests.oracle.runtimes import runtime
from tests.oracle.tflite_models import Rng, network, single

OUTPUTS = 100_000


def _layer(rng: Rng, kind: str, ties: bool) -> tuple[GraphWriter, Value]:
    scale = single(2.0**-5 if ties else rng.uniform(0.01, 0.05))
    source = Codes(scale, int(rng.integers(0, 256)), unsigned=True)
    weight_scale = np.array([2.0**-6 if ties else rng.uniform(0.005, 0.02)], np.float32)
    ratio = 128 if ties else rng.uniform(60, 300)
    result = Codes(single(scale * float(weight_scale[0]) * ratio), int(rng.integers(0, 256)), unsigned=True)
    options = {
        "weight_scales": weight_scale,
        "weight_zero_point": int(rng.integers(1, 256)),
        "activation": str(rng.choice(["none", "relu", "relu6"])),
    }
    bias = rng.integers(-3000, 3000, 12)
    if kind == "fully-connected":
        graph = GraphWriter((1, 7), source)
        weights = rng.integers(0, 256, (12, 7)).astype(np.uint8)
        return graph, graph.fully_connected(graph.input, weights, bias, result, **options)
    depthwise = kind == "depthwise"
    channels = 12 if depthwise else 3
    graph = GraphWriter((1, 8, 9, channels), source)
    shape = (1, 3, 3, 12) if depthwise else (12, 3, 2, 3)
    weights = rng.integers(0, 256, shape).astype(np.uint8)
    padding = str(rng.choice(["same", "valid"]))
    return graph, graph.convolution(
        graph.input, weights, bias, result, depthwise=depthwise, padding=padding, **options
    )


@pytest.mark.parametrize("target", ["litert-xnnpack", "litert-ref", "litert-nodelegate"])
@pytest.mark.parametrize("kind", ["fully-connected", "conv", "depthwise"])
def test_matches_the_runtime(kind: str, target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng([5, len(kind), len(target)])
    run = runtime(target).run
    compared = trial = 0
    while compared < OUTPUTS:
        graph, output = _layer(rng, kind, trial % 2 == 0)
        content = graph.finish(output)
        ours = network(tmp_path / "model.tflite", content, target)
        count = -(-OUTPUTS // 8 // ours.output_size)
        rows = rng.integers(0, 256, (count, *graph.input.shape[1:])).astype(np.uint8)
        theirs = run(content, rows).reshape(count, -1)
        found = executed(ours, rows.reshape(count, -1))
        assert np.count_nonzero(found != theirs) == 0, trial
        compared += theirs.size
        trial += 1


def test_microcontrollers_refuse(tmp_path: Path) -> None:
    graph, output = _layer(np.random.default_rng(0), "conv", ties=False)
    with pytest.raises(TargetError, match="uint8"):
        network(tmp_path / "model.tflite", graph.finish(output), "tflm")
