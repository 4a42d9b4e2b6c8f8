"""Assemble a FloatNetwork node by node, merging neighbours only where that is exact in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._image_book import ImageBook
from milpq.network.curves import Curve
from milpq.network.float_network import FloatNetwork
from milpq.network.float_parts import average_node, maximum_nodes, outside_counts, selection_node
from milpq.network.images import Convolution, Image
from milpq.network.nodes import Affine, Clamp, FloatNode, Smooth, Term

SIGMOID_NOTE = "answered at the input of the final sigmoid, which is left out"
"""What `note` says of a network whose last operator was a sigmoid."""

SOFTMAX_NOTE = "answered at the input of the final softmax, which is left out"
"""What `note` says of a network whose last operator was a softmax."""

AVERAGE_NOTE = "averages are sums times the float64 number nearest to 1/count"
"""What `note` says of a float network whose averages are not exact in float64."""

FOLDING_NOTE = "batch normalizations are folded into weights in float64"
"""What `note` says of a float network with batch normalizations."""

MAX_VALUES = 2**22
"""Largest number of neurons in one value."""

MAX_WEIGHTS = 2**27
"""Largest number of stored weights, all layers together (1 GiB as float64)."""


class FloatBuilder:
    """Collects nodes; values are named by index as in `FloatNetwork`.

    The network built is the real-arithmetic function of the numbers handed in.  A shift or a scaling is
    merged into the affine node it follows only if every merged number is exact; otherwise it stays a node of
    its own.

    Parameters
    ----------
    input_size : int
    origin : str
        File or object the network comes from; begins every message.

    Attributes
    ----------
    images : ImageBook
        What readers say of values beyond what their operators do.
    """

    def __init__(self, input_size: int, origin: str) -> None:
        self.images = ImageBook()
        self._origin = origin
        self._nodes: list[FloatNode] = []
        self._sizes: list[int] = [input_size]
        self._weights = 0
        self._inexact_average = False
        self._folded = False
        self.check_size(input_size, "the input")

    def check_size(self, size: int, what: str) -> None:
        """Raise UnsupportedModelError if a value of `size` neurons is more than milpq handles."""
        if not 0 < size <= MAX_VALUES:
            raise UnsupportedModelError(
                f"{self._origin}: {what} has {size} values; milpq reads 1 to {MAX_VALUES}"
            )

    def check_weights(self, count: int, what: str) -> None:
        """Raise UnsupportedModelError if `count` more weights are more than milpq handles."""
        if self._weights + count > MAX_WEIGHTS:
            raise UnsupportedModelError(
                f"{self._origin}: {what}: the network has more than {MAX_WEIGHTS} weights"
            )

    def linear(
        self,
        name: str,
        source: int,
        matrix: Matrix,
        bias: Float64Array | None = None,
        convolution: Convolution | None = None,
    ) -> int:
        """Append ``matrix @ source + bias``, perhaps that of a convolution, and return its value."""
        if matrix.shape[1] != self._sizes[source]:
            raise InvalidNetworkError(
                f"{self._origin}: layer {name!r}: weights for {matrix.shape[1]} inputs, "
                f"but the layer before gives {self._sizes[source]}"
            )
        bias = np.zeros(matrix.shape[0]) if bias is None else bias
        return self._affine(name, (Term(source, matrix),), bias, convolution=convolution)

    def shift(self, name: str, value: int, constant: Float64Array) -> int:
        """Append ``value + constant``, merged into the affine node that made `value` if that is exact."""
        self._check_finite(name, constant)
        if not constant.any():
            return value
        node = self._maker(value)
        if isinstance(node, Affine):
            total = node.bias + constant
            back = total - node.bias
            error = (node.bias - (total - back)) + (
                constant - back
            )  # Knuth's TwoSum: the exact rounding error.
            if not error.any():
                return self._append(replace(node, bias=total), len(constant))
        return self._elementwise(
            value, self._affine(name, (Term(value, _identity(len(constant))),), constant)
        )

    def scale(self, name: str, value: int, constant: Float64Array) -> int:
        """Append ``value · constant`` elementwise, merged into the affine node before it if that is exact."""
        self._check_finite(name, constant)
        if (constant == 1.0).all():
            return value
        node = self._maker(value)
        if isinstance(node, Affine) and _single(constant) and _is_single(node):
            # 24 bits times 24 bits fit into the 53 of float64, so every product is exact.
            terms = tuple(Term(term.source, _scale_rows(term.matrix, constant)) for term in node.terms)
            return self._append(replace(node, terms=terms, bias=node.bias * constant), len(constant))
        return self._elementwise(
            value, self._affine(name, (Term(value, _diagonal(constant)),), np.zeros(len(constant)))
        )

    def add(self, name: str, first: int, second: int, *, subtract: bool = False) -> int:
        """Append ``first ± second``, both of them computed values."""
        size = self._sizes[first]
        sign = -1.0 if subtract else 1.0
        if first == second:
            terms: tuple[Term, ...] = (Term(first, _diagonal(np.full(size, 1.0 + sign))),)
        else:
            terms = (Term(first, _identity(size)), Term(second, _diagonal(np.full(size, sign))))
        made = self._affine(name, terms, np.zeros(size), weighted=False)
        self.images.same(second, made)
        return self._elementwise(first, made)

    def rescale(self, name: str, value: int, gain: Float64Array, shift: Float64Array) -> int:
        """Append ``value·gain + shift``, folded into a copy of the layer before it.

        Folding rounds to float64; `finish` notes it.
        """
        self._check_finite(name, gain)
        self._check_finite(name, shift)
        self._folded = True
        node = self._maker(value)
        if isinstance(node, Affine) and node.weighted:
            terms = tuple(Term(term.source, _scale_rows(term.matrix, gain)) for term in node.terms)
            bias = node.bias * gain + shift
            return self._affine(node.name, terms, bias, convolution=node.convolution)
        return self._elementwise(
            value, self._affine(name, (Term(value, _diagonal(gain)),), shift, weighted=False)
        )

    def average(self, name: str, value: int, candidates: Int64Array) -> int:
        """Append averages of candidates (neurons, window), `geometry.OUTSIDE` not counted."""
        counts = outside_counts(candidates)
        node = average_node(name, value, self._sizes[value], candidates, counts)
        self._inexact_average |= bool((np.frexp(counts.astype(np.float64))[0] != 0.5).any())
        return self._affine(name, node.terms, node.bias, weighted=False)

    def maximum(self, name: str, value: int, candidates: Int64Array, image: Image | None = None) -> int:
        """Append maxima of candidates (neurons, window), `geometry.OUTSIDE` not counted.

        `image` is what the result is.
        """
        nodes = maximum_nodes(name, value, self._sizes[value], candidates, len(self._nodes) + 1)
        for node in nodes:
            if isinstance(node, Affine):
                value = self._affine(name, node.terms, node.bias, weighted=False)
            else:
                value = self._append(node, self._sizes[node.source])
            if image is not None:
                self.images.settle(value, replace(image, depth=self._sizes[value] // image.size))
        return value

    def select(
        self, name: str, values: Sequence[int], chosen: Sequence[Int64Array], constant: Float64Array
    ) -> int:
        """Append a selection: every neuron is a neuron of one of `values`, or a constant."""
        sources = [(value, self._sizes[value]) for value in values]
        node = selection_node(name, sources, chosen, constant)
        return self._affine(name, node.terms, node.bias, weighted=False)

    def clamp(self, name: str, value: int, lower: float, upper: float) -> int:
        """Append ``min(max(value, lower), upper)``; a clamp to ``(−inf, inf)`` appends nothing."""
        if lower == -np.inf and upper == np.inf:
            return value
        return self._elementwise(value, self._append(Clamp(name, value, lower, upper), self._sizes[value]))

    def smooth(self, name: str, value: int, curve: Curve) -> int:
        """Append a curve, elementwise."""
        return self._elementwise(value, self._append(Smooth(name, value, curve), self._sizes[value]))

    def finish(self, output: int, note: str = "") -> FloatNetwork:
        """Return the network that ends in value `output`, without the nodes it does not need."""
        needed = {output}
        for index in range(len(self._nodes) - 1, -1, -1):
            if index + 1 in needed:
                needed.update(self._nodes[index].sources)
        renumbered = {0: 0}
        nodes: list[FloatNode] = []
        for index, node in enumerate(self._nodes):
            if index + 1 not in needed:
                continue
            if isinstance(node, Affine):
                terms = tuple(Term(renumbered[term.source], term.matrix) for term in node.terms)
                nodes.append(replace(node, terms=terms))
            else:
                nodes.append(replace(node, source=renumbered[node.source]))
            renumbered[index + 1] = len(nodes)
        known = self.images.images(len(self._sizes))
        images = tuple(known[value] for value in renumbered)
        notes = [note] if note else []
        if self._inexact_average:
            notes.append(AVERAGE_NOTE)
        if self._folded:
            notes.append(FOLDING_NOTE)
        return FloatNetwork(
            self._sizes[0], tuple(nodes), renumbered[output], self._origin, "; ".join(notes), images
        )

    def _affine(
        self,
        name: str,
        terms: tuple[Term, ...],
        bias: Float64Array,
        *,
        weighted: bool = True,
        convolution: Convolution | None = None,
    ) -> int:
        self.check_size(len(bias), f"layer {name!r}")
        count = sum(_data(term.matrix).size for term in terms)
        self.check_weights(count, f"layer {name!r}")
        self._weights += count
        try:
            return self._append(Affine(name, terms, bias, weighted, convolution), len(bias))
        except InvalidNetworkError as error:
            raise InvalidNetworkError(f"{self._origin}: {error}") from error

    def _append(self, node: FloatNode, size: int) -> int:
        self._nodes.append(node)
        self._sizes.append(size)
        value = len(self._nodes)
        if isinstance(node, Affine) and node.convolution is not None:
            self.images.settle(node.terms[0].source, node.convolution.image)
            self.images.settle(value, node.convolution.result)
        return value

    def _elementwise(self, source: int, result: int) -> int:
        """Note that a value has the order of the one it is made of."""
        self.images.same(source, result)
        return result

    def _maker(self, value: int) -> FloatNode | None:
        return self._nodes[value - 1] if value else None

    def _check_finite(self, name: str, constant: Float64Array) -> None:
        if not np.isfinite(constant).all():
            raise InvalidNetworkError(f"{self._origin}: layer {name!r}: a constant is NaN or infinity")


def repeat_rows(matrix: Float64Array, rows: int) -> Matrix:
    """Return the matrix that applies `matrix` to each of `rows` rows of a flattened value."""
    return matrix if rows == 1 else sp.csr_array(sp.kron(_identity(rows), matrix))


def repeat_columns(matrix: Float64Array, columns: int) -> Matrix:
    """Return the matrix that applies `matrix` from the left to a flattened value of `columns` columns."""
    return matrix if columns == 1 else sp.csr_array(sp.kron(matrix, _identity(columns)))


def _identity(size: int) -> sp.csr_array:
    return _diagonal(np.ones(size))


def _diagonal(entries: Float64Array) -> sp.csr_array:
    size = len(entries)
    return sp.csr_array((entries, np.arange(size), np.arange(size + 1)), shape=(size, size))


def _scale_rows(matrix: Matrix, factors: Float64Array) -> Matrix:
    if isinstance(matrix, np.ndarray):
        return matrix * factors[:, None]
    return sp.csr_array(_diagonal(factors) @ matrix)


def _data(matrix: Matrix) -> Float64Array:
    return matrix if isinstance(matrix, np.ndarray) else matrix.data


def _is_single(node: Affine) -> bool:
    return _single(node.bias) and all(_single(_data(term.matrix)) for term in node.terms)


def _single(values: Float64Array) -> bool:
    """Tell whether all values are float32 numbers (NaN is not)."""
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float32) == values).all())
