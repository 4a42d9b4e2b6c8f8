"""The integer network `f_q` with its rounding settled, and its bit-exact vectorized execution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.errors import AccumulatorOverflowError, InvalidNetworkError, RegionError
from milpq.network.kept import Kept
from milpq.network.nodes import Graph, IntegerAffine, IntegerNode, Step, absolute, apply_matrix, chain
from milpq.rounding.input_quantizer import InputQuantizer

_FLOAT64_EXACT = 2.0**53
_FLOAT32_EXACT = 2.0**24


@dataclass(frozen=True, slots=True, eq=False)
class IntegerInput:
    """How inputs become levels.

    Parameters
    ----------
    scale : float64, shape (inputs,)
        Real value of one input level on the integer side.
    zero_point : int
        Code = level + zero_point.
    level_lower, level_upper : int
        Levels the input can hold.
    float_scale : float64, shape (inputs,)
        With inputs on codes, `f` reads ``fl64(float_scale · level)``.  Equal to `scale` but for networks whose two
        sides read one code differently.
    quantizer : InputQuantizer or None
        How the runtime turns a real input into a level; None where only codes can be fed.
    """

    scale: Float64Array
    zero_point: int
    level_lower: int
    level_upper: int
    float_scale: Float64Array
    quantizer: InputQuantizer | None

    def __post_init__(self) -> None:
        for name in ("scale", "float_scale"):
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if not (np.isfinite(array).all() and (array > 0).all()):
                raise InvalidNetworkError(f"input: {name} is not positive and finite")
            object.__setattr__(self, name, frozen(array))
        if self.scale.shape != self.float_scale.shape:
            raise InvalidNetworkError("input: scale and float_scale differ in length")
        if self.level_lower >= self.level_upper:
            raise InvalidNetworkError("input: no levels")

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.scale)

    def float_value(self, levels: Int64Array | Float64Array) -> Float64Array:
        """Return what `f` reads when the input holds these levels, shape (..., inputs)."""
        return np.asarray(levels, dtype=np.float64) * self.float_scale


@dataclass(frozen=True, slots=True, eq=False)
class IntegerNetwork:
    """A directed acyclic graph of integer accumulations and step functions.

    The real output is ``output_scale · output_level`` in exact arithmetic.

    Raises
    ------
    InvalidNetworkError
        The nodes do not chain.
    AccumulatorOverflowError
        An accumulator can leave int32.
    """

    input: IntegerInput
    nodes: tuple[IntegerNode, ...]
    output: int
    target: str
    origin: str = "<memory>"
    note: str = ""
    graph: Graph = field(init=False, repr=False)
    reachable: tuple[tuple[Int64Array, Int64Array], ...] = field(init=False, repr=False)
    kept: Kept[Any] = field(init=False, repr=False, default_factory=Kept[Any])
    _exact_in_float32: tuple[bool, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", chain(self.nodes, self.input.size, self.output))
        ranges = [
            (
                np.full(self.input.size, self.input.level_lower, dtype=np.int64),
                np.full(self.input.size, self.input.level_upper, dtype=np.int64),
            )
        ]
        small: list[bool] = []
        for node in self.nodes:
            if isinstance(node, IntegerAffine):
                lower, upper, magnitude = accumulator_range(node, ranges)
                small.append(magnitude < _FLOAT32_EXACT)
            else:
                lower, upper = node.function.image(*ranges[node.source])
                small.append(False)
            ranges.append((frozen(lower), frozen(upper)))
        object.__setattr__(self, "reachable", tuple(ranges))
        object.__setattr__(self, "_exact_in_float32", tuple(small))

    @property
    def exact_in_float32(self) -> bool:
        """Tell whether every value and every partial sum, in any order, is an integer below 2^24."""
        affine = (
            small
            for node, small in zip(self.nodes, self._exact_in_float32, strict=True)
            if isinstance(node, IntegerAffine)
        )
        ends = (np.abs(end).max(initial=0) for pair in self.reachable for end in pair)
        return all(affine) and all(end < _FLOAT32_EXACT for end in ends)

    @property
    def output_size(self) -> int:
        """Number of outputs."""
        return self.graph.sizes[self.output]

    @property
    def output_scale(self) -> Float64Array:
        """Real value of one output level, shape (outputs,)."""
        return self.scale_of(self.output)

    @property
    def output_zero_point(self) -> int:
        """Code of real 0 at the output (0 where the output is an accumulator)."""
        node = self.nodes[self.output - 1] if self.output else None
        return node.zero_point if isinstance(node, Step) else 0

    def scale_of(self, value: int) -> Float64Array:
        """Return the real value of one unit of a value, shape (neurons,)."""
        return self.input.scale if value == 0 else self.nodes[value - 1].scale

    def execute(self, levels: Int64Array | Float64Array) -> Float64Array:
        """Run the network bit-exactly on input levels.

        Parameters
        ----------
        levels : integer values of any dtype, shape (points, inputs)

        Returns
        -------
        float64, shape (points, outputs)
            Output levels; every number is an exact integer.

        Raises
        ------
        RegionError
            An input level lies outside what the input can hold.
        """
        points = np.atleast_2d(np.asarray(levels, dtype=np.float64))
        self.check_levels(points)
        return self._run([points])

    def check_levels(self, levels: Int64Array | Float64Array) -> None:
        """Raise a `RegionError` if an input level lies outside what the input can hold."""
        entry = self.input
        if levels.size and not (levels.min() >= entry.level_lower and levels.max() <= entry.level_upper):
            raise RegionError(
                f"input codes must lie in [{entry.level_lower + entry.zero_point}, "
                f"{entry.level_upper + entry.zero_point}]"
            )

    def is_cut(self, value: int) -> bool:
        """Tell whether the nodes after a value read nothing before it."""
        return value <= self.output and all(
            source >= value for node in self.nodes[value:] for source in node.sources
        )

    def _run(self, values: list[Float64Array | None]) -> Float64Array:
        """Run the nodes that make values not given; `values` is used up."""
        for index in range(len(values) - 1, len(self.nodes)):
            node = self.nodes[index]
            if isinstance(node, IntegerAffine):
                result = self._accumulate(node, values, in_float32=self._exact_in_float32[index])
            else:
                source = values[node.source]
                assert source is not None
                result = node.function.evaluate_fast(source)
            values.append(result)
            for source_index in node.sources:
                if self.graph.last_use[source_index] == index:
                    values[source_index] = None
        output = values[self.output]
        assert output is not None
        return output

    def execute_codes(self, codes: Int64Array) -> Int64Array:
        """Run the network on input codes and return output codes, as the runtime's tensors hold them."""
        levels = self.execute(np.asarray(codes, dtype=np.int64) - self.input.zero_point)
        return levels.astype(np.int64) + self.output_zero_point

    @staticmethod
    def _accumulate(
        node: IntegerAffine, values: list[Float64Array | None], *, in_float32: bool
    ) -> Float64Array:
        total: Float64Array | None = None
        for term in node.terms:
            source = values[term.source]
            assert source is not None
            if in_float32 and isinstance(term.matrix, np.ndarray):
                # Every partial sum is an integer below 2^24, so float32 GEMM is exact and twice as fast.  Its
                # kernels compute on lanes beyond the matrix, whose leftovers may raise a floating-point flag.
                with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                    part = (source.astype(np.float32) @ term.matrix.T.astype(np.float32)).astype(np.float64)
            else:
                part = apply_matrix(term.matrix, source)
            total = part if total is None else total + part
        assert total is not None
        return total + node.bias


def accumulator_range(
    node: IntegerAffine, ranges: list[tuple[Int64Array, Int64Array]]
) -> tuple[Int64Array, Int64Array, float]:
    """Return the exact interval of each accumulator, and the largest partial sum in any order.

    *Soundness:* all numbers are integers below 2^53 (checked), where float64 is exact.

    Raises
    ------
    AccumulatorOverflowError
        An accumulator, or a partial sum of it in some order, can leave int32.
    """
    lower = node.bias.astype(np.float64)
    upper = lower.copy()
    magnitude = np.abs(lower)
    for term in node.terms:
        low, high = (end.astype(np.float64) for end in ranges[term.source])
        size = absolute(term.matrix)
        positive = (size + term.matrix) * 0.5
        negative = (size - term.matrix) * 0.5
        lower = lower + positive @ low - negative @ high
        upper = upper + positive @ high - negative @ low
        magnitude = magnitude + size @ np.maximum(np.abs(low), np.abs(high))
    largest = float(magnitude.max(initial=0.0))
    if not largest < _FLOAT64_EXACT:
        raise AccumulatorOverflowError(f"layer {node.name!r}: accumulators exceed 2^53")
    outside = np.flatnonzero(magnitude >= 2.0**31)
    if len(outside):
        worst = int(outside[np.argmax(magnitude[outside])])
        raise AccumulatorOverflowError(
            f"layer {node.name!r}, neuron {worst}: the accumulator can reach ±{magnitude[worst]:.0f}, "
            "which overflows int32; rescale the weights or bias of this layer"
        )
    return lower.astype(np.int64), upper.astype(np.int64), largest
