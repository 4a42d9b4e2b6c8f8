"""The nodes that both kinds of network are made of.

A network is a directed acyclic graph in topological order.  *Value* 0 is the input and value ``k`` is the result
of node ``k − 1``; a node names its sources by value index, so a residual connection is just a second term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix, frozen
from milpq.errors import InvalidNetworkError
from milpq.network.curves import Curve
from milpq.network.images import Convolution
from milpq.rounding.step import StepFunction


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One summand ``matrix @ value[source]`` of an affine node; `matrix` has shape (outputs, inputs)."""

    source: int
    matrix: Matrix

    def __post_init__(self) -> None:
        if isinstance(self.matrix, np.ndarray):
            object.__setattr__(self, "matrix", frozen(np.ascontiguousarray(self.matrix, dtype=np.float64)))


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """``Σ matrix @ value[source] + bias`` over the terms, in real arithmetic on the stored float64 numbers.

    Parameters
    ----------
    weighted : bool
        Whether the matrix holds weights of the model; False for sums, averages and selections, which have no
        quantized weights to be compared with.
    convolution : Convolution or None
        The convolution that the one matrix is.
    """

    name: str
    terms: tuple[Term, ...]
    bias: Float64Array
    weighted: bool = True
    convolution: Convolution | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", frozen(np.ascontiguousarray(self.bias, dtype=np.float64)))
        _check_affine(self.name, self.terms, len(self.bias))
        if not np.isfinite(self.bias).all():
            raise InvalidNetworkError(f"layer {self.name!r}: the bias holds NaN or infinity")

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return tuple(term.source for term in self.terms)


@dataclass(frozen=True, slots=True, eq=False)
class Clamp:
    """``min(max(value, lower), upper)`` elementwise: ReLU is ``Clamp(0, inf)``, ReLU6 ``Clamp(0, 6)``."""

    name: str
    source: int
    lower: float = 0.0
    upper: float = np.inf

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise InvalidNetworkError(
                f"layer {self.name!r}: clamp range [{self.lower}, {self.upper}] is empty"
            )

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return (self.source,)


@dataclass(frozen=True, slots=True, eq=False)
class Smooth:
    """A sigmoid or tanh, elementwise, as a real function."""

    name: str
    source: int
    curve: Curve

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return (self.source,)


@dataclass(frozen=True, slots=True, eq=False)
class IntegerAffine:
    """Integer accumulators ``Σ matrix @ levels[source] + bias``; matrices hold integers exactly.

    Levels are codes minus their zero point, and weights have their zero point subtracted, so that a level or
    accumulator ``n`` stands for the real number ``scale·n`` with no offset.

    Parameters
    ----------
    scale : float64, shape (outputs,)
        Real value of one accumulator unit.  For hidden layers this only aligns the two networks; no bound
        depends on it being the "right" one.
    """

    name: str
    terms: tuple[Term, ...]
    bias: Int64Array
    scale: Float64Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", frozen(np.ascontiguousarray(self.bias, dtype=np.int64)))
        object.__setattr__(self, "scale", _positive_scale(self.name, self.scale, len(self.bias)))
        _check_affine(self.name, self.terms, len(self.bias))
        for term in self.terms:
            data = entries(term.matrix)
            if (data != np.rint(data)).any():
                raise InvalidNetworkError(f"layer {self.name!r}: an integer weight is not an integer")

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return tuple(term.source for term in self.terms)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A requantization, lookup table or rescaling: accumulators (or levels) to levels of a new scale.

    Parameters
    ----------
    scale : float64, shape (neurons,)
        Real value of one output level.
    zero_point : int
        Code = level + zero_point; only for showing codes to people.
    """

    name: str
    source: int
    function: StepFunction
    scale: Float64Array
    zero_point: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _positive_scale(self.name, self.scale, self.function.size))

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return (self.source,)


FloatNode: TypeAlias = Affine | Clamp | Smooth
IntegerNode: TypeAlias = IntegerAffine | Step


@dataclass(frozen=True, slots=True)
class Graph:
    """Shape bookkeeping shared by both networks: sizes of all values, and what may be dropped after whom."""

    sizes: tuple[int, ...]
    last_use: tuple[int, ...] = field(repr=False)


class Node(Protocol):
    """What every node has."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices it reads."""
        ...


def chain(nodes: Sequence[Node], input_size: int, output: int) -> Graph:
    """Check that the nodes chain and return the sizes of all values.

    Raises
    ------
    InvalidNetworkError
        A node reads a value that does not exist yet, or of another size; the layer is named.
    """
    sizes = [input_size]
    last_use = [0] * (len(nodes) + 1)
    for index, node in enumerate(nodes):
        for source in node.sources:
            if not 0 <= source <= index:
                raise InvalidNetworkError(
                    f"layer {node.name!r}: reads value {source}, which does not exist yet"
                )
            last_use[source] = index
        if isinstance(node, Affine | IntegerAffine):
            for term in node.terms:
                if term.matrix.shape[1] != sizes[term.source]:
                    raise InvalidNetworkError(
                        f"layer {node.name!r}: weights for {term.matrix.shape[1]} inputs, "
                        f"but the layer before gives {sizes[term.source]}"
                    )
            sizes.append(len(node.bias))
        else:
            if isinstance(node, Step) and node.function.size != sizes[node.source]:
                raise InvalidNetworkError(
                    f"layer {node.name!r}: step function of {node.function.size} neurons on {sizes[node.source]}"
                )
            sizes.append(sizes[node.sources[0]])
    if not 0 <= output < len(sizes):
        raise InvalidNetworkError(f"the output is value {output}, but there are {len(sizes)} values")
    last_use[output] = len(nodes)
    return Graph(tuple(sizes), tuple(last_use))


def is_sparse(matrix: Matrix) -> bool:
    """Tell whether a matrix is stored sparse."""
    return not isinstance(matrix, np.ndarray)


def apply_matrix(matrix: Matrix, values: Float64Array) -> Float64Array:
    """Return ``values @ matrix.T`` for points in rows, dense or sparse matrix alike."""
    if isinstance(matrix, np.ndarray):
        return values @ matrix.T
    return np.ascontiguousarray((matrix @ values.T).T)


def absolute(matrix: Matrix) -> Matrix:
    """Return the elementwise absolute value."""
    return np.abs(matrix) if isinstance(matrix, np.ndarray) else abs(matrix)


def row_terms(matrix: Matrix) -> int:
    """Return how many products a row sums at most: those with a zero that is not stored round nothing."""
    return matrix.shape[1] if isinstance(matrix, np.ndarray) else int(np.diff(matrix.indptr).max(initial=0))


def entries(matrix: Matrix) -> Float64Array:
    """Return the stored entries of a matrix, all of a dense one."""
    return matrix if isinstance(matrix, np.ndarray) else matrix.data


def _check_affine(name: str, terms: tuple[Term, ...], size: int) -> None:
    if not terms:
        raise InvalidNetworkError(f"layer {name!r}: has no terms")
    for term in terms:
        if term.matrix.ndim != 2:
            raise InvalidNetworkError(f"layer {name!r}: the weights are no matrix")
        if term.matrix.shape[0] != size:
            raise InvalidNetworkError(
                f"layer {name!r}: {size} biases for weights of shape {tuple(term.matrix.shape)}"
            )
        if not np.isfinite(entries(term.matrix)).all():
            raise InvalidNetworkError(f"layer {name!r}: the weights hold NaN or infinity")


def _positive_scale(name: str, scale: Float64Array, size: int) -> Float64Array:
    full = np.broadcast_to(np.asarray(scale, dtype=np.float64), (size,)).copy()
    if not (np.isfinite(full).all() and (full > 0).all()):
        raise InvalidNetworkError(f"layer {name!r}: a scale is not positive and finite")
    return frozen(full)
