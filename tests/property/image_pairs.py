"""Small random pairs of image networks: convolutions, sums, pools, selections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.models.tflite_graph import Codes, GraphWriter, Value
from milpq.formats import load_quantized
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Term
from milpq.network.pairing import dequantized_twin
from milpq.network.quantized_model import QuantizedModel
from milpq.region.box import Box
from milpq.rounding.targets import get_target

KINDS = (
    *("plain", "residual", "max-pool", "average-pool", "mean", "concatenate", "clamps"),
    *("depthwise", "relu6", "relu-n1-to-1"),
)
CURVES = ("logistic", "tanh")
TARGETS = ("tflm", "litert-xnnpack", "litert-ref", "cmsis-single")
"""Of the last one milpq knows no tables of curves."""


def image_pair(
    seed: int, folder: Path, kind: str, *, radius: int = 6, domain: str | None = None, moved: float = 3e-3
) -> Problem:
    """Return a pair around a random image whose float side has weights that are moved by relatively about so much."""
    rng = np.random.default_rng(seed)
    path = folder / f"{kind}{seed}.tflite"
    path.write_bytes(_model(rng, kind))
    model = load_quantized(path)
    assert isinstance(model, QuantizedModel)
    float_network = _perturbed(rng, dequantized_twin(model), moved)
    scale = float(model.input_scale[0])
    centre = rng.integers(-60, 60, len(model.input_scale)) - model.input_zero_point
    box = Box((centre - radius - 0.3) * scale, (centre + radius + 0.3) * scale)
    network = model.on_target(get_target(TARGETS[rng.integers(3 if kind in CURVES else len(TARGETS))]))
    kind_of_domain = domain or ["codes", "continuous"][rng.integers(2)]
    return Problem.create(float_network, network, box, kind_of_domain)


def _model(rng: np.random.Generator, kind: str) -> bytes:
    graph = GraphWriter((1, 3, 3, 1), Codes(1 / 32, int(rng.integers(-20, 20))))
    activation = {"relu6": "relu6", "relu-n1-to-1": "relu_n1_to_1"}.get(kind, "relu")
    value = _convolution(rng, graph, graph.input, 2, (2, 2), activation)
    if kind == "residual":
        other = _convolution(rng, graph, value, 2, (1, 1), "none")
        scale = 1.3 * max(value.codes.scale, other.codes.scale)
        value = graph.add(value, other, Codes(scale, int(rng.integers(-30, 30))), "relu")
    elif kind == "max-pool":
        value = graph.pool(value, (2, 2), average=False, padding=str(rng.choice(["same", "valid"])))
    elif kind == "average-pool":
        value = graph.pool(value, (2, 2), average=True, padding=str(rng.choice(["same", "valid"])))
    elif kind == "mean":
        value = graph.mean(
            value, (1,), Codes(float(np.float32(0.7 * value.codes.scale)), -120), keep_dims=True
        )
    elif kind == "concatenate":
        value = graph.concatenate([graph.pad(value, [(0, 0), (0, 1), (0, 0), (0, 0)])] * 2, 3)
    elif kind == "depthwise":
        value = _convolution(rng, graph, value, 2, (2, 1), "none", depthwise=True)
    elif kind in CURVES:
        result = {"logistic": Codes(1 / 256, -128), "tanh": Codes(1 / 128, 0)}[kind]
        value = graph.unary(kind.upper(), _convolution(rng, graph, value, 2, (1, 1), "none"), result)
    elif kind == "clamps":
        codes = Codes(float(np.float32(value.codes.scale * 0.7)), 10)
        value = graph.unary("RELU", graph.unary("QUANTIZE", value, codes, 1), Codes(codes.scale, -128))
    flat = graph.reshape(value, (1, int(np.prod(value.shape))))
    weights = rng.integers(-127, 128, (2, flat.shape[1])).astype(np.int8)
    unit = flat.codes.scale / 64
    result = Codes(float(np.float32(unit * 60 * np.sqrt(flat.shape[1]))), int(rng.integers(-9, 9)))
    return graph.finish(
        graph.fully_connected(
            flat, weights, rng.integers(-500, 500, 2), result, weight_scales=np.array([1 / 64], np.float32)
        )
    )


def _convolution(
    rng: np.random.Generator,
    graph: GraphWriter,
    source: Value,
    channels: int,
    kernel: tuple[int, int],
    activation: str,
    *,
    depthwise: bool = False,
) -> Value:
    shape = (1, *kernel, channels) if depthwise else (channels, *kernel, source.shape[3])
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    scales = rng.uniform(0.005, 0.01, channels).astype(np.float32)
    unit = source.codes.scale * 0.01
    result = Codes(
        float(np.float32(unit * 70 * 0.7 * np.sqrt(weights.size / channels))), int(rng.integers(-128, -90))
    )
    bias = rng.integers(-3000, 3000, channels)
    return graph.convolution(
        source, weights, bias, result, weight_scales=scales, depthwise=depthwise, activation=activation
    )


def _perturbed(rng: np.random.Generator, network: FloatNetwork, by: float) -> FloatNetwork:
    def moved(term: Term) -> Term:
        matrix = term.matrix.copy()
        data = matrix if isinstance(matrix, np.ndarray) else matrix.data
        data *= 1 + by * rng.normal(size=data.shape)
        return Term(term.source, matrix)

    nodes = tuple(
        replace(node, terms=tuple(moved(term) for term in node.terms))
        if isinstance(node, Affine) and node.weighted
        else node
        for node in network.nodes
    )
    return FloatNetwork(network.input_size, nodes, network.output)
