"""Networks with dynamically quantized activations, as ONNX Runtime executes them: float32 between the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from milpq._arrays import Float64Array, Matrix, frozen
from milpq.errors import InvalidNetworkError, RegionError, TargetError
from milpq.network.inexact import ROUNDOFF32, DynamicQuantization, Float32Error
from milpq.network.nodes import Affine, Clamp, Graph, Term, absolute, apply_matrix, chain
from milpq.rounding.requantization import Target

_TINY32 = 1e-37


@dataclass(frozen=True, slots=True, eq=False)
class DynamicLayer:
    """One dense layer on activations that are quantized as they come, and the clamp after it.

    Parameters
    ----------
    weights : integers held as float64, shape (neurons, inputs)
        Codes minus zero points.
    scales : float64 holding float32 values, shape (neurons,)
    bias : float64 holding float32 values, shape (neurons,), or None
    lower, upper : float
        The clamp after the layer; infinite ends for none.
    pairs_saturate : bool
        As in `Requantization`.
    """

    name: str
    weights: Float64Array
    scales: Float64Array
    bias: Float64Array | None
    lower: float
    upper: float
    pairs_saturate: bool


DynamicNode = Affine | Clamp | Float32Error | DynamicQuantization


@dataclass(frozen=True, slots=True, eq=False)
class DynamicNetwork:
    """Dense layers, each on dynamically quantized activations.

    `evaluate` is the bit-exact execution; `nodes` are its real-arithmetic skeleton, in which every operation
    that rounds is a node whose result lies within a certified band.

    Parameters
    ----------
    layers : tuple of DynamicLayer
    target : str
        The runtime, once `on_target` has settled it.
    """

    layers: tuple[DynamicLayer, ...]
    origin: str = "<memory>"
    note: str = ""
    target: str = ""
    nodes: tuple[DynamicNode, ...] = field(init=False, repr=False)
    graph: Graph = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidNetworkError(f"{self.origin}: has no layers")
        nodes: list[DynamicNode] = [
            Float32Error("input", 0, 1.01 * ROUNDOFF32, np.full(self.input_size, _TINY32))
        ]
        for layer in self.layers:
            if not (np.isfinite(layer.scales).all() and (layer.scales > 0).all()):
                raise InvalidNetworkError(f"layer {layer.name!r}: a weight scale is not positive and finite")
            if float(np.abs(layer.weights).sum(axis=1).max(initial=0.0)) * 255 >= 2.0**31:
                raise InvalidNetworkError(f"layer {layer.name!r}: its accumulator can leave int32")
            bias = np.zeros(len(layer.weights)) if layer.bias is None else layer.bias
            nodes.append(DynamicQuantization(f"{layer.name}/quantize", len(nodes)))
            # An 8-bit integer times a float32 scale is exact in float64.
            matrix: Matrix = layer.weights * layer.scales[:, None]
            nodes.append(Affine(layer.name, (Term(len(nodes), matrix),), bias))
            # y = fl(fl(fl(acc)·fl(s·w)) + b): three roundings of the product P = v − b and one of the sum, so
            # |y − v| <= u (4.2 |P| + |v|) <= u (5.2 |v| + 4.2 |b|).
            error = Float32Error(
                f"{layer.name}/float32", len(nodes), 6 * ROUNDOFF32, 5 * ROUNDOFF32 * np.abs(bias) + _TINY32
            )
            nodes.append(error)
            if np.isfinite(layer.lower) or np.isfinite(layer.upper):
                nodes.append(Clamp(f"{layer.name}/clamp", len(nodes), layer.lower, layer.upper))
        object.__setattr__(self, "nodes", tuple(nodes))
        object.__setattr__(self, "graph", chain(self.nodes, self.input_size, self.output))

    @property
    def input_size(self) -> int:
        """Number of inputs."""
        return self.layers[0].weights.shape[1]

    @property
    def output(self) -> int:
        """Value index of the output."""
        return len(self.nodes)

    @property
    def output_size(self) -> int:
        """Number of outputs."""
        return len(self.layers[-1].weights)

    def on_target(self, target: Target | None) -> DynamicNetwork:
        """Return the network as a target executes it; only ONNX Runtime is known to.

        Raises
        ------
        TargetError
            The target is missing or another one, or its sums of products can saturate.
        """
        name = "" if target is None else target.name
        family = name.partition(":")[0]
        if family != "ort":
            raise TargetError(
                f"{self.origin}: quantizes its activations dynamically, which milpq knows of ONNX Runtime only; "
                "use --target ort"
            )
        for layer in self.layers:
            if layer.pairs_saturate and "vnni=yes" not in name:
                raise TargetError(
                    f"{self.origin}: layer {layer.name!r}: pairs of uint8 × int8 products can saturate int16 on x86 "
                    "without VNNI; quantize with reduce_range=True, or use --target ort:vnni=yes if it runs with VNNI"
                )
        return DynamicNetwork(self.layers, self.origin, self.note, name)

    def evaluate(self, points: Float64Array) -> Float64Array:
        """Run the network bit-exactly, each point for itself, shape (points, outputs).

        Parameters
        ----------
        points : float64, shape (points, inputs)
            Rounded to float32 first, as the runtime is handed them.

        Raises
        ------
        RegionError
            A value overflows float32 or its range vanishes there.

        References
        ----------
        ONNX Runtime, ``DynamicQuantizeMatMul`` and ``GetQuantizationParameter``; MLAS, the ScaleBias output
        processor of its integer matrix products.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.atleast_2d(np.asarray(points, dtype=np.float64)).astype(np.float32)
            for layer in self.layers:
                least = np.minimum(value.min(axis=1), np.float32(0))[:, None]
                most = np.maximum(value.max(axis=1), np.float32(0))[:, None]
                scale = np.where(most == least, np.float32(1), (most - least) / np.float32(255))
                if not (np.isfinite(scale) & (scale > 0)).all():
                    raise RegionError(f"layer {layer.name!r}: its input leaves the range of float32")
                zero_point = np.rint(np.clip(np.float32(0) - least / scale, np.float32(0), np.float32(255)))
                levels = np.rint(np.clip(value / scale, -zero_point, np.float32(255) - zero_point))
                accumulator = (levels.astype(np.float64) @ layer.weights.T).astype(np.float32)
                value = accumulator * (scale * layer.scales.astype(np.float32))
                if layer.bias is not None:
                    value = value + layer.bias.astype(np.float32)
                value = np.clip(value, np.float32(layer.lower), np.float32(layer.upper))
        return value.astype(np.float64)

    def evaluate_with_error(self, points: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the outputs and their error, which is zero: what the runtime computes *is* the function."""
        value = self.evaluate(points)
        return value, np.zeros_like(value)

    def enclose(self, point: Float64Array) -> tuple[list[Fraction], list[Fraction]]:
        """Return the outputs at one point as fractions, twice: they are exact."""
        exact = [Fraction(float(x)) for x in self.evaluate(point[None])[0]]
        return exact, exact

    def largest_output(self, reach: Float64Array) -> Float64Array:
        """Return a bound on the magnitude of the outputs over inputs of magnitude `reach`, shape (outputs,)."""
        size = reach * 1.001 + _TINY32
        for node in self.nodes:
            if isinstance(node, DynamicQuantization):
                # Half a scale is at most twice the largest magnitude over 510, and a little.
                size = size + 0.005 * size.max() + _TINY32
            elif isinstance(node, Affine):
                term = node.terms[0]
                size = (
                    1.001 * (apply_matrix(absolute(term.matrix), size[None])[0] + np.abs(node.bias)) + _TINY32
                )
        return frozen(size)
