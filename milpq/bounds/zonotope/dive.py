"""Bounds on one objective of one cube by deciding phases of ReLU pairs, deepest first.

Input splitting converges slowly where the kink of a neuron crosses small cubes: its noise is as large as the
difference there, however small the cube.  Deciding the phases of the few neurons that matter removes it: in
each part both ReLUs are affine, and the linear *facts* that say where the part lies enter the bound with
multipliers (Lagrangian duality), so the parts need no polytopes.
"""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq._compiled import compiled
from milpq.bounds.zonotope.forms import (
    ACTIVE,
    CENTRE_D,
    FALLS,
    FREE,
    RISES,
    SLACK_D,
    Forms,
    generators,
)
from milpq.bounds.zonotope.nodes import activation, affine
from milpq.bounds.zonotope.pack import Packed

_U = 2.0**-53

DEPTH = 10
"""Phases decided along one path at most."""

_PASSES = 3
_PARTS = 6
"""Parts worked on at most, for each phase that has to be decided."""

_PROGRESS = 0.9
"""How much of the excess over the threshold may be left after a decision."""


@compiled
def propagate(net: Packed, forms: Forms, begin: int) -> bool:
    """Set the forms of the nodes from `begin` on; tell whether they are finite."""
    for node in range(begin, len(net.nodes) - 1):
        finite = affine(net, forms, node) if net.nodes[node].is_affine == 1 else activation(net, forms, node)
        if not finite:
            return False
    return True


@compiled
def improve(
    net: Packed, forms: Forms, o: int, sign: float, upper: float, threshold: float, multiplier: Float64Array
) -> tuple[float, int]:
    """Bound ``sign·d`` of an output over the cube whose forms are set; leave the forms of some part.

    Parameters
    ----------
    o : int
        The output.
    upper
        The bound known.
    threshold
        A bound at most this is good enough.
    multiplier : float64, shape (facts,)
        Scratch.

    Returns
    -------
    float
        At most `upper`.
    int
        Parts that were propagated.
    """
    wanted = _phases_needed(net, forms, o, upper, threshold)
    if wanted == 0:
        return upper, 0
    budget, room = _PARTS * wanted, 3 * DEPTH + 4
    neurons, phases = np.zeros((room, DEPTH), np.int64), np.zeros((room, DEPTH), np.int64)
    lengths, known = np.zeros(room, np.int64), np.zeros(room)
    known[0] = upper
    waiting, worst = 1, -np.inf
    current = np.zeros(DEPTH, np.int64)
    depth = 0
    first, parts = True, 0
    while waiting > 0:
        waiting -= 1
        length = lengths[waiting]
        begin = len(net.nodes) - 1
        # Forms before the first node whose decisions change stay as they are.
        for i in range(depth):
            begin = min(begin, net.neurons[current[i]].node)
            forms.decided[current[i]] = FREE
        for i in range(length):
            k = neurons[waiting, i]
            forms.decided[k] = phases[waiting, i]
            current[i] = k
            begin = min(begin, net.neurons[k].node)
        depth = length
        if not first:
            parts += 1
            if not propagate(net, forms, begin):
                worst = upper
                break
        first = False
        bound = min(_value(net, forms, o, sign, multiplier), upper)
        if bound <= max(threshold, worst):
            worst = max(worst, bound) if bound > -np.inf else worst
            continue
        budget -= 1
        # A part that falls too slowly tells that the cube is too large for this: its inputs should be split.
        slow = length > 0 and bound - threshold > _PROGRESS * (known[waiting] - threshold)
        k = _heaviest(net, forms, o) if budget > 0 and length < DEPTH and not slow else -1
        if k < 0 or waiting + 4 > room:
            worst = max(worst, bound)
            for i in range(waiting):
                worst = max(worst, known[i])
            break
        j = _source_of(net, k)
        for phase in range(ACTIVE, RISES + 1):
            # The most common phase last, so that it is worked on first.
            phase = ACTIVE + RISES - phase
            if (phase == RISES and forms.bounds[5, j] <= 0.0) or (
                phase == FALLS and forms.bounds[4, j] >= 0.0
            ):
                continue
            for i in range(length):
                neurons[waiting, i], phases[waiting, i] = current[i], forms.decided[current[i]]
            neurons[waiting, length], phases[waiting, length] = k, phase
            lengths[waiting], known[waiting] = length + 1, bound
            waiting += 1
    for i in range(depth):
        forms.decided[current[i]] = FREE
    return (min(upper, worst) if worst > -np.inf else upper), parts


@compiled
def _source_of(net: Packed, k: int) -> int:
    """Return the neuron that an activated neuron reads."""
    node = net.neurons[k].node
    return k - net.values[node + 1].first + net.values[net.nodes[node].source].first


@compiled
def _weights(net: Packed, forms: Forms, o: int) -> tuple[Int64Array, Float64Array, float]:
    """Return the neurons whose phases can be decided, their noise in an output, and the noise of the rest."""
    rows = forms.states[net.output].used
    d = generators(net, forms.d, net.output)
    neurons, noise = np.zeros(rows, np.int64), np.zeros(rows)
    count, rest = 0, 0.0
    for r in range(forms.states[0].used, rows):
        size = abs(d[r, o])
        k = forms.owner[r]
        if size == 0.0:
            continue
        if not _decidable(net, forms, k):
            rest += size
        elif count > 0 and neurons[count - 1] == k:
            noise[count - 1] += size
        else:
            neurons[count], noise[count] = k, size
            count += 1
    return neurons[:count], noise[:count], rest


@compiled
def _decidable(net: Packed, forms: Forms, k: int) -> bool:
    """Tell whether a pair of activations has one kink in reach, without rounding steps."""
    node = net.nodes[net.neurons[k].node]
    if node.has_step == 1 or node.rate > 0.0 or forms.decided[k] != FREE:
        return False
    j = _source_of(net, k)
    return node.lower > -np.inf and forms.bounds[1, j] < node.upper and forms.bounds[3, j] < node.upper


@compiled
def _phases_needed(net: Packed, forms: Forms, o: int, upper: float, threshold: float) -> int:
    """Return how many phases must be decided for the bound to fall to the threshold; 0 if too many."""
    _, noise, rest = _weights(net, forms, o)
    excess = upper - threshold
    total = rest
    for size in noise:
        total += size
    if len(noise) == 0 or 2.0 * total < excess or rest > 0.5 * excess:
        return 0
    gone, count = 0.0, 0
    while 2.0 * gone < excess and count < len(noise):
        if count == DEPTH // 2:
            return 0
        most = _largest(noise)
        gone += noise[most]
        noise[most] = 0.0
        count += 1
    return count


@compiled
def _heaviest(net: Packed, forms: Forms, o: int) -> int:
    """Return the neuron whose undecided phases make the most noise in an output, or −1."""
    neurons, noise, _ = _weights(net, forms, o)
    return neurons[_largest(noise)] if len(noise) > 0 else -1


@compiled
def _largest(array: Float64Array) -> int:
    """Return the position of the first largest number; numpy's compiles slowly."""
    best = 0
    for i in range(1, len(array)):
        if array[i] > array[best]:
            best = i
    return best


@compiled
def _sort(keys: Float64Array, carried: Int64Array, count: int) -> None:
    """Sort the first keys, and what belongs to them, in place (Shell's sort); numpy's compiles slowly."""
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            key, what = keys[i], carried[i]
            j = i
            while j >= gap and keys[j - gap] > key:
                keys[j], carried[j] = keys[j - gap], carried[j - gap]
                j -= gap
            keys[j], carried[j] = key, what
        gap = gap // 2


@compiled
def _value(net: Packed, forms: Forms, o: int, sign: float, multiplier: Float64Array) -> float:
    """Bound ``sign·d`` of an output over the part where all facts are nonnegative.

    For any multipliers ``λ >= 0``: ``max d <= max (d + Σ λ·fact)``, and the maximum of a form over its symbols is
    its centre plus the sum of its generators' magnitudes.  The multipliers are improved one by one, each
    exactly (the bound is convex and piecewise linear in one).  A fact that is negative everywhere proves that
    the part is empty.
    """
    rows, facts = forms.states[net.output].used, forms.states[len(net.nodes) - 1].facts
    k = net.values[net.output].first + o
    d = generators(net, forms.d, net.output)
    form = np.empty(rows)
    for r in range(rows):
        form[r] = sign * d[r, o]
    for f in range(facts):
        reach = 0.0
        for r in range(rows):
            reach += abs(forms.fact[f, 1 + r])
        if forms.fact[f, 0] + reach * (1.0 + (rows + 8) * _U) < 0.0:
            return -np.inf
        multiplier[f] = 0.0
    breaks, order = np.empty(rows), np.empty(rows, np.int64)
    for _pass in range(_PASSES if facts > 0 else 0):
        for f in range(facts):
            fact = forms.fact[f]
            slope = fact[0]
            count = 0
            for r in range(rows):
                x = fact[1 + r]
                if x != 0.0:
                    slope -= abs(x)
                    breaks[count], order[count] = -form[r] / x, r
                    count += 1
            step = -multiplier[f]
            if slope < 0.0:
                _sort(breaks, order, count)
                for i in range(count):
                    slope += 2.0 * abs(fact[1 + order[i]])
                    if slope >= 0.0:
                        step = max(step, breaks[i])
                        break
            if step != 0.0 and step < np.inf:
                multiplier[f] += step
                for r in range(rows):
                    form[r] += step * fact[1 + r]
    # Evaluated afresh, so that rounding is bounded: each sum has fewer terms than facts + rows + 8.
    total = sign * forms.form[CENTRE_D, k]
    size = abs(total)
    for f in range(facts):
        total += multiplier[f] * forms.fact[f, 0]
        size += abs(multiplier[f] * forms.fact[f, 0])
    for r in range(rows):
        x = sign * d[r, o]
        magnitude = abs(x)
        for f in range(facts):
            x += multiplier[f] * forms.fact[f, 1 + r]
            magnitude += abs(multiplier[f] * forms.fact[f, 1 + r])
        total += abs(x)
        size += magnitude
    error = (2 * facts + rows + 16) * _U
    bound = total + forms.form[SLACK_D, k] * (1.0 + 8 * _U) + 2.0 * error / (1.0 - error) * size
    # Multipliers of tiny facts may overflow: no number is no bound.
    return bound if np.isfinite(bound) else np.inf
