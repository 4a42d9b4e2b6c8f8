"""The forward sweep of a differential zonotope through a merged network, one cube at a time.

Every merged value is enclosed by two affine forms over shared noise symbols ``ε`` in [−1, 1]:

    ``h ∈ c + Σ_r G[r]·ε_r ± slack``   and   ``δ ∈ c' + Σ_r G'[r]·ε_r ± slack'``

with ``v = h + δ`` read off their sum.  Affine nodes map centres and generators; each activation that its range
does not settle adds one symbol to ``h`` and one to ``δ``.  The sweep is compiled: it skips what is zero (dead
neurons, symbols younger than a value, symbols of ``δ`` in ``h``), which batched dense products cannot.
"""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq._compiled import compiled, entry
from milpq.bounds.zonotope.dive import DEPTH, improve, propagate
from milpq.bounds.zonotope.forms import STATE, Forms, generators
from milpq.bounds.zonotope.nodes import enter
from milpq.bounds.zonotope.pack import Packed


@entry
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
    float_side: Float64Array,
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
        Bounds above these are improved where that looks cheap.
    objectives : float64, shape (cubes, 2·chosen)
        Set to upper bounds on ``f_q − f``, then on ``f − f_q``.
    float_side : float64, shape (cubes, 2·chosen)
        Set to lower bounds on ``f``, then to upper ones.
    score : float64, shape (cubes, inputs) or (cubes, 0)
        Set to how much of the looseness of the objective farthest above its threshold each input causes.
    towards : float64, shape (cubes, inputs)
        Set to the corner of the cube that this objective's affine form points to.
    every : float64, shape (cubes, 6, neurons) or (0, 6, neurons)
        Set to lower and upper bounds on ``a``, ``v`` and ``d`` of every neuron.
    """
    forms = _room(net, score.shape[1])
    neurons = len(net.neurons)
    if len(every) > 0:
        for value in range(len(forms.states)):
            forms.states[value].ranged = 1
    multiplier = np.zeros(2 * DEPTH)
    chosen, begin = len(outputs), np.int64(0)
    first = net.values[net.output].first
    parts = settled = 0
    for cube in range(len(lower)):
        finite = enter(net, forms, lower[cube], upper[cube], slope[cube], rest_lower[cube], rest_upper[cube])
        finite = finite and propagate(net, forms, begin)
        if finite:
            for c in range(chosen):
                objectives[cube, c] = forms.bounds[5, first + outputs[c]]
                objectives[cube, chosen + c] = -forms.bounds[4, first + outputs[c]]
                float_side[cube, c] = forms.bounds[0, first + outputs[c]]
                float_side[cube, chosen + c] = forms.bounds[1, first + outputs[c]]
            _advise(
                net,
                forms,
                lower[cube],
                upper[cube],
                outputs,
                threshold,
                objectives[cube],
                score[cube],
                towards[cube],
            )
        else:
            for c in range(2 * chosen):
                objectives[cube, c] = np.inf
                float_side[cube, c] = -np.inf if c < chosen else np.inf
            for i in range(score.shape[1]):
                score[cube, i] = 0.0
            for i in range(lower.shape[1]):
                towards[cube, i] = lower[cube, i]
        for i in range(6 if len(every) > 0 else 0):
            for k in range(neurons):
                every[cube, i, k] = forms.bounds[i, k] if finite else np.inf * (2 * (i % 2) - 1)
        fresh = True
        for c in range(2 * chosen if finite else 0):
            # Parts are worth their time where most dives settle their cube.
            if objectives[cube, c] > threshold[c] and net.has_phases == 1 and parts <= 40 + 10 * settled:
                if not fresh and not propagate(net, forms, begin):
                    break
                sign = 1.0 if c < chosen else -1.0
                objectives[cube, c], more = improve(
                    net, forms, outputs[c % chosen], sign, objectives[cube, c], threshold[c], multiplier
                )
                fresh = more == 0
                parts += more
                if objectives[cube, c] <= threshold[c]:
                    settled += 1


@compiled
def _room(net: Packed, shared: int) -> Forms:
    """Return room for the forms of one cube."""
    end = net.values[len(net.values) - 1]
    neurons, most = end.first, net.values[len(net.values) - 2].rows
    forms = Forms(
        np.empty(end.cells),
        np.empty(end.cells),
        np.zeros((6, neurons)),
        np.zeros((6, neurons)),
        np.zeros(len(net.nodes), STATE),
        np.zeros(most, np.bool_),
        np.zeros(most, np.int64),
        np.zeros((most, shared)),
        np.zeros(neurons, np.int64),
        np.zeros((2 * DEPTH, 1 + most)),
    )
    for value in range(len(net.nodes)):
        forms.states[value].ranged = net.values[value].ranged
    return forms


@compiled
def _advise(
    net: Packed,
    forms: Forms,
    lower: Float64Array,
    upper: Float64Array,
    outputs: Int64Array,
    threshold: Float64Array,
    objectives: Float64Array,
    score: Float64Array,
    towards: Float64Array,
) -> None:
    """Say where one cube's worst objective is likely large, and which inputs its looseness comes from."""
    chosen = len(outputs)
    worst = 0
    for c in range(1, 2 * chosen):
        if objectives[c] - threshold[c] > objectives[worst] - threshold[worst]:
            worst = c
    o = outputs[worst % chosen]
    sign = 1.0 if worst < chosen else -1.0
    d = generators(net, forms.d, net.output)
    row, known = 0, forms.states[0].used
    for i in range(len(lower)):
        towards[i] = 0.5 * lower[i] + 0.5 * upper[i]
        if row < known and upper[i] > lower[i]:
            towards[i] = upper[i] if sign * d[row, o] > 0.0 else lower[i]
            row += 1
        if row < known and forms.only_d[row]:
            row += 1
    for i in range(len(score)):
        score[i] = 0.0
    for r in range(forms.states[net.output].used if len(score) > 0 else 0):
        # The symbols of the inputs themselves are no looseness, but part of the affine form.
        if r >= known or forms.only_d[r]:
            size = abs(d[r, o])
            for i in range(len(score)):
                score[i] += size * forms.shares[r, i]
