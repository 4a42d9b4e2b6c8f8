"""A merged network as flat arrays, which compiled code reads without touching Python objects."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.bounds.prepared import prepared
from milpq.bounds.residue import Residue
from milpq.errors import UnsupportedModelError
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine

LARGEST = 60_000_000
"""Numbers that the generators of one cube may take at worst: beyond, forward propagation does not pay."""


class Packed(NamedTuple):
    """The network; *neuron* arrays hold all values one after another, value 0 being the input.

    Attributes
    ----------
    sizes : int64, shape (values,)
    first : int64, shape (values + 1,)
        Where each value starts in neuron arrays.
    rows : int64, shape (values,)
        Most generators each value can have.
    cells : int64, shape (values + 1,)
        Where each value's generators start in one flat array.
    ranged : int64, shape (values,)
        1 where an activation reads the value, or it is the output: its bounds are needed.
    is_affine, source : int64, shape (nodes,)
        The source of an activation.
    clamp : float64, shape (nodes, 2)
    term_first : int64, shape (nodes + 1,)
    term_source, term_offset : int64, shape (terms,)
    weights : float64
        For each term ``Wᵀ``, ``Ŵᵀ`` and ``(Ŵ − W)ᵀ``, each (inputs, outputs) in C order, at its offset.
    float_bias, difference_bias, difference_bias_error : float64, shape (neurons,)
    has_step : int64, shape (nodes,)
    scale_in, scale_out, saturation_lower, saturation_upper : float64, shape (neurons,)
    row, kind : int64, shape (neurons,)
        Row of the step function and kind of the residue tables.
    step_rows, step_count, powers, kinds : int64, shape (nodes,)
        Rows and thresholds of each row of a step; shape of its residue tables.
    step_first, level_first, table_first : int64, shape (nodes + 1,)
        Where its thresholds, levels and tables start.
    thresholds, levels : int64
        ``[row, step]`` of each step, in C order; one level more than thresholds.
    largest, smallest : float64
        Residue tables, ``[power, kind, column]`` in C order, as many columns as levels.
    has_phases : int
        1 where some activation has no rounding step, so that deciding its phases settles it.
    output : int
    """

    sizes: Int64Array
    first: Int64Array
    rows: Int64Array
    cells: Int64Array
    ranged: Int64Array
    is_affine: Int64Array
    source: Int64Array
    clamp: Float64Array
    term_first: Int64Array
    term_source: Int64Array
    term_offset: Int64Array
    weights: Float64Array
    float_bias: Float64Array
    difference_bias: Float64Array
    difference_bias_error: Float64Array
    has_step: Int64Array
    scale_in: Float64Array
    scale_out: Float64Array
    saturation_lower: Float64Array
    saturation_upper: Float64Array
    row: Int64Array
    kind: Int64Array
    step_rows: Int64Array
    step_count: Int64Array
    powers: Int64Array
    kinds: Int64Array
    step_first: Int64Array
    level_first: Int64Array
    table_first: Int64Array
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
    nodes = len(merged.nodes)
    sizes = _sizes(merged)
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows = _rows(merged, sizes)
    neurons = _Neurons(int(first[-1]))
    is_affine, source, has_step = (np.zeros(nodes, dtype=np.int64) for _ in range(3))
    clamp = np.zeros((nodes, 2))
    ranged = np.zeros(nodes + 1, dtype=np.int64)
    ranged[merged.output] = 1
    term_first: list[int] = [0]
    term_source: list[int] = []
    term_offset: list[int] = []
    weights: list[Float64Array] = [np.zeros(0)]
    steps = _Steps(nodes)
    offset = 0
    for index, node in enumerate(merged.nodes):
        here = slice(first[index + 1], first[index + 2])
        if isinstance(node, MergedAffine):
            is_affine[index] = 1
            for term in node.terms:
                term_source.append(term.source)
                term_offset.append(offset)
                for matrix in (term.float_matrix, term.quantized_matrix, term.difference_matrix):
                    weights.append(_dense(matrix).T.ravel())
                    offset += weights[-1].size
            neurons.add_affine(here, node)
        else:
            source[index] = node.source
            ranged[node.source] = 1
            clamp[index] = node.lower, node.upper
            residue = prepared(merged).residues[index]
            if residue is not None:
                has_step[index] = 1
                neurons.add_step(here, residue)
                steps.add(index, residue)
        term_first.append(len(term_source))
    float_bias, difference_bias, difference_bias_error = neurons.biases
    scale_in, scale_out, saturation_lower, saturation_upper = neurons.scales
    step_rows, step_count, powers, kinds = steps.shapes
    step_first, level_first, table_first = steps.starts
    thresholds, levels, largest, smallest = steps.tables
    return Packed(
        sizes=sizes,
        first=first,
        rows=rows,
        cells=np.concatenate([[0], np.cumsum(rows * sizes)]).astype(np.int64),
        ranged=ranged,
        is_affine=is_affine,
        source=source,
        clamp=clamp,
        term_first=np.array(term_first, dtype=np.int64),
        term_source=np.array(term_source, dtype=np.int64),
        term_offset=np.array(term_offset, dtype=np.int64),
        weights=np.concatenate(weights),
        float_bias=float_bias,
        difference_bias=difference_bias,
        difference_bias_error=difference_bias_error,
        has_step=has_step,
        scale_in=scale_in,
        scale_out=scale_out,
        saturation_lower=saturation_lower,
        saturation_upper=saturation_upper,
        row=neurons.row,
        kind=neurons.kind,
        step_rows=step_rows,
        step_count=step_count,
        powers=powers,
        kinds=kinds,
        step_first=step_first,
        level_first=level_first,
        table_first=table_first,
        thresholds=thresholds,
        levels=levels,
        largest=largest,
        smallest=smallest,
        has_phases=int(bool(((is_affine == 0) & (has_step == 0)).any())),
        output=merged.output,
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


class _Neurons:
    """Collects what each neuron has."""

    def __init__(self, count: int) -> None:
        self.biases = np.zeros(count), np.zeros(count), np.zeros(count)
        self.scales = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
        self.row = np.zeros(count, dtype=np.int64)
        self.kind = np.zeros(count, dtype=np.int64)

    def add_affine(self, here: slice, node: MergedAffine) -> None:
        parts = (node.float_bias, node.difference_bias, node.difference_bias_error)
        for array, part in zip(self.biases, parts, strict=True):
            array[here] = part

    def add_step(self, here: slice, residue: Residue) -> None:
        parts = (residue.scale_in, residue.scale_out, residue.saturation_lower, residue.saturation_upper)
        for array, part in zip(self.scales, parts, strict=True):
            array[here] = part
        self.row[here], self.kind[here] = residue.step.rows, residue.kind


class _Steps:
    """Collects the tables of step functions."""

    def __init__(self, nodes: int) -> None:
        shapes = np.zeros((4, nodes), dtype=np.int64)
        self.shapes = shapes[0], shapes[1], shapes[2], shapes[3]
        self._integers: tuple[list[Int64Array], list[Int64Array]] = ([], [])
        self._reals: tuple[list[Float64Array], list[Float64Array]] = ([], [])

    def add(self, node: int, residue: Residue) -> None:
        powers, kinds, _ = residue.largest.shape
        shape = (*residue.step.thresholds.shape, powers, kinds)
        for array, number in zip(self.shapes, shape, strict=True):
            array[node] = number
        for parts, table in zip(self._integers, (residue.step.thresholds, residue.step.values), strict=True):
            parts.append(table.ravel())
        for parts, table in zip(self._reals, (residue.largest, residue.smallest), strict=True):
            parts.append(table.ravel())

    @property
    def starts(self) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Where the thresholds, levels and tables of each node start, shape (nodes + 1,) each."""
        rows, steps, powers, kinds = self.shapes
        first, second, third = (
            np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
            for size in (rows * steps, rows * (steps + 1), powers * kinds * (steps + 1))
        )
        return first, second, third

    @property
    def tables(self) -> tuple[Int64Array, Int64Array, Float64Array, Float64Array]:
        """Thresholds, levels, and both residue tables, node after node."""
        none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
        thresholds, levels = (np.concatenate([none, *parts]) for parts in self._integers)
        largest, smallest = (np.concatenate([nothing, *parts]) for parts in self._reals)
        return thresholds, levels, largest, smallest
