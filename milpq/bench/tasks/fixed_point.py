"""A float ReLU network as fixed point, stated in the open format for integer networks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import UnsupportedModelError
from milpq.formats.open_network import read_open_network
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, Clamp

_INPUT_BITS = 8


def fixed_point_pair(network: FloatNetwork, bits: int) -> IntegerNetwork:
    """Return the fixed-point version of a float ReLU network.

    Numbers have ``bits − 2`` fraction bits; see `fixed_point_file` for the arithmetic.

    Raises
    ------
    UnsupportedModelError
        The network is not a chain of fully connected layers with ReLU between them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fixed_point.json"
        path.write_text(json.dumps(fixed_point_file(network, bits)), encoding="utf-8")
        integer = read_open_network(path).on_target(None)
    origin = f"{network.origin}, fixed point of {bits} bits"
    return IntegerNetwork(integer.input, integer.nodes, integer.output, integer.target, origin, integer.note)


def fixed_point_file(network: FloatNetwork, bits: int) -> dict[str, object]:
    """Return the open integer-network file of the fixed-point version, ready for JSON.

    Weights and biases are rounded half away to ``bits − 2`` fraction bits and clipped to `bits` bits.  An input
    code ``k`` in [−128, 127] stands for ``k / 256``, where the float network reads ``k / 255``.  Biases enter the
    accumulator shifted left by the fraction bits of the layer's input.  Hidden layers give
    ``clip(floor(acc / 2^e + ½), 0, 2^bits − 1)`` with ``e = 8`` in the first and ``bits − 2`` in the others; the
    accumulator of the last layer is the output.
    """
    fraction = bits - 2
    scale = 2.0**-fraction
    affine = _layers(network)
    layers: list[dict[str, object]] = []
    for index, node in enumerate(affine):
        shift = _INPUT_BITS if index == 0 else fraction
        layer: dict[str, object] = {
            "name": node.name,
            "weights": _fixed(_dense(node), bits).tolist(),
            "weight_scales": scale,
            "bias": _fixed(node.bias, bits).tolist(),
            "bias_shift": shift,
        }
        if index < len(affine) - 1:
            layer["activation"] = "relu"
            layer["output"] = {
                "scale": scale,
                "code_lower": 0,
                "code_upper": 2**bits - 1,
                "rounding": {"shift": shift, "rounding": "half-up"},
            }
        layers.append(layer)
    return {
        "schema": "milpq-network/1",
        "input": {
            "size": network.input_size,
            "scale": 2.0**-_INPUT_BITS,
            "float_scale": 1.0 / 255.0,
            "code_lower": -128,
            "code_upper": 127,
        },
        "layers": layers,
    }


def _layers(network: FloatNetwork) -> list[Affine]:
    """Return the affine nodes of a chain of layers with ReLU between them."""
    affine = [node for node in network.nodes if isinstance(node, Affine)]
    for index, node in enumerate(network.nodes):
        if index % 2 == 0:
            fits = isinstance(node, Affine) and len(network.nodes) % 2 == 1
        else:
            fits = isinstance(node, Clamp) and (node.lower, node.upper) == (0.0, np.inf)
        if not fits or node.sources != (index,):
            raise UnsupportedModelError(
                f"{network.origin}: fixed point takes fully connected layers with ReLU between them, "
                f"not {node.name!r} here"
            )
    return affine


def _dense(node: Affine) -> Float64Array:
    matrix = node.terms[0].matrix
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def _fixed(values: Float64Array, bits: int) -> npt.NDArray[np.int64]:
    """Round half away from zero to ``bits − 2`` fraction bits and clip to `bits` bits."""
    scaled = np.abs(values) * 2.0 ** (bits - 2)
    whole = np.floor(scaled)
    rounded = np.sign(values) * (whole + (scaled - whole >= 0.5))
    return np.clip(rounded, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
