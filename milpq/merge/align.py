"""Aligning a float network with its quantized version, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Matrix, frozen
from milpq.errors import InvalidNetworkError, NotAPairError, about
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine, MergedNode, MergedTerm
from milpq.network.curves import Curve
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.inexact import DynamicQuantization, Float32Error
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import (
    Affine,
    Clamp,
    FloatNode,
    IntegerAffine,
    IntegerNode,
    Smooth,
    Step,
    Term,
    entries,
    is_sparse,
)
from milpq.rounding.step import NEVER

QuantizedNetwork = FloatNetwork | IntegerNetwork | DynamicNetwork
"""What may stand on the quantized side: an integer network, a real one with changed weights, or one whose activations
are quantized as they come."""

_REMEDY = "the two files are not one network and its quantized version"


def merge(float_network: FloatNetwork, quantized: QuantizedNetwork) -> Merged:
    """Merge two networks of the same architecture into one over a shared input.

    The two graphs are walked from their outputs in step.  A requantization without an activation on the float side
    (a linear layer, or the rescaling in front of an addition) pairs with the identity.

    Raises
    ------
    NotAPairError
        The architectures differ; the layer is named.
    InvalidNetworkError
        Scales of the quantized side do not fit together; the layer is named.
    """
    with about(f"{float_network.origin} and {quantized.origin}"):
        return _merge(float_network, quantized)


def _merge(float_network: FloatNetwork, quantized: QuantizedNetwork) -> Merged:
    if isinstance(quantized, IntegerNetwork):
        sizes = quantized.input.size, quantized.output_size
    else:
        sizes = quantized.input_size, quantized.output_size
    if (float_network.input_size, float_network.output_size) != sizes:
        raise NotAPairError(
            f"the float network maps {float_network.input_size} inputs to {float_network.output_size} outputs, "
            f"the quantized one {sizes[0]} to {sizes[1]}: {_REMEDY}"
        )
    return _Aligner(float_network, quantized).align()


class _Aligner:
    """Walks both graphs from the outputs and collects merged nodes in topological order."""

    def __init__(self, float_network: FloatNetwork, quantized: QuantizedNetwork) -> None:
        self._float = float_network
        self._quantized = quantized
        self._nodes: list[MergedNode] = []
        self._known: dict[tuple[int, int], int] = {(0, 0): 0}

    def align(self) -> Merged:
        output = self._visit_all(self._float.output, self._quantized.output)
        if isinstance(self._quantized, IntegerNetwork):
            self._check_output_scale(self._quantized)
        return Merged(self._float.input_size, tuple(self._nodes), output)

    def _visit_all(self, float_value: int, quantized_value: int) -> int:
        # Depth-first with an explicit stack, so that a deep network does not meet the recursion limit.
        stack = [(float_value, quantized_value)]
        while stack:
            pair = stack[-1]
            if pair in self._known:
                stack.pop()
                continue
            missing = [source for source in self._sources(*pair) if source not in self._known]
            if missing:
                stack.extend(missing)
                continue
            self._nodes.append(self._pair(*pair))
            self._known[pair] = len(self._nodes)
            stack.pop()
        return self._known[float_value, quantized_value]

    def _sources(self, float_value: int, quantized_value: int) -> list[tuple[int, int]]:
        """Return the pairs of values that the merged node of this pair reads."""
        left = self._float.nodes[float_value - 1] if float_value else None
        right = self._quantized.nodes[quantized_value - 1] if quantized_value else None
        if isinstance(right, Step):
            paired = self._activation_of(float_value, quantized_value)
            return [(float_value if paired is None else paired.source, right.source)]
        if isinstance(right, Float32Error | DynamicQuantization):
            return [(float_value, right.source)]
        if isinstance(left, Clamp) and isinstance(right, Clamp):
            if (left.lower, left.upper) != (right.lower, right.upper):
                raise NotAPairError(f"layers {left.name!r} and {right.name!r} clamp differently: {_REMEDY}")
            return [(left.source, right.source)]
        if isinstance(left, Smooth) and isinstance(right, Smooth) and left.curve == right.curve:
            return [(left.source, right.source)]
        if isinstance(left, Affine) and isinstance(right, Affine | IntegerAffine):
            shapes = [[tuple(t.matrix.shape) for t in node.terms] for node in (left, right)]
            if shapes[0] != shapes[1]:
                raise NotAPairError(
                    f"layers {left.name!r} and {right.name!r} have weights of shapes {shapes[0]} and {shapes[1]}: "
                    f"{_REMEDY}"
                )
            return list(zip(left.sources, right.sources, strict=True))
        names = [repr(node.name) if node is not None else "the input" for node in (left, right)]
        raise NotAPairError(f"{names[0]} of the float side meets {names[1]} of the quantized side: {_REMEDY}")

    def _activation_of(self, float_value: int, quantized_value: int) -> Clamp | Smooth | None:
        """Return the activation of the float side that pairs with a step; None where it pairs with the identity.

        Of several steps in a row, as a requantization and the rescaling in front of an addition, one cuts what the
        clamp cuts, or follows the curve; the one next to the accumulators where none does.
        """
        left = self._float.nodes[float_value - 1] if float_value else None
        if not isinstance(left, Clamp | Smooth):
            return None
        assert isinstance(self._quantized, IntegerNetwork)
        nodes, reachable = self._quantized.nodes, self._quantized.reachable
        step = nodes[quantized_value - 1]
        assert isinstance(step, Step)
        steps = _run(nodes, quantized_value, (Step,))
        # As many steps must be left as there are activations.
        if steps == 1 or _run(self._float.nodes, float_value, (Clamp, Smooth)) >= steps:
            return left
        if isinstance(left, Smooth):
            return left if _follows(left.curve, step, self._scale(step.source)) else None
        before, after = (
            (scale * levels[0], scale * levels[1])
            for scale, levels in (
                (self._scale(step.source), reachable[step.source]),
                (step.scale, reachable[quantized_value]),
            )
        )
        cuts_below = (before[0] < left.lower - step.scale) & (after[0] > left.lower - step.scale)
        cuts_above = (before[1] > left.upper + step.scale) & (after[1] < left.upper + step.scale)
        return left if bool(cuts_below.any() or cuts_above.any()) else None

    def _pair(self, float_value: int, quantized_value: int) -> MergedNode:
        left = self._float.nodes[float_value - 1] if float_value else None
        right = self._quantized.nodes[quantized_value - 1]
        sources = [self._known[pair] for pair in self._sources(float_value, quantized_value)]
        if isinstance(right, Step):
            paired = self._activation_of(float_value, quantized_value)
            return MergedActivation(
                right.name,
                sources[0],
                right.function.size,
                *_ends(paired),
                right.function,
                self._scale(right.source),
                right.scale,
                curve=paired.curve if isinstance(paired, Smooth) else None,
            )
        if isinstance(right, Float32Error | DynamicQuantization):
            size = self._float.graph.sizes[float_value]
            return MergedActivation(
                right.name, sources[0], size, -np.inf, np.inf, None, None, None, inexact=right
            )
        if isinstance(right, Clamp):
            assert isinstance(left, Clamp)
            size = self._float.graph.sizes[float_value]
            return MergedActivation(left.name, sources[0], size, left.lower, left.upper, None, None, None)
        if isinstance(right, Smooth):
            size = self._float.graph.sizes[float_value]
            return MergedActivation(
                right.name, sources[0], size, *_ends(right), None, None, None, curve=right.curve
            )
        assert isinstance(left, Affine)
        if isinstance(right, IntegerAffine):
            return self._pair_integer(left, right, sources)
        return _pair_real(left, right, sources)

    def _pair_integer(self, left: Affine, right: IntegerAffine, sources: list[int]) -> MergedAffine:
        scale = self._scale_of_affine(right)
        terms: list[MergedTerm] = []
        for source, float_term, term in zip(sources, left.terms, right.terms, strict=True):
            source_scale = self._uniform_scale(right, term)
            unit = _weight_unit(right, source_scale)
            if (unit * source_scale != scale).any():
                raise InvalidNetworkError(
                    f"layer {right.name!r}: adds levels of different scales; rescale them to one first"
                )
            quantized = _scale_rows(term.matrix, unit, right.name)
            terms.append(_merged_term(source, float_term.matrix, quantized))
        bias = scale * right.bias
        bias_error = 3 * UNIT_ROUNDOFF * np.abs(bias)
        difference = bias - left.bias
        return MergedAffine(
            left.name,
            tuple(terms),
            left.bias,
            frozen(bias),
            frozen(bias_error),
            frozen(difference),
            frozen(2 * UNIT_ROUNDOFF * np.abs(difference) + 1.01 * bias_error),
            frozen(scale),
            right,
        )

    def _scale(self, value: int) -> Float64Array:
        """Return the real value of one unit of a quantized value, as this alignment reads it."""
        assert isinstance(self._quantized, IntegerNetwork)
        if value == 0:
            return self._quantized.input.scale
        node = self._quantized.nodes[value - 1]
        return self._scale_of_affine(node) if isinstance(node, IntegerAffine) else node.scale

    def _scale_of_affine(self, node: IntegerAffine) -> Float64Array:
        source = self._uniform_scale(node, node.terms[0])
        return _weight_unit(node, source) * source

    def _uniform_scale(self, node: IntegerAffine, term: Term) -> float:
        scale = self._scale(term.source)
        if (scale != scale[0]).any():
            raise InvalidNetworkError(f"layer {node.name!r}: its inputs have different scales")
        return float(scale[0])

    def _check_output_scale(self, quantized: IntegerNetwork) -> None:
        """Refuse raw accumulator outputs whose stated scale the aligned weights cannot give exactly."""
        node = quantized.nodes[quantized.output - 1]
        if not isinstance(node, IntegerAffine):
            return
        source = self._uniform_scale(node, node.terms[0])
        for stated, unit in zip(node.scale, _weight_unit(node, source), strict=True):
            if Fraction(float(stated)) != Fraction(float(unit)) * Fraction(source):
                raise InvalidNetworkError(
                    f"layer {node.name!r}: the scale of its unrounded output is not a float32 weight scale times "
                    "its input scale; state float32 scales"
                )


def _ends(activation: Clamp | Smooth | None) -> tuple[float, float]:
    """Return the ends of the clamp that an activation is, or that it is none."""
    if activation is None:
        return -np.inf, np.inf
    return (np.nan, np.nan) if isinstance(activation, Smooth) else (activation.lower, activation.upper)


def _follows(curve: Curve, step: Step, scale_in: Float64Array) -> bool:
    """Tell whether a step is nearer to a curve than to the identity, at its thresholds; only tightness rests on it."""
    function = step.function
    thresholds = function.thresholds[function.rows]
    met = np.abs(thresholds) < NEVER
    real, result = scale_in[:, None] * thresholds, step.scale[:, None] * function.values[function.rows, 1:]
    apart = (np.where(met, np.abs(result - other), 0.0).sum() for other in (curve.value(real), real))
    return next(apart) < next(apart)


def _run(
    nodes: Sequence[FloatNode] | Sequence[IntegerNode],
    value: int,
    kinds: tuple[type[Clamp | Smooth | Step], ...],
) -> int:
    """Return how many nodes of some kinds make a value one after the other."""
    count = 0
    while value:
        node = nodes[value - 1]
        if not isinstance(node, kinds):
            break
        count, value = count + 1, node.source
    return count


def _weight_unit(node: IntegerAffine, source_scale: float) -> Float64Array:
    """Return the real value of one weight unit, shape (outputs,), as a float32 number.

    With 24 significant bits its product with an integer weight below 2^29 is exact in float64.  For files with
    float32 scales this is the file's own weight scale; otherwise it only moves the hidden alignment by 6e-8, which
    the residue of the next step function accounts for exactly.
    """
    unit = (node.scale / source_scale).astype(np.float32).astype(np.float64)
    if not (np.isfinite(unit).all() and (unit > 1e-30).all()):
        raise InvalidNetworkError(f"layer {node.name!r}: a weight scale leaves the float32 range")
    return unit


def _scale_rows(matrix: Matrix, unit: Float64Array, name: str) -> Matrix:
    data = entries(matrix)
    if np.abs(data).max(initial=0.0) >= 2.0**29:
        raise InvalidNetworkError(f"layer {name!r}: an integer weight exceeds 2^29")
    if isinstance(matrix, np.ndarray):
        return frozen(matrix * unit[:, None])
    return matrix.multiply(unit[:, None]).tocsr()


def _merged_term(source: int, float_matrix: Matrix, quantized_matrix: Matrix) -> MergedTerm:
    if is_sparse(float_matrix) != is_sparse(quantized_matrix):
        float_matrix, quantized_matrix = (
            m if isinstance(m, np.ndarray) else frozen(m.toarray()) for m in (float_matrix, quantized_matrix)
        )
    difference = quantized_matrix - float_matrix
    if isinstance(difference, np.ndarray):
        difference = frozen(difference)
    return MergedTerm(source, float_matrix, quantized_matrix, difference)


def _pair_real(left: Affine, right: Affine, sources: list[int]) -> MergedAffine:
    terms = tuple(
        _merged_term(source, first.matrix, second.matrix)
        for source, first, second in zip(sources, left.terms, right.terms, strict=True)
    )
    difference = right.bias - left.bias
    zero = frozen(np.zeros_like(difference))
    return MergedAffine(
        left.name,
        terms,
        left.bias,
        right.bias,
        zero,
        frozen(difference),
        frozen(2 * UNIT_ROUNDOFF * np.abs(difference)),
        None,
        None,
    )
