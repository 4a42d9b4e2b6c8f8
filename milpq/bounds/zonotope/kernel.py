"""The forward sweep of a differential zonotope through a merged network, one cube at a time.

Every merged value is enclosed by two affine forms over shared noise symbols ``ε`` in [−1, 1]:

    ``h ∈ c + Σ_r G[r]·ε_r ± slack``   and   ``δ ∈ c' + Σ_r G'[r]·ε_r ± slack'``

with ``v = h + δ`` read off their sum.  Affine nodes map centres and generators; each activation that its range
does not settle adds one symbol to ``h`` and one to ``δ``.  The sweep is compiled: it skips what is zero (dead
neurons, symbols younger than a value, symbols of ``δ`` in ``h``), which batched dense products cannot.

*Soundness:* the stored coefficients are taken as exact, and what their computation rounds away goes to the
slacks: a dot product of N terms errs by at most ``γ_N Σ|x||w|`` (Higham, Lemma 3.1), so with ``m_j`` bounding
``|c_j| + Σ_r|G[r,j]| + slack_j`` the slack of an affine image is ``Σ_j |w_j|(slack_j + γ m_j)``.
"""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.zonotope._compiled import compiled
from milpq.bounds.zonotope.forms import add_affine, clear, generators, ranges, share, unit
from milpq.bounds.zonotope.pack import Packed
from milpq.bounds.zonotope.phases import activate, clip, residue

_U = 2.0**-53
_TINY = 1e-300
_SPECK = 1e-13


@compiled
def sweep(
    net: Packed,
    lower: Float64Array,
    upper: Float64Array,
    slope: Float64Array,
    rest_lower: Float64Array,
    rest_upper: Float64Array,
    outputs: Int64Array,
    threshold: Float64Array,
    objectives: Float64Array,
    score: Float64Array,
    towards: Float64Array,
    every: Float64Array,
) -> None:
    """Bound a batch of cubes.

    Parameters
    ----------
    lower, upper : float64, shape (cubes, inputs)
    slope, rest_lower, rest_upper : float64, shape (cubes, inputs)
        The input difference: ``δ − slope·x`` lies in [rest_lower, rest_upper].
    outputs : int64, shape (chosen,)
    threshold : float64, shape (2·chosen,)
    objectives : float64, shape (cubes, 2·chosen)
        Set to upper bounds on ``f_q − f``, then on ``f − f_q``.
    score : float64, shape (cubes, inputs) or (cubes, 0)
        Set to how much of the looseness of the objective farthest above its threshold each input causes.
    towards : float64, shape (cubes, inputs)
        Set to the corner of the cube that this objective's affine form points to.
    every : float64, shape (cubes, 6, neurons) or (0, 6, neurons)
        Set to lower and upper bounds on ``a``, ``v`` and ``d`` of every neuron.
    """
    inputs = lower.shape[1]
    nodes = len(net.is_affine)
    neurons = net.first[nodes + 1]
    most = net.rows[nodes]
    gh_all, gd_all = np.empty(net.cells[nodes + 1]), np.empty(net.cells[nodes + 1])
    only_d = np.zeros(most, np.bool_)
    shares = np.zeros((most, score.shape[1]))
    ch, cd, sh, sd, mh, md = (
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
    )
    bounds = np.zeros((6, neurons))
    used = np.zeros(nodes + 1, np.int64)
    for cube in range(len(lower)):
        rows = 0
        gh, gd = generators(net, gh_all, 0), generators(net, gd_all, 0)
        for i in range(inputs):
            low, high = lower[cube, i], upper[cube, i]
            centre = 0.5 * low + 0.5 * high
            radius = max(high - centre, centre - low)
            if radius > 0.0:
                radius = radius * (1.0 + 4 * _U)
            factor = slope[cube, i]
            middle = 0.5 * rest_lower[cube, i] + 0.5 * rest_upper[cube, i]
            half = max(rest_upper[cube, i] - middle, middle - rest_lower[cube, i])
            ch[i], sh[i] = centre, 0.0
            cd[i] = factor * centre + middle
            sd[i] = 8 * _U * (abs(factor) * (abs(centre) + radius) + abs(middle) + half) + _TINY
            if radius > 0.0:
                clear(gh, gd, rows, inputs)
                gh[rows, i], gd[rows, i] = radius, factor * radius
                only_d[rows] = False
                unit(shares, rows, i)
                rows += 1
            if half > _SPECK * (abs(centre) + radius):
                clear(gh, gd, rows, inputs)
                gd[rows, i] = half
                only_d[rows] = True
                unit(shares, rows, i)
                rows += 1
            else:
                sd[i] += half
            mh[i] = (abs(centre) + radius) * (1.0 + 4 * _U)
            md[i] = (abs(cd[i]) + abs(factor) * radius + half + sd[i]) * (1.0 + 8 * _U)
        used[0] = rows
        finite = ranges(gh, gd, rows, only_d, inputs, 0, ch, cd, sh, sd, mh, md, bounds)
        for node in range(nodes):
            if not finite:
                break
            value = node + 1
            first, size = net.first[value], net.sizes[value]
            gh, gd = generators(net, gh_all, value), generators(net, gd_all, value)
            if net.is_affine[node] == 1:
                count = 0
                width = 0
                for t in range(net.term_first[node], net.term_first[node + 1]):
                    count = max(count, used[net.term_source[t]])
                    width += net.sizes[net.term_source[t]]
                gh[:count] = 0.0
                gd[:count] = 0.0
                error = (2 * width + count + 32) * _U
                error = error / (1.0 - error)
                for o in range(first, first + size):
                    bias, change = net.float_bias[o], net.difference_bias[o]
                    ch[o], cd[o] = bias, change
                    sh[o] = error * abs(bias)
                    sd[o] = error * abs(change) + net.difference_bias_error[o]
                for t in range(net.term_first[node], net.term_first[node + 1]):
                    source = net.term_source[t]
                    start, wide = net.first[source], net.sizes[source]
                    offset, cells = net.term_offset[t], wide * size
                    weights = net.weights[offset : offset + cells].reshape(wide, size)
                    quantized = net.weights[offset + cells : offset + 2 * cells].reshape(wide, size)
                    change_ = net.weights[offset + 2 * cells : offset + 3 * cells].reshape(wide, size)
                    add_affine(
                        generators(net, gh_all, source),
                        generators(net, gd_all, source),
                        used[source],
                        only_d,
                        weights,
                        quantized,
                        change_,
                        gh,
                        gd,
                    )
                    for j in range(wide):
                        h, d = ch[start + j], cd[start + j]
                        loose_h = sh[start + j] + error * mh[start + j]
                        loose_d = sd[start + j] + error * md[start + j]
                        for o in range(size):
                            ch[first + o] += h * weights[j, o]
                            sh[first + o] += loose_h * abs(weights[j, o])
                        for o in range(size):
                            cd[first + o] += h * change_[j, o] + d * quantized[j, o]
                            sd[first + o] += loose_h * abs(change_[j, o]) + loose_d * abs(quantized[j, o])
                for o in range(first, first + size):
                    sh[o] = sh[o] * (1.0 + 2 * error) + _TINY
                    sd[o] = sd[o] * (1.0 + 2 * error) + _TINY
                used[value] = count
                finite = ranges(gh, gd, count, only_d, size, first, ch, cd, sh, sd, mh, md, bounds)
            else:
                rows = _activation(
                    net, node, gh_all, gd_all, used, rows, only_d, shares, ch, cd, sh, sd, mh, md, bounds,
                    len(every) > 0 or net.ranged[value] == 1,
                )  # fmt: skip
        if not finite:
            objectives[cube] = np.inf
            score[cube] = 0.0
            towards[cube] = lower[cube]
            bounds[0::2] = -np.inf
            bounds[1::2] = np.inf
            if len(every) > 0:
                every[cube] = bounds
            continue
        _conclude(
            net, gd_all, used, only_d, shares, bounds, cube, lower, upper, outputs, threshold,
            objectives, score, towards,
        )  # fmt: skip
        if len(every) > 0:
            every[cube] = bounds


@compiled
def _activation(
    net: Packed,
    node: int,
    gh_all: Float64Array,
    gd_all: Float64Array,
    used: Int64Array,
    rows: int,
    only_d: BoolArray,
    shares: Float64Array,
    ch: Float64Array,
    cd: Float64Array,
    sh: Float64Array,
    sd: Float64Array,
    mh: Float64Array,
    md: Float64Array,
    bounds: Float64Array,
    ranged: bool,
) -> int:
    """Enclose a pair of activations; return the number of symbols in use after it.

    `ranged` asks for the bounds of the result too.
    """
    value, source = node + 1, net.source[node]
    first, size, start = net.first[value], net.sizes[value], net.first[source]
    ah, ad = generators(net, gh_all, source), generators(net, gd_all, source)
    gh, gd = generators(net, gh_all, value), generators(net, gd_all, value)
    count = used[source]
    images, factors = np.empty((2, size)), np.empty((3, size))
    lift = 1.0 + 16 * _U
    lower, upper = net.clamp[node, 0], net.clamp[node, 1]
    stepped, band = net.has_step[node] == 1, (0.0, 0.0, 0.0, 0.0)
    steps, kinds, powers = net.step_count[node], net.kinds[node], net.powers[node]
    start_, stop = net.step_first[node], net.step_first[node + 1]
    thresholds = net.thresholds[start_:stop].reshape(net.step_rows[node], steps)
    start_, stop = net.level_first[node], net.level_first[node + 1]
    levels = net.levels[start_:stop].reshape(net.step_rows[node], steps + 1)
    start_, stop = net.table_first[node], net.table_first[node + 1]
    largest = net.largest[start_:stop].reshape(powers, kinds, steps + 1)
    smallest = net.smallest[start_:stop].reshape(powers, kinds, steps + 1)
    # Symbols made between the source and here by other branches of the graph do not occur in this value.
    gh[count:rows] = 0.0
    gd[count:rows] = 0.0
    for o in range(size):
        j, k = start + o, first + o
        v_lower, v_upper = lower, upper
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
        images[0, o], images[1, o] = image_low - pad, image_high + pad
        ch[k] = s * ch[j] + m
        cd[k] = p * cd[j] + q * ch[j] + w * ch[k] + dm
        size_h = s * mh[j] + abs(m) + r
        sh[k] = (s * sh[j] + pad + 8 * _U * size_h) * (1.0 + 8 * _U) + _TINY
        size_d = abs(p) * md[j] + abs(q) * mh[j] + abs(w) * size_h + abs(dm) + dr
        sd[k] = abs(p) * sd[j] + abs(q) * sh[j] + abs(w) * sh[k] + pad + 8 * _U * size_d
        sd[k] = sd[k] * (1.0 + 8 * _U) + _TINY
        mh[k], md[k] = (size_h + sh[k]) * lift, (size_d + sd[k]) * lift
        factors[0, o], factors[1, o], factors[2, o] = s, p, q + w * s
        speck = _SPECK * (size_h + size_d + pad)
        if r > speck:
            clear(gh, gd, rows, size)
            gh[rows, o], gd[rows, o] = r, w * r
            only_d[rows] = False
            share(ah, count, o, only_d, shares, rows)
            rows += 1
        else:
            sh[k] += r
            sd[k] += abs(w) * r
        if dr > speck:
            clear(gh, gd, rows, size)
            gd[rows, o] = dr
            only_d[rows] = True
            share(ah, count, o, only_d, shares, rows)
            rows += 1
        else:
            sd[k] += dr
    for row in range(count):
        if only_d[row]:
            for o in range(size):
                gh[row, o] = 0.0
                gd[row, o] = factors[1, o] * ad[row, o]
        else:
            for o in range(size):
                h = ah[row, o]
                gh[row, o] = factors[0, o] * h
                gd[row, o] = factors[1, o] * ad[row, o] + factors[2, o] * h
    used[value] = rows
    if not ranged:
        return rows
    ranges(gh, gd, rows, only_d, size, first, ch, cd, sh, sd, mh, md, bounds)
    # The interval images are often tighter than the forms, which leave the range of a clamp.
    for o in range(size):
        j, k = start + o, first + o
        bounds[0, k] = max(bounds[0, k], clip(bounds[0, j], lower, upper))
        bounds[1, k] = min(bounds[1, k], clip(bounds[1, j], lower, upper))
        bounds[2, k] = max(bounds[2, k], images[0, o])
        bounds[3, k] = min(bounds[3, k], images[1, o])
    return rows


@compiled
def _conclude(
    net: Packed,
    gd_all: Float64Array,
    used: Int64Array,
    only_d: BoolArray,
    shares: Float64Array,
    bounds: Float64Array,
    cube: int,
    lower: Float64Array,
    upper: Float64Array,
    outputs: Int64Array,
    threshold: Float64Array,
    objectives: Float64Array,
    score: Float64Array,
    towards: Float64Array,
) -> None:
    """Write down what is asked of one cube."""
    chosen = len(outputs)
    worst, excess = 0, -np.inf
    for c in range(chosen):
        k = net.first[net.output] + outputs[c]
        objectives[cube, c] = bounds[5, k]
        objectives[cube, chosen + c] = -bounds[4, k]
    for c in range(2 * chosen):
        over = objectives[cube, c] - threshold[c]
        if over > excess:
            worst, excess = c, over
    o = outputs[worst % chosen]
    sign = 1.0 if worst < chosen else -1.0
    gd = generators(net, gd_all, net.output)
    for i in range(lower.shape[1]):
        towards[cube, i] = 0.5 * lower[cube, i] + 0.5 * upper[cube, i]
    for i in range(score.shape[1]):
        score[cube, i] = 0.0
    row = 0
    for i in range(lower.shape[1]):
        if row < used[0] and upper[cube, i] > lower[cube, i]:
            towards[cube, i] = upper[cube, i] if sign * gd[row, o] > 0.0 else lower[cube, i]
            row += 1
        if row < used[0] and only_d[row]:
            row += 1
    if score.shape[1] > 0:
        for r in range(used[net.output]):
            # The symbols of the inputs themselves are no looseness, but part of the affine form.
            if r >= used[0] or only_d[r]:
                size = abs(gd[r, o])
                for i in range(score.shape[1]):
                    score[cube, i] += size * shares[r, i]
