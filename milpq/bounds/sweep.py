"""The Lagrangian function and its gradient in float32, for many objectives at once: hints, never bounds.

Both directions run over the live neurons only: coefficients from the objective back to the input, then the
point the relaxed problem chooses there forward again, whose mismatch at each open neuron is the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from milpq._arrays import BoolArray, Float64Array, Int64Array, Matrix
from milpq.bounds._ascent_kernel import bend, follow
from milpq.bounds.hull import Points
from milpq.bounds.settled import Settled
from milpq.bounds.values import ValueBounds
from milpq.merge.nodes import Merged, MergedAffine, MergedTerm
from milpq.network.nodes import apply_matrix

Float32Array: TypeAlias = npt.NDArray[np.float32]
_Matrix32: TypeAlias = "Float32Array | sp.csr_array"


_SPARSE_WORK = 10.0
_POINT_WORK = 100.0  # of the points of one open neuron, which also take the memory


def fast(points: Points) -> Float32Array:
    """Return points in float32, shape (4, nodes, neurons, points)."""
    return np.stack([points.a, points.d, points.h, points.delta]).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    sources: tuple[int, ...]
    stacked: tuple[_Matrix32, ...]
    """For each source ``[W; ΔW]``: what ``(a, d)`` read of ``h``."""
    quantized: tuple[_Matrix32 | None, ...]
    """For each source ``Ŵ``: what ``d`` reads of ``δ``; None where that is zero."""
    bias: Float32Array
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class _Activation:
    source: int
    picked: Int64Array
    """Positions of this value's live neurons among those of the source."""
    source_size: int
    settled: Float32Array
    """As in `Settled`, of the live neurons, shape (5, live)."""
    open_at: Int64Array
    """Positions of the open neurons among the live ones."""
    span: slice
    """Their place among all open neurons."""
    layer: int


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What the relaxed problem chose.

    Parameters
    ----------
    x : float32, shape (rows, inputs)
    points : float32, shape (4, rows, open)
        ``(a, d, h, δ)`` of every open neuron.
    weights : float32, shape (2, rows, open)
        The coefficients of ``h`` and ``δ`` the choice was made with.
    multipliers : float32, shape (rows, 2·open)
        ``γ`` and ``η``.
    """

    x: Float32Array
    points: Float32Array
    weights: Float32Array
    multipliers: Float32Array

    def select(self, rows: Int64Array) -> Choice:
        """Return the choices of some rows."""
        return Choice(self.x[rows], self.points[:, rows], self.weights[:, rows], self.multipliers[rows])


class Sweep:
    """The prepared network.

    Parameters
    ----------
    settled : dict from activation value to its `Settled`
    spans : dict from activation value to its open neurons' place and to the index of its points
    """

    def __init__(
        self,
        merged: Merged,
        values: tuple[ValueBounds, ...],
        settled: dict[int, Settled],
        spans: dict[int, tuple[slice, int]],
        count: int,
    ) -> None:
        self.live = _live(merged, settled)
        self._count = count
        # The input is measured from its centre, which moves into the biases behind it.
        ends = values[0].float_side, values[0].difference
        centre = [0.5 * (side.lower[0] + side.upper[0]) for side in ends]
        self._centre = [part.astype(np.float32) for part in centre]
        self._radius = [(0.5 * (side.upper[0] - side.lower[0])).astype(np.float32) for side in ends]
        still = not (ends[1].lower.any() or ends[1].upper.any())
        self._stages: list[_Affine | _Activation] = []
        self.work = _POINT_WORK * count
        """About what one row costs, in multiplications of dense matrices."""
        for index, node in enumerate(merged.nodes):
            live = self.live[index + 1]
            if isinstance(node, MergedAffine):
                stacked: list[_Matrix32] = []
                quantized: list[_Matrix32 | None] = []
                for term in node.terms:
                    at = self.live[term.source]
                    both = [_part(matrix, live, at) for matrix in (term.float_matrix, term.difference_matrix)]
                    stacked.append(_stack(both))
                    self.work += 3 * _weight(both[0])
                    silent = term.source == 0 and still
                    quantized.append(None if silent else _part(term.quantized_matrix, live, at))
                bias = np.stack([node.float_bias, node.difference_bias])
                for term in node.terms:
                    if term.source == 0:
                        bias += _moved(term, *centre)
                flat = bias[:, live].reshape(-1).astype(np.float32)
                self._stages.append(_Affine(node.sources, tuple(stacked), tuple(quantized), flat, len(live)))
            else:
                known = settled[index + 1]
                parts = (known.h_slope, known.h_offset, known.delta_a, known.delta_d, known.delta_offset)
                span, layer = spans[index + 1]
                self._stages.append(
                    _Activation(
                        node.source,
                        np.searchsorted(self.live[node.source], live),
                        len(self.live[node.source]),
                        np.stack([part[live] for part in parts]).astype(np.float32),
                        np.searchsorted(live, np.intersect1d(known.neurons, live)),
                        span,
                        layer,
                    )
                )

    def __call__(
        self,
        start: int,
        on_float: Float32Array,
        on_difference: Float32Array,
        shifts: Float32Array,
        slopes: Float32Array,
        points: list[Float32Array],
    ) -> tuple[Float32Array, Float32Array, Choice]:
        """Return the Lagrangian function, shape (rows,), its gradient (rows, 2·open), and what was chosen.

        The multipliers are ``γ = s_h C_h + s_a C_δ + shift`` and ``η = s_d C_δ + shift``, where ``C`` are the
        coefficients that arrive at the neuron.  So those of the layers in front follow when those behind
        grow, which an ascent in the multipliers themselves achieves only slowly.

        Parameters
        ----------
        start : int
            The value the objectives speak about.
        on_float, on_difference : float32, shape (rows, live neurons of the value)
        shifts : float32, shape (rows, 2·open)
            Of ``γ`` of all open neurons, then of ``η``; the gradient is with respect to these.
        slopes : float32, shape (3, nodes, open)
            ``s_h``, ``s_a`` and ``s_d``.
        points : float32, shape (4, nodes, open, points)
            For each activation in order.
        """
        rows, count = len(shifts), self._count
        total = np.zeros(rows, dtype=np.float32)
        coefficients: dict[int, list[Float32Array]] = {start: [on_float, on_difference]}
        chosen = np.zeros((6, rows, count), dtype=np.float32)
        multipliers = np.zeros_like(shifts)
        for value in range(start, 0, -1):
            if value not in coefficients:
                continue
            on_float, on_difference = coefficients.pop(value)
            stage = self._stages[value - 1]
            if isinstance(stage, _Affine):
                both = np.concatenate([on_float, on_difference], axis=1)
                total += both @ stage.bias
                for source, stacked, quantized in zip(
                    stage.sources, stage.stacked, stage.quantized, strict=True
                ):
                    on_delta = None if quantized is None else _times(on_difference, quantized)
                    _add(coefficients, source, _times(both, stacked), on_delta)
                continue
            back = np.empty_like(on_float), np.empty_like(on_float)
            bend(
                (on_float, on_difference),
                stage.settled,
                stage.open_at,
                stage.span.start,
                shifts,
                slopes,
                points[stage.layer],
                back,
                multipliers,
                chosen,
                total,
            )
            on_a, on_d = back
            if stage.source == 0:
                total += on_a @ self._centre[0][stage.picked] + on_d @ self._centre[1][stage.picked]
            if len(stage.picked) == stage.source_size:
                _add(coefficients, stage.source, on_a, on_d)
            else:
                wide = np.zeros((2, rows, stage.source_size), dtype=np.float32)
                wide[:, :, stage.picked] = on_a, on_d
                _add(coefficients, stage.source, wide[0], wide[1])
        ends = [
            np.copysign(radius, part) for part, radius in zip(coefficients[0], self._radius, strict=False)
        ]
        for part, end in zip(coefficients[0], ends, strict=True):
            total += np.einsum("ij,ij->i", part, end)
        choice = Choice(ends[0] + self._centre[0], chosen[:4], chosen[4:], multipliers)
        return total, self._mismatch(start, ends, choice, slopes), choice

    def _mismatch(
        self, start: int, ends: list[Float32Array], choice: Choice, slopes: Float32Array
    ) -> Float32Array:
        """Return the pre-activations that the chosen point implies minus those chosen."""
        gradient = np.zeros((len(choice.x), 2 * self._count), dtype=np.float32)
        rows = len(choice.x)
        around = np.concatenate(ends if len(ends) > 1 else [ends[0], np.zeros_like(ends[0])], axis=1)
        values = [around]
        """Of every value ``(a, d)`` or ``(h, δ)`` side by side; the input's from its centre."""
        for stage in self._stages[: start - 1]:
            if isinstance(stage, _Affine):
                both = np.empty((rows, len(stage.bias)), dtype=np.float32)
                both[:] = stage.bias
                for source, stacked, quantized in zip(
                    stage.sources, stage.stacked, stage.quantized, strict=True
                ):
                    known = values[source]
                    half = known.shape[1] // 2
                    both += _apply(stacked, known[:, :half])
                    if quantized is not None:
                        both[:, stage.size :] += _apply(quantized, known[:, half:])
                values.append(both)
                continue
            before = values[stage.source]
            if stage.source == 0:
                before = before + np.concatenate(self._centre)
            after = np.empty((rows, 2 * len(stage.picked)), dtype=np.float32)
            follow(
                before,
                stage.picked,
                stage.settled,
                stage.open_at,
                stage.span.start,
                slopes,
                choice.points,
                after,
                gradient,
            )
            values.append(after)
        return gradient


def _moved(term: MergedTerm, centre: Float64Array, difference: Float64Array) -> Float64Array:
    """Return what a term makes of the centre of the input, on ``a`` and on ``d``, shape (2, neurons)."""
    x, delta = centre[None], difference[None]
    return np.concatenate(
        [
            apply_matrix(term.float_matrix, x),
            apply_matrix(term.difference_matrix, x) + apply_matrix(term.quantized_matrix, delta),
        ]
    )


def _live(merged: Merged, settled: dict[int, Settled]) -> list[Int64Array]:
    """Return the neurons of every value that anything depends on."""
    sizes = [merged.input_size, *(node.size for node in merged.nodes)]
    needed: list[BoolArray] = [np.zeros(size, dtype=np.bool_) for size in sizes]
    needed[0][:] = True
    needed[merged.output][:] = True
    for index in range(len(merged.nodes) - 1, -1, -1):
        node = merged.nodes[index]
        if isinstance(node, MergedAffine):
            for source in node.sources:
                known = settled.get(source)
                needed[source] |= True if known is None else known.live
        else:
            needed[node.source] |= needed[index + 1]
    return [np.flatnonzero(mask) for mask in needed]


def _part(matrix: Matrix, rows: Int64Array, columns: Int64Array) -> _Matrix32:
    if isinstance(matrix, np.ndarray):
        return np.ascontiguousarray(matrix[np.ix_(rows, columns)], dtype=np.float32)
    return sp.csr_array(matrix[rows][:, columns]).astype(np.float32)


def _weight(matrix: _Matrix32) -> float:
    """Return the entries of a matrix; those of a sparse one take an order of magnitude longer."""
    return float(matrix.size) if isinstance(matrix, np.ndarray) else _SPARSE_WORK * float(matrix.nnz)


def _stack(parts: list[_Matrix32]) -> _Matrix32:
    dense = [part for part in parts if isinstance(part, np.ndarray)]
    if dense:
        return np.concatenate(dense, axis=0)
    return sp.csr_array(cast("Any", sp.vstack)(parts))


def _times(values: Float32Array, matrix: _Matrix32) -> Float32Array:
    return (
        values @ matrix if isinstance(matrix, np.ndarray) else np.ascontiguousarray((matrix.T @ values.T).T)
    )


def _apply(matrix: _Matrix32, values: Float32Array) -> Float32Array:
    return (
        values @ matrix.T if isinstance(matrix, np.ndarray) else np.ascontiguousarray((matrix @ values.T).T)
    )


def _add(
    coefficients: dict[int, list[Float32Array]],
    value: int,
    on_float: Float32Array,
    on_delta: Float32Array | None,
) -> None:
    fresh = [on_float] if on_delta is None else [on_float, on_delta]
    known = coefficients.get(value)
    if known is None:
        coefficients[value] = fresh
    else:
        coefficients[value] = [
            known[0] + fresh[0],
            *(k + f for k, f in zip(known[1:], fresh[1:], strict=False)),
        ]
