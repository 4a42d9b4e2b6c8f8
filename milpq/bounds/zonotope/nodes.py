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
from milpq._compiled import compiled
from milpq.bounds.zonotope.forms import (
    ACTIVE,
    CENTRE_D,
    CENTRE_H,
    FALLS,
    FREE,
    RISES,
    SIZE_D,
    SIZE_H,
    SLACK_D,
    SLACK_H,
    Forms,
    add_affine,
    clear,
    generators,
    ranges,
    share,
    unit,
)
from milpq.bounds.zonotope.pack import Packed
from milpq.bounds.zonotope.phases import activate, activate_curve, clip, residue
from milpq.bounds.zonotope.smooth import value as curve_value
from milpq.network.curves import CURVE_ERROR

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
    inputs = len(lower)
    # A constant would be a type of its own to the compiler, and what it is passed to compiled twice.
    value = rows = np.int64(0)
    h, d = generators(net, forms.h, value), generators(net, forms.d, value)
    form = forms.form
    for i in range(inputs):
        low, high = lower[i], upper[i]
        centre = 0.5 * low + 0.5 * high
        radius = max(high - centre, centre - low)
        if radius > 0.0:
            radius = radius * (1.0 + 4 * _U)
        factor = slope[i]
        middle = 0.5 * rest_lower[i] + 0.5 * rest_upper[i]
        half = max(rest_upper[i] - middle, middle - rest_lower[i])
        form[CENTRE_H, i], form[SLACK_H, i] = centre, 0.0
        form[CENTRE_D, i] = factor * centre + middle
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
        form[SLACK_D, i] = slack
    state = forms.states[value]
    state.used = state.before = rows
    state.facts = 0
    return ranges(net, forms, value)


@compiled
def affine(net: Packed, forms: Forms, node: int) -> bool:
    """Set the forms of an affine node; tell whether they are finite."""
    value = node + 1
    first, size = net.values[value].first, net.values[value].width
    h, d = generators(net, forms.h, value), generators(net, forms.d, value)
    form, states = forms.form, forms.states
    count = width = 0
    first_term, end = net.nodes[node].terms, net.nodes[value].terms
    for t in range(first_term, end):
        source = net.terms[t].source
        count = max(count, states[source].used)
        width += net.values[source].width
    for row in range(count):
        clear(h, d, row, size)
    error = (2 * width + count + 32) * _U
    error = error / (1.0 - error)
    for o in range(size):
        neuron = net.neurons[first + o]
        form[CENTRE_H, first + o], form[CENTRE_D, first + o] = neuron.float_bias, neuron.difference_bias
        form[SLACK_H, first + o] = error * abs(neuron.float_bias)
        form[SLACK_D, first + o] = error * abs(neuron.difference_bias) + neuron.difference_bias_error
    for t in range(first_term, end):
        source, offset = net.terms[t].source, net.terms[t].weights
        start, wide = net.values[source].first, net.values[source].width
        cells = wide * size
        weights = net.weights[offset : offset + cells].reshape(wide, size)
        quantized = net.weights[offset + cells : offset + 2 * cells].reshape(wide, size)
        changes = net.weights[offset + 2 * cells : offset + 3 * cells].reshape(wide, size)
        source_h, source_d = generators(net, forms.h, source), generators(net, forms.d, source)
        add_affine(source_h, source_d, states[source].used, forms.only_d, weights, quantized, changes, h, d)
        for j in range(wide):
            k = start + j
            a, b = form[CENTRE_H, k], form[CENTRE_D, k]
            loose_h = form[SLACK_H, k] + error * form[SIZE_H, k]
            loose_d = form[SLACK_D, k] + error * form[SIZE_D, k]
            for o in range(size):
                form[CENTRE_H, first + o] += a * weights[j, o]
                form[SLACK_H, first + o] += loose_h * abs(weights[j, o])
            for o in range(size):
                form[CENTRE_D, first + o] += a * changes[j, o] + b * quantized[j, o]
                form[SLACK_D, first + o] += loose_h * abs(changes[j, o]) + loose_d * abs(quantized[j, o])
    for o in range(first, first + size):
        form[SLACK_H, o] = form[SLACK_H, o] * (1.0 + 2 * error) + _TINY
        form[SLACK_D, o] = form[SLACK_D, o] * (1.0 + 2 * error) + _TINY
    states[value].used = count
    states[value].before = states[node].before
    states[value].facts = states[node].facts
    return ranges(net, forms, value)


@compiled
def activation(net: Packed, forms: Forms, node: int) -> bool:
    """Set the forms of a pair of activations; their bounds too where wanted, and tell whether they are finite."""
    packed = net.nodes[node]
    value, source = node + 1, packed.source
    first, size, start = net.values[value].first, net.values[value].width, net.values[source].first
    before_h, before_d = generators(net, forms.h, source), generators(net, forms.d, source)
    h, d = generators(net, forms.h, value), generators(net, forms.d, value)
    form, bounds, only_d, owner = forms.form, forms.bounds, forms.only_d, forms.owner
    count, rows, facts = forms.states[source].used, forms.states[node].before, forms.states[node].facts
    images, factors = np.empty((2, size)), np.empty((3, size))
    lift = 1.0 + 16 * _U
    lower, upper = packed.lower, packed.upper
    stepped, band = packed.has_step == 1, (0.0, 0.0, 0.0, 0.0)
    curve = packed.centre, packed.amplitude, packed.rate
    smooth = packed.rate > 0.0
    steps, kinds, powers = packed.steps, packed.kinds, packed.powers
    cells = powers * kinds * (steps + 1)
    largest = net.largest[packed.extremes : packed.extremes + cells].reshape(powers, kinds, steps + 1)
    smallest = net.smallest[packed.extremes : packed.extremes + cells].reshape(powers, kinds, steps + 1)
    # Symbols made between the source and here by other branches of the graph do not occur in this value.
    for row in range(count, rows):
        clear(h, d, row, size)
    for o in range(size):
        j, k = start + o, first + o
        v_lower, v_upper = lower, upper
        phase = forms.decided[k]
        if stepped:
            neuron = net.neurons[k]
            bottom, top = neuron.saturation_lower, neuron.saturation_upper
            if not smooth:
                v_lower, v_upper = clip(lower, bottom, top), clip(upper, bottom, top)
            at, kind = packed.thresholds + neuron.row * steps, neuron.kind
            level = packed.levels + neuron.row * (steps + 1)
            band = residue(
                net.thresholds[at : at + steps], net.levels[level : level + steps + 1],
                largest[:, kind], smallest[:, kind], neuron.scale_in, neuron.scale_out,
                lower, upper, bottom, top, curve, bounds[2, j], bounds[3, j],
            )  # fmt: skip
        if smooth:
            s, m, r, p, q, w, dm, dr, image_low, image_high, pad = activate_curve(
                curve, stepped, band,
                bounds[0, j], bounds[1, j], bounds[2, j], bounds[3, j], bounds[4, j], bounds[5, j],
            )  # fmt: skip
        else:
            s, m, r, p, q, w, dm, dr, image_low, image_high, pad = activate(
                lower, upper, v_lower, v_upper, stepped, band,
                bounds[0, j], bounds[1, j], bounds[2, j], bounds[3, j], bounds[4, j], bounds[5, j],
            )  # fmt: skip
        if phase != FREE:
            # Where the phases are as decided both ReLUs are affine.
            s, m, r, p, q, w, dm, dr = 0.0, lower, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            if phase == ACTIVE:
                s, m, p = 1.0, 0.0, 1.0
            elif phase == FALLS:
                s, m, q, dm = 1.0, 0.0, -1.0, lower
            elif phase == RISES:
                p, q, dm = 1.0, 1.0, -lower
            facts = _decide(forms, facts, j, phase, lower, before_h[:, o], before_d[:, o], count)
        images[0, o], images[1, o] = image_low - pad, image_high + pad
        form[CENTRE_H, k] = s * form[CENTRE_H, j] + m
        form[CENTRE_D, k] = p * form[CENTRE_D, j] + q * form[CENTRE_H, j] + w * form[CENTRE_H, k] + dm
        size_h = s * form[SIZE_H, j] + abs(m) + r
        slack_h = (s * form[SLACK_H, j] + pad + 8 * _U * size_h) * (1.0 + 8 * _U) + _TINY
        size_d = abs(p) * form[SIZE_D, j] + abs(q) * form[SIZE_H, j] + abs(w) * size_h + abs(dm) + dr
        slack_d = abs(p) * form[SLACK_D, j] + abs(q) * form[SLACK_H, j] + abs(w) * slack_h + pad
        slack_d = (slack_d + 8 * _U * size_d) * (1.0 + 8 * _U) + _TINY
        form[SIZE_H, k], form[SIZE_D, k] = (size_h + slack_h) * lift, (size_d + slack_d) * lift
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
        form[SLACK_H, k], form[SLACK_D, k] = slack_h, slack_d
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
    state = forms.states[value]
    state.used = state.before = rows
    state.facts = facts
    if state.ranged == 0:
        return True
    finite = ranges(net, forms, value)
    # The interval images are often tighter than the forms, which leave the range of a clamp.
    for o in range(size):
        j, k = start + o, first + o
        low, high = bounds[0, j], bounds[1, j]
        if smooth:
            # A value and its sum with the centre err by twice `CURVE_ERROR`.
            low, high = curve_value(curve, low) - 2 * CURVE_ERROR, curve_value(curve, high) + 2 * CURVE_ERROR
        else:
            low, high = clip(low, lower, upper), clip(high, lower, upper)
        bounds[0, k], bounds[1, k] = max(bounds[0, k], low), min(bounds[1, k], high)
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
    form, fact = forms.form, forms.fact
    a, b = form[CENTRE_H, j] - kink, form[CENTRE_D, j]
    pad = 8 * _U * (form[SIZE_H, j] + form[SIZE_D, j] + abs(kink)) + _TINY
    for r in range(fact.shape[1]):
        fact[facts, r] = fact[facts + 1, r] = 0.0
    fact[facts, 0] = a_sign * a + form[SLACK_H, j] + pad
    fact[facts + 1, 0] = v_sign * (a + b) + form[SLACK_H, j] + form[SLACK_D, j] + pad
    for r in range(count):
        x = 0.0 if forms.only_d[r] else h[r]
        fact[facts, 1 + r] = a_sign * x
        fact[facts + 1, 1 + r] = v_sign * (x + d[r])
    return facts + 2
