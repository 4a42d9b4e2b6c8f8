"""The affine forms of one value from those before it: inputs, affine nodes, activations.

*Soundness:* the stored coefficients are taken as exact, and what their computation rounds away goes to the
slacks: a dot product of N terms errs by at most ``γ_N Σ|x||w|`` (Higham, Lemma 3.1), so with ``m_j`` bounding
``|c_j| + Σ_r|G[r,j]| + slack_j`` the slack of an affine image is ``Σ_j |w_j|(slack_j + γ m_j)``.
"""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.zonotope._compiled import compiled
from milpq.bounds.zonotope.forms import (
    ACTIVE,
    FALLS,
    FREE,
    RISES,
    Forms,
    add_affine,
    clear,
    generators,
    ranges,
    share,
    unit,
)
from milpq.bounds.zonotope.pack import Packed
from milpq.bounds.zonotope.phases import activate, clip, residue

_U = 2.0**-53
_TINY = 1e-300
_SPECK = 1e-13
"""Noise this small, relative to the form, is not worth a symbol of its own and joins the slack."""


@compiled
def enter(
    net: Packed,
    forms: Forms,
    lower: Float64Array,
    upper: Float64Array,
    slope: Float64Array,
    rest_lower: Float64Array,
    rest_upper: Float64Array,
) -> bool:
    """Set the forms of the input; arrays of shape (inputs,).  Tell whether they are finite."""
    inputs, rows = len(lower), 0
    h, d = generators(net, forms.h, 0), generators(net, forms.d, 0)
    for i in range(inputs):
        low, high = lower[i], upper[i]
        centre = 0.5 * low + 0.5 * high
        radius = max(high - centre, centre - low)
        if radius > 0.0:
            radius = radius * (1.0 + 4 * _U)
        factor = slope[i]
        middle = 0.5 * rest_lower[i] + 0.5 * rest_upper[i]
        half = max(rest_upper[i] - middle, middle - rest_lower[i])
        forms.centre_h[i], forms.slack_h[i] = centre, 0.0
        forms.centre_d[i] = factor * centre + middle
        slack = 8 * _U * (abs(factor) * (abs(centre) + radius) + abs(middle) + half) + _TINY
        if radius > 0.0:
            clear(h, d, rows, inputs)
            h[rows, i], d[rows, i] = radius, factor * radius
            forms.only_d[rows], forms.owner[rows] = False, -1
            unit(forms.shares, rows, i)
            rows += 1
        if half > _SPECK * (abs(centre) + radius):
            clear(h, d, rows, inputs)
            d[rows, i] = half
            forms.only_d[rows], forms.owner[rows] = True, -1
            unit(forms.shares, rows, i)
            rows += 1
        else:
            slack += half
        forms.slack_d[i] = slack
    forms.used[0] = forms.before[0] = rows
    forms.fact_first[0] = 0
    return ranges(net, forms, 0)


@compiled
def affine(net: Packed, forms: Forms, node: int) -> bool:
    """Set the forms of an affine node; tell whether they are finite."""
    value = node + 1
    first, size = net.first[value], net.sizes[value]
    h, d = generators(net, forms.h, value), generators(net, forms.d, value)
    count = width = 0
    for t in range(net.term_first[node], net.term_first[node + 1]):
        count = max(count, forms.used[net.term_source[t]])
        width += net.sizes[net.term_source[t]]
    h[:count] = 0.0
    d[:count] = 0.0
    error = (2 * width + count + 32) * _U
    error = error / (1.0 - error)
    centre_h, centre_d = forms.centre_h[first : first + size], forms.centre_d[first : first + size]
    slack_h, slack_d = forms.slack_h[first : first + size], forms.slack_d[first : first + size]
    for o in range(size):
        bias, change = net.float_bias[first + o], net.difference_bias[first + o]
        centre_h[o], centre_d[o] = bias, change
        slack_h[o] = error * abs(bias)
        slack_d[o] = error * abs(change) + net.difference_bias_error[first + o]
    for t in range(net.term_first[node], net.term_first[node + 1]):
        source = net.term_source[t]
        start, wide = net.first[source], net.sizes[source]
        offset, cells = net.term_offset[t], wide * size
        weights = net.weights[offset : offset + cells].reshape(wide, size)
        quantized = net.weights[offset + cells : offset + 2 * cells].reshape(wide, size)
        changes = net.weights[offset + 2 * cells : offset + 3 * cells].reshape(wide, size)
        source_h, source_d = generators(net, forms.h, source), generators(net, forms.d, source)
        add_affine(source_h, source_d, forms.used[source], forms.only_d, weights, quantized, changes, h, d)
        for j in range(start, start + wide):
            a, b = forms.centre_h[j], forms.centre_d[j]
            loose_h = forms.slack_h[j] + error * forms.size_h[j]
            loose_d = forms.slack_d[j] + error * forms.size_d[j]
            row = j - start
            for o in range(size):
                centre_h[o] += a * weights[row, o]
                slack_h[o] += loose_h * abs(weights[row, o])
            for o in range(size):
                centre_d[o] += a * changes[row, o] + b * quantized[row, o]
                slack_d[o] += loose_h * abs(changes[row, o]) + loose_d * abs(quantized[row, o])
    for o in range(size):
        slack_h[o] = slack_h[o] * (1.0 + 2 * error) + _TINY
        slack_d[o] = slack_d[o] * (1.0 + 2 * error) + _TINY
    forms.used[value] = count
    forms.before[node + 1] = forms.before[node]
    forms.fact_first[node + 1] = forms.fact_first[node]
    return ranges(net, forms, value)


@compiled
def activation(net: Packed, forms: Forms, node: int, ranged: bool) -> bool:
    """Set the forms of a pair of activations; their bounds too where `ranged`, and tell whether they are finite."""
    value, source = node + 1, net.source[node]
    first, size, start = net.first[value], net.sizes[value], net.first[source]
    before_h, before_d = generators(net, forms.h, source), generators(net, forms.d, source)
    h, d = generators(net, forms.h, value), generators(net, forms.d, value)
    bounds, only_d, owner = forms.bounds, forms.only_d, forms.owner
    count, rows = forms.used[source], forms.before[node]
    facts = forms.fact_first[node]
    images, factors = np.empty((2, size)), np.empty((3, size))
    lift = 1.0 + 16 * _U
    lower, upper = net.clamp[node, 0], net.clamp[node, 1]
    stepped, band = net.has_step[node] == 1, (0.0, 0.0, 0.0, 0.0)
    steps = net.step_count[node]
    thresholds = net.thresholds[net.step_first[node] : net.step_first[node + 1]].reshape(
        net.step_rows[node], steps
    )
    levels = net.levels[net.level_first[node] : net.level_first[node + 1]].reshape(
        net.step_rows[node], steps + 1
    )
    shape = net.powers[node], net.kinds[node], steps + 1
    largest = net.largest[net.table_first[node] : net.table_first[node + 1]].reshape(shape)
    smallest = net.smallest[net.table_first[node] : net.table_first[node + 1]].reshape(shape)
    # Symbols made between the source and here by other branches of the graph do not occur in this value.
    h[count:rows] = 0.0
    d[count:rows] = 0.0
    for o in range(size):
        j, k = start + o, first + o
        v_lower, v_upper = lower, upper
        phase = forms.decided[k]
        if stepped:
            bottom, top = net.saturation_lower[k], net.saturation_upper[k]
            v_lower, v_upper = clip(lower, bottom, top), clip(upper, bottom, top)
            band = residue(
                thresholds[net.row[k]], levels[net.row[k]], largest[:, net.kind[k]], smallest[:, net.kind[k]],
                net.scale_in[k], net.scale_out[k], lower, upper, bottom, top, bounds[2, j], bounds[3, j],
            )  # fmt: skip
        s, m, r, p, q, w, dm, dr, image_low, image_high, pad = activate(
            lower, upper, v_lower, v_upper, stepped, band,
            bounds[0, j], bounds[1, j], bounds[2, j], bounds[3, j], bounds[4, j], bounds[5, j],
        )  # fmt: skip
        if phase != FREE:
            # Where the phases are as decided both ReLUs are affine.
            s, m, r, p, q, w, dm, dr = 0.0, lower, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            if phase in (ACTIVE, FALLS):
                s, m = 1.0, 0.0
            if phase == ACTIVE:
                p = 1.0
            elif phase == FALLS:
                q, dm = -1.0, lower
            elif phase == RISES:
                p, q, dm = 1.0, 1.0, -lower
            facts = _decide(forms, facts, j, phase, lower, before_h[:, o], before_d[:, o], count)
        images[0, o], images[1, o] = image_low - pad, image_high + pad
        forms.centre_h[k] = s * forms.centre_h[j] + m
        forms.centre_d[k] = p * forms.centre_d[j] + q * forms.centre_h[j] + w * forms.centre_h[k] + dm
        size_h = s * forms.size_h[j] + abs(m) + r
        slack_h = (s * forms.slack_h[j] + pad + 8 * _U * size_h) * (1.0 + 8 * _U) + _TINY
        size_d = abs(p) * forms.size_d[j] + abs(q) * forms.size_h[j] + abs(w) * size_h + abs(dm) + dr
        slack_d = abs(p) * forms.slack_d[j] + abs(q) * forms.slack_h[j] + abs(w) * slack_h + pad
        slack_d = (slack_d + 8 * _U * size_d) * (1.0 + 8 * _U) + _TINY
        forms.size_h[k], forms.size_d[k] = (size_h + slack_h) * lift, (size_d + slack_d) * lift
        factors[0, o], factors[1, o], factors[2, o] = s, p, q + w * s
        speck = _SPECK * (size_h + size_d + pad)
        if r > speck:
            clear(h, d, rows, size)
            h[rows, o], d[rows, o] = r, w * r
            only_d[rows], owner[rows] = False, k
            share(before_h, count, o, only_d, forms.shares, rows)
            rows += 1
        else:
            slack_h += r
            slack_d += abs(w) * r
        if dr > speck:
            clear(h, d, rows, size)
            d[rows, o] = dr
            only_d[rows], owner[rows] = True, k
            share(before_h, count, o, only_d, forms.shares, rows)
            rows += 1
        else:
            slack_d += dr
        forms.slack_h[k], forms.slack_d[k] = slack_h, slack_d
    for row in range(count):
        if only_d[row]:
            for o in range(size):
                h[row, o] = 0.0
                d[row, o] = factors[1, o] * before_d[row, o]
        else:
            for o in range(size):
                x = before_h[row, o]
                h[row, o] = factors[0, o] * x
                d[row, o] = factors[1, o] * before_d[row, o] + factors[2, o] * x
    forms.used[value] = forms.before[node + 1] = rows
    forms.fact_first[node + 1] = facts
    if not ranged:
        return True
    finite = ranges(net, forms, value)
    # The interval images are often tighter than the forms, which leave the range of a clamp.
    for o in range(size):
        j, k = start + o, first + o
        bounds[0, k] = max(bounds[0, k], clip(bounds[0, j], lower, upper))
        bounds[1, k] = min(bounds[1, k], clip(bounds[1, j], lower, upper))
        bounds[2, k] = max(bounds[2, k], images[0, o])
        bounds[3, k] = min(bounds[3, k], images[1, o])
    return finite


@compiled
def _decide(
    forms: Forms, facts: int, j: int, phase: int, kink: float, h: Float64Array, d: Float64Array, count: int
) -> int:
    """Write down the two facts of a decided phase: on which side of the kink ``a`` and ``v`` lie.

    Rounding of a fact's generators is of the size of its neuron's times a few units, added to its centre.
    """
    a_sign = 1.0 if phase in (ACTIVE, FALLS) else -1.0
    v_sign = 1.0 if phase in (ACTIVE, RISES) else -1.0
    a, b = forms.centre_h[j] - kink, forms.centre_d[j]
    pad = 8 * _U * (forms.size_h[j] + forms.size_d[j] + abs(kink)) + _TINY
    fact = forms.fact
    fact[facts] = 0.0
    fact[facts + 1] = 0.0
    fact[facts, 0] = a_sign * a + forms.slack_h[j] + pad
    fact[facts + 1, 0] = v_sign * (a + b) + forms.slack_h[j] + forms.slack_d[j] + pad
    for r in range(count):
        x = 0.0 if forms.only_d[r] else h[r]
        fact[facts, 1 + r] = a_sign * x
        fact[facts + 1, 1 + r] = v_sign * (x + d[r])
    return facts + 2
