"""A merged network as flat arrays, which compiled code reads without touching Python objects."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.bounds.prepared import prepared
from milpq.bounds.residue import Residue
from milpq.errors import UnsupportedModelError
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine

Records: TypeAlias = Any
"""A structured array; compiled code reads the fields of its elements as attributes, which no type checker knows."""

LARGEST = 60_000_000
"""Numbers that the generators of one cube may take at worst: beyond, forward propagation does not pay."""


VALUE: Final = np.dtype(
    [(name, np.int64) for name in ("width", "first", "rows", "cells", "ranged")], align=True
)
"""A merged value, the input first.

``width``: its neurons.  ``first``: where they start in *neuron* arrays, which hold all values one after another.
``rows``: most generators it can have.  ``cells``: where its generators start in one flat array.  ``ranged``: 1 where
an activation reads it, or it is the output, so that its bounds are needed.
"""

NODE: Final = np.dtype(
    [(name, np.float64) for name in ("lower", "upper", "centre", "amplitude", "rate")]
    + [
        (name, np.int64)
        for name in (
            "is_affine", "source", "terms", "has_step", "step_rows", "steps", "powers", "kinds",
            "thresholds", "levels", "extremes",
        )
    ],
    align=True,
)  # fmt: skip
"""A merged node.

``lower``, ``upper``: the clamp of an activation.  ``centre``, ``amplitude``, ``rate``: its curve
(`milpq.network.curves`); a rate of 0 for none.  ``source``: the value it reads.  ``terms``: where the terms of an
affine node start.  ``step_rows``, ``steps``: rows of a step function, and thresholds of each.  ``powers``, ``kinds``:
shape of its residue tables.  ``thresholds``, ``levels``, ``extremes``: where its thresholds, levels and tables start.
"""

TERM: Final = np.dtype([("source", np.int64), ("weights", np.int64)], align=True)
"""A term of an affine node, and where its weights start."""

NEURON: Final = np.dtype(
    [
        (name, np.float64)
        for name in (
            "float_bias", "difference_bias", "difference_bias_error",
            "scale_in", "scale_out", "saturation_lower", "saturation_upper",
        )
    ]
    + [(name, np.int64) for name in ("node", "row", "kind")],
    align=True,
)  # fmt: skip
"""A neuron: what its affine node or its step has, the node that makes it (−1 for the input), the row of its step
function and the kind of its residue tables."""


class Packed(NamedTuple):
    """The network.  Few arrays of records: compilers take long over many arguments.

    Attributes
    ----------
    values : VALUE, shape (values + 1,)
        The last one tells where values end, as that of `nodes` does.
    nodes : NODE, shape (nodes + 1,)
    terms : TERM, shape (terms,)
    neurons : NEURON, shape (neurons,)
    weights : float64
        For each term ``Wᵀ``, ``Ŵᵀ`` and ``(Ŵ − W)ᵀ``, each (inputs, outputs) in C order, at its offset.
    thresholds, levels : int64
        ``[row, step]`` of each step, in C order; one level more than thresholds.
    largest, smallest : float64
        Residue tables, ``[power, kind, column]`` in C order, as many columns as levels.
    has_phases : int
        1 where some clamp has no rounding step, so that deciding its phases settles it.
    output : int
    """

    values: Records
    nodes: Records
    terms: Records
    neurons: Records
    weights: Float64Array
    thresholds: Int64Array
    levels: Int64Array
    largest: Float64Array
    smallest: Float64Array
    has_phases: int
    output: int


def supports(merged: Merged) -> bool:
    """Tell whether forward propagation of generators knows every operation, and the network is small enough."""
    if not merged.is_exact:
        return False
    sizes = _sizes(merged)
    rows = _rows(merged, sizes)
    weights = sum(
        3 * term.float_matrix.shape[0] * term.float_matrix.shape[1]
        for node in merged.nodes
        if isinstance(node, MergedAffine)
        for term in node.terms
    )
    return int(rows @ sizes) <= LARGEST and weights <= LARGEST


@lru_cache(maxsize=8)
def pack(merged: Merged) -> Packed:
    """Return the flat arrays of a network; merged networks are immutable and compared by identity.

    Raises
    ------
    UnsupportedModelError
        An operation of the quantized side is known only within a band.
    """
    if not merged.is_exact:
        raise UnsupportedModelError(
            "the zonotope takes networks whose operations are known exactly; use another method"
        )
    count = len(merged.nodes)
    values, nodes = np.zeros(count + 2, dtype=VALUE), np.zeros(count + 1, dtype=NODE)
    sizes = _sizes(merged)
    rows = _rows(merged, sizes)
    values["width"][:-1], values["rows"][:-1] = sizes, rows
    values["first"][1:], values["cells"][1:] = np.cumsum(sizes), np.cumsum(rows * sizes)
    values["ranged"][merged.output] = 1
    neurons = np.zeros(int(sizes.sum()), dtype=NEURON)
    neurons["node"] = np.repeat(np.arange(-1, count), sizes)
    terms: list[tuple[int, int]] = []
    weights: list[Float64Array] = [np.zeros(0)]
    steps = _Steps()
    offset = 0
    for index, node in enumerate(merged.nodes):
        here = neurons[values["first"][index + 1] : values["first"][index + 2]]
        packed = nodes[index : index + 1]
        packed["terms"] = len(terms)
        steps.start(packed)
        if isinstance(node, MergedAffine):
            packed["is_affine"] = 1
            for term in node.terms:
                terms.append((term.source, offset))
                for matrix in (term.float_matrix, term.quantized_matrix, term.difference_matrix):
                    weights.append(_dense(matrix).T.ravel())
                    offset += weights[-1].size
            here["float_bias"], here["difference_bias"] = node.float_bias, node.difference_bias
            here["difference_bias_error"] = node.difference_bias_error
            continue
        packed["source"], packed["lower"], packed["upper"] = node.source, node.lower, node.upper
        if node.curve is not None:
            packed["centre"], packed["amplitude"] = node.curve.centre, node.curve.amplitude
            packed["rate"] = node.curve.rate
        values["ranged"][node.source] = 1
        residue = prepared(merged).residues[index]
        if residue is not None:
            packed["has_step"] = 1
            steps.add(packed, residue)
            here["scale_in"], here["scale_out"] = residue.scale_in, residue.scale_out
            here["saturation_lower"] = residue.saturation_lower
            here["saturation_upper"] = residue.saturation_upper
            here["row"], here["kind"] = residue.step.rows, residue.kind
    nodes["terms"][-1] = len(terms)
    thresholds, levels, largest, smallest = steps.tables
    plain = (nodes["is_affine"][:-1] == 0) & (nodes["has_step"][:-1] == 0) & (nodes["rate"][:-1] == 0.0)
    return Packed(
        values,
        nodes,
        np.array(terms, dtype=TERM),
        neurons,
        np.concatenate(weights),
        thresholds,
        levels,
        largest,
        smallest,
        int(bool(plain.any())),
        merged.output,
    )


def _sizes(merged: Merged) -> Int64Array:
    return np.array([merged.input_size, *(node.size for node in merged.nodes)], dtype=np.int64)


def _rows(merged: Merged, sizes: Int64Array) -> Int64Array:
    """Return the most generators each value can have: two for each input and activated neuron before it."""
    made = [
        2 * n * isinstance(node, MergedActivation) for n, node in zip(sizes[1:], merged.nodes, strict=True)
    ]
    return np.cumsum([2 * sizes[0], *made]).astype(np.int64)


def _dense(matrix: Matrix) -> Float64Array:
    return np.asarray(matrix.toarray() if isinstance(matrix, sp.csr_array) else matrix, dtype=np.float64)


class _Steps:
    """Collects the tables of step functions."""

    def __init__(self) -> None:
        self._thresholds, self._levels = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        self._largest, self._smallest = [np.zeros(0)], [np.zeros(0)]
        self._starts = 0, 0, 0

    def start(self, node: Records) -> None:
        """Say where the tables of a node start, if it has any."""
        node["thresholds"], node["levels"], node["extremes"] = self._starts

    def add(self, node: Records, residue: Residue) -> None:
        """Add the tables of a node."""
        step = residue.step
        node["step_rows"], node["steps"] = step.thresholds.shape
        node["powers"], node["kinds"] = residue.largest.shape[:2]
        self._thresholds.append(step.thresholds.ravel())
        self._levels.append(step.values.ravel())
        self._largest.append(residue.largest.ravel())
        self._smallest.append(residue.smallest.ravel())
        first, second, third = self._starts
        self._starts = first + step.thresholds.size, second + step.values.size, third + residue.largest.size

    @property
    def tables(self) -> tuple[Int64Array, Int64Array, Float64Array, Float64Array]:
        """Thresholds, levels, and both residue tables, node after node."""
        return (
            np.concatenate(self._thresholds),
            np.concatenate(self._levels),
            np.concatenate(self._largest),
            np.concatenate(self._smallest),
        )
