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
from milpq.bounds.zonotope._compiled import compiled, entry
from milpq.bounds.zonotope.dive import DEPTH, improve, propagate
from milpq.bounds.zonotope.forms import Forms, generators
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
    score : float64, shape (cubes, inputs) or (cubes, 0)
        Set to how much of the looseness of the objective farthest above its threshold each input causes.
    towards : float64, shape (cubes, inputs)
        Set to the corner of the cube that this objective's affine form points to.
    every : float64, shape (cubes, 6, neurons) or (0, 6, neurons)
        Set to lower and upper bounds on ``a``, ``v`` and ``d`` of every neuron.
    """
    forms = _room(net, score.shape[1])
    multiplier = np.zeros(2 * DEPTH)
    chosen = len(outputs)
    parts = settled = 0
    for cube in range(len(lower)):
        finite = enter(
            net, forms, lower[cube], upper[cube], slope[cube], rest_lower[cube], rest_upper[cube]
        ) and propagate(net, forms, 0, len(every) > 0)
        if not finite:
            objectives[cube] = np.inf
            score[cube] = 0.0
            towards[cube] = lower[cube]
            forms.bounds[0::2] = -np.inf
            forms.bounds[1::2] = np.inf
            if len(every) > 0:
                every[cube] = forms.bounds
            continue
        if len(every) > 0:
            every[cube] = forms.bounds
        first = net.first[net.output]
        for c in range(chosen):
            k = first + outputs[c]
            objectives[cube, c] = forms.bounds[5, k]
            objectives[cube, chosen + c] = -forms.bounds[4, k]
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
        fresh = True
        for c in range(2 * chosen):
            # Parts are worth their time where most dives settle their cube.
            if objectives[cube, c] > threshold[c] and net.has_phases == 1 and parts <= 40 + 10 * settled:
                if not fresh and not propagate(net, forms, 0, False):
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
    nodes = len(net.is_affine)
    neurons, most = net.first[nodes + 1], net.rows[nodes]
    return Forms(
        np.empty(net.cells[nodes + 1]),
        np.empty(net.cells[nodes + 1]),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros(neurons),
        np.zeros((6, neurons)),
        np.zeros(nodes + 1, np.int64),
        np.zeros(nodes + 1, np.int64),
        np.zeros(most, np.bool_),
        np.zeros(most, np.int64),
        np.zeros((most, shared)),
        np.zeros(neurons, np.int64),
        np.zeros(nodes + 1, np.int64),
        np.zeros((2 * DEPTH, 1 + most)),
    )


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
    worst = np.argmax(objectives - threshold)
    o = outputs[worst % chosen]
    sign = 1.0 if worst < chosen else -1.0
    d = generators(net, forms.d, net.output)
    row = 0
    for i in range(len(lower)):
        towards[i] = 0.5 * lower[i] + 0.5 * upper[i]
        if row < forms.used[0] and upper[i] > lower[i]:
            towards[i] = upper[i] if sign * d[row, o] > 0.0 else lower[i]
            row += 1
        if row < forms.used[0] and forms.only_d[row]:
            row += 1
    for i in range(len(score)):
        score[i] = 0.0
    for r in range(forms.used[net.output] if len(score) > 0 else 0):
        # The symbols of the inputs themselves are no looseness, but part of the affine form.
        if r >= forms.used[0] or forms.only_d[r]:
            size = abs(d[r, o])
            for i in range(len(score)):
                score[i] += size * forms.shares[r, i]
