"""Facts about activations beyond their bands, and the bounds that multipliers of facts give.

A fact is an inequality ``fact = α·a + β·d + γ·h + κ·δ + c >= 0`` that every input of a leaf satisfies.  So for any
multipliers ``y >= 0``, an objective is at most ``objective + Σ y·fact`` everywhere, and this sum is a form again: its
noises cancel.  Wrong multipliers give a weak bound, never a wrong one.  (Lagrangian duality; with the best multipliers
it is the bound of the linear program over the symbols and the facts.)

The facts, with ``z = h + δ = φ_q(v)``, ``v = a + d``, intervals under the leaf's decisions, and ``e`` for
``φ_q(v) − φ(v)``, within ``[e_l, e_u]``:

    0, 1    ``h >= φ(a_l)``;  ``h >= a`` where ``a_u <= φ's upper end``
    2 to 5  ``a_l <= a <= a_u``, ``v_l <= v <= v_u``
    6, 7    ``z_l <= z <= z_u``
    8, 9    ``ψ(v) + low <= z <= ψ(v) + high`` where ``ψ(v) >= v``, that is ``v_u <= top``; where ``v_l >= bottom``
    10, 11  the band of ``z`` along ``v``
    12, 13  ``δ`` between the chords of ``min(d, 0) + e`` and ``max(d, 0) + e``

and for a ReLU, ``r = relu(a + d) − relu(a) = δ − e``, ``d_l <= 0 <= d_u``:

    14      ``r <= d − d_l + g·a``  for ``max(−1, d_l/a_u) <= g <= 0`` and ``a_u > 0``
    15      ``r <= d_u + g·a``      for ``0 <= g <= d_u/−a_l`` and ``−a_l >= d_u``, ``a_l < 0``
    16, 17  both with the sides exchanged: ``a ↔ v``, ``d ↔ −d``, ``r ↔ −r``

14: for ``a >= 0``, ``r = max(d, −a)``; ``g·a >= g·a_u >= d_l`` gives the first, ``g >= −1`` and ``d >= d_l`` the
second.  For ``a <= 0``, ``r = max(a + d, 0)``; ``a(1 − g) <= 0 <= −d_l`` gives the first, ``g·a >= 0`` and ``d >= d_l``
the second.  15: for ``a >= 0``, ``r <= d_u``.  For ``a <= 0``, ``r <= relu(a + d_u)``, convex: ``d_u`` at 0, and 0 at
``a_l``, where ``d_u + g·a_l >= 0``.

References: A. Neumaier and O. Shcherbina, *Safe bounds in linear and mixed-integer linear programming* (any multipliers
do); J. Scott et al., *Constrained zonotopes*, Automatica 69 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, Int64Array
from milpq.certificate.forms import ROUNDED, TINY, Form, padded
from milpq.certificate.zonotope import Layer, Trace
from milpq.merge import Problem

KINDS: Final = 18


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """The facts of one activation, arrays of shape (KINDS, neurons, leaves); those that are not `valid` say nothing."""

    layer: Layer
    along_a: Float64Array
    along_d: Float64Array
    along_h: Float64Array
    along_delta: Float64Array
    constant: Float64Array
    valid: BoolArray

    @classmethod
    def of(cls, layer: Layer) -> Facts:
        """Return the facts; constants are rounded up, which weakens them."""
        node, stairs, q = layer.node, layer.stairs, layer.quantized
        (al, au), (dl, du), (vl, vu) = layer.a_ends, layer.d_ends, layer.v_ends
        low = high = np.float64(0.0)
        bottom, top = np.float64(node.lower), np.float64(node.upper)
        if stairs is not None:
            low, high, bottom, top = stairs.low, stairs.high, stairs.bottom, stairs.top
        width = np.where(du > dl, du - dl, 1.0)
        rise, fall = np.clip(du / width, 0.0, 1.0), np.clip(-dl / width, 0.0, 1.0)
        above = np.maximum(np.maximum(dl, 0.0) - rise * dl, np.maximum(du, 0.0) - rise * du)
        below = np.minimum(np.minimum(dl, 0.0) - fall * dl, np.minimum(du, 0.0) - fall * du)
        relu = (node.lower == 0.0 and node.upper == np.inf) & (dl <= 0.0) & (du >= 0.0)
        g14, g16 = _rising(dl, au), _rising(-du, vu)
        g15, g17 = _falling(du, al), _falling(-dl, vl)
        rows = (
            (0.0, 0.0, 1.0, 0.0, -np.clip(al, node.lower, node.upper), True),
            (-1.0, 0.0, 1.0, 0.0, 0.0, au <= node.upper),
            (1.0, 0.0, 0.0, 0.0, -al, True),
            (-1.0, 0.0, 0.0, 0.0, au, True),
            (1.0, 1.0, 0.0, 0.0, -vl, True),
            (-1.0, -1.0, 0.0, 0.0, vu, True),
            (0.0, 0.0, 1.0, 1.0, -q.lower, True),
            (0.0, 0.0, -1.0, -1.0, q.upper, True),
            (-1.0, -1.0, 1.0, 1.0, -low, vu <= top),
            (1.0, 1.0, -1.0, -1.0, high, vl >= bottom),
            (q.slope, q.slope, -1.0, -1.0, q.centre + q.noise, True),
            (-q.slope, -q.slope, 1.0, 1.0, q.noise - q.centre, True),
            (0.0, rise, 0.0, -1.0, above + q.cut_upper, True),
            (0.0, -fall, 0.0, 1.0, -below - q.cut_lower, True),
            (g14, 1.0, 0.0, -1.0, -dl + q.cut_upper, relu & (au > 0.0) & (g14 >= -1.0)),
            (g15, 0.0, 0.0, -1.0, du + q.cut_upper, relu & (al < 0.0) & (-al >= du)),
            # −r <= −d + d_u + g·v, and v = a + d.
            (g16, g16 - 1.0, 0.0, 1.0, du - q.cut_lower, relu & (vu > 0.0) & (g16 >= -1.0)),
            (g17, g17, 0.0, 1.0, -dl - q.cut_lower, relu & (vl < 0.0) & (-vl >= -dl)),
        )
        shape = (KINDS, *al.shape)
        along_a, along_d, along_h, along_delta, constant = columns = [np.empty(shape) for _ in range(5)]
        valid = np.empty(shape, dtype=np.bool_)
        for kind, row in enumerate(rows):
            for column, entry in zip(columns, row[:5], strict=True):
                column[kind] = entry
            valid[kind] = row[5]
        # Each constant is a sum of at most four of these sizes, each a few roundings old; g·d is rounded once more.
        size = sum(
            np.abs(end) for end in (al, au, dl, du, vl, vu, q.lower, q.upper, q.cut_lower, q.cut_upper)
        )
        size = size + np.abs(q.centre) + q.noise
        finite = np.isfinite(constant)
        constant = np.where(finite, constant, 0.0) + 4 * ROUNDED * size + TINY
        return cls(layer, along_a, along_d, along_h, along_delta, constant, valid & finite)


def _rising(change: Float64Array, end: Float64Array) -> Float64Array:
    """Return ``change/end`` rounded up, at most 0."""
    return np.minimum(np.nextafter(change / np.where(end > 0.0, end, 1.0), np.inf), 0.0)


def _falling(change: Float64Array, end: Float64Array) -> Float64Array:
    """Return ``change/−end`` rounded down, at least 0."""
    return np.maximum(np.nextafter(change / np.where(end < 0.0, -end, 1.0), -np.inf), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Multipliers:
    """Multipliers of facts in a batch of leaves, one entry each.

    Parameters
    ----------
    leaf : int64, shape (entries,)
    fact : int64, shape (entries,)
        Facts are numbered activation by activation, in each of them kind by kind, in each of these by neurons.
    weight : float64, shape (entries,)
        At least 0; what is not counts as 0.
    """

    leaf: Int64Array
    fact: Int64Array
    weight: Float64Array


def objective_form(problem: Problem, trace: Trace, objective: int) -> Form:
    """Return the form of ``f_q − f`` of an output, or of ``f − f_q``, by its number in the claim."""
    chosen = problem.outputs
    row = slice(int(chosen[objective % len(chosen)]), int(chosen[objective % len(chosen)]) + 1)
    sign = 1.0 if objective < len(chosen) else -1.0
    form = trace.difference
    return Form(sign * form.shared[row], sign * form.own[row], form.error[row])


def dual_upper(trace: Trace, objective: Form, multipliers: Multipliers) -> Float64Array:
    """Return upper bounds on an objective over leaves that multipliers of facts give, shape (leaves,).

    Parameters
    ----------
    objective : Form
        Of one neuron.

    *Soundness:* with n entries each coefficient of the sum has at most 4n + 1 terms of three roundings, so it is off
    by at most ``γ_{4n+8}`` of the sum of their sizes, and the sum over the K columns by ``γ_K``.  ``5·terms·u`` with
    ``4n + K + 16`` terms, far below 1/u, is several times both.  Errors of forms are added as they are.
    """
    leaves = objective.error.shape[1]
    shared = padded(objective.shared, trace.symbols.shared)[0].copy()
    own = padded(objective.own, trace.symbols.own)[0].copy()
    error, size = objective.error[0].copy(), np.abs(shared).sum(axis=1) + np.abs(own).sum(axis=1)
    count = np.bincount(multipliers.leaf, minlength=leaves)
    weight = np.where(multipliers.weight > 0.0, multipliers.weight, 0.0)
    start = 0
    for layer in trace.layers:
        neurons = layer.node.size
        here = np.flatnonzero((multipliers.fact >= start) & (multipliers.fact < start + KINDS * neurons))
        kind, neuron = np.divmod(multipliers.fact[here] - start, neurons)
        start += KINDS * neurons
        if not len(here):
            continue
        leaf, facts = multipliers.leaf[here], Facts.of(layer)
        at = kind, neuron, leaf
        y = np.where(facts.valid[at], weight[here], 0.0)
        constant = y * facts.constant[at]
        np.add.at(shared[:, 0], leaf, constant)
        np.add.at(size, leaf, np.abs(constant))
        for along, form in (
            (facts.along_a, layer.a),
            (facts.along_d, layer.d),
            (facts.along_h, layer.h),
            (facts.along_delta, layer.delta),
        ):
            factor = y * along[at]
            for total, part in ((shared, form.shared), (own, form.own)):
                if part.shape[2]:
                    rows = factor[:, None] * part[neuron, leaf]
                    np.add.at(total[:, : part.shape[2]], leaf, rows)
                    np.add.at(size, leaf, np.abs(rows).sum(axis=1))
            np.add.at(error, leaf, np.abs(factor) * form.error[neuron, leaf])
    spread = np.abs(shared[:, 1:]).sum(axis=1) + np.abs(own).sum(axis=1)
    terms = 4.0 * count + (shared.shape[1] + own.shape[1] + 16)
    upper = (
        shared[:, 0] + spread + (error + 5 * terms * UNIT_ROUNDOFF * (size + error)) * (1 + ROUNDED) + TINY
    )
    return np.where(trace.empty, -np.inf, np.nextafter(upper, np.inf))
