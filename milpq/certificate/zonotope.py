"""The checker's own bound on the difference of two networks: a zonotope of both sides and their difference.

Forms of the float side ``a`` and of the difference ``d = v − a`` go through the merged network layer by layer; the
quantized side is their sum.  ``a' = W·h + b`` and ``d' = Ŵ·δ + (Ŵ − W)·h + (b̂ − b)`` are exact in forms.  An activation
takes ``h = φ(a)`` and ``δ = φ_q(v) − φ(a)`` into bands along ``a`` and ``d``, each of its noises a new symbol.

A leaf may also be decided: some ``a`` or ``v`` in front of an activation is known to lie in an interval, because the
tree has split there.  Its bands are then those of the smaller interval.  Decisions are ends of *quantities*, of shape
(quantities, leaves) and infinite where nothing is decided: for each activation in turn its neurons' ``a`` (real units)
and then its neurons' ``v`` (accumulators where a step follows, real units otherwise).

References: the shared symbols and the band along ``d`` are those of VeryDiff (S. Teuber, P. Kern, M. Janzen,
B. Beckert, *Revisiting Differential Verification*, TACAS 2025, section 4); the steps of an integer side, the rounding
errors, decisions and the choice between bands are this project's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, Matrix, gamma
from milpq.certificate.activations import Activation, line
from milpq.certificate.forms import (
    ROUNDED,
    TINY,
    Ends,
    Form,
    Symbols,
    affine,
    clamped,
    interval,
    largest,
    less,
    middle,
    padded,
)
from milpq.certificate.stairs import Layer, Staircase
from milpq.certificate.traces import Ranges, Trace, Value
from milpq.errors import CertificateError
from milpq.merge import Cubes, Domain, MergedActivation, MergedAffine, Problem
from milpq.network.nodes import absolute

_SYMBOLS = 4096
"""Noises of one leaf that are followed through the network; further ones only widen the errors."""

_MOST_BYTES = 1 << 28
"""Of one form; a handful of them are held at once."""


class Zonotope:
    """Bounds leaves of one problem, many at once.

    Raises
    ------
    CertificateError
        The merged network has a node that this checker does not know.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._sizes = [problem.merged.input_size, *(node.size for node in problem.merged.nodes)]
        # Where symbols for all inputs would fill the memory there are none: forms are intervals then.
        self._symbols = min(_SYMBOLS, _MOST_BYTES // (8 * max(self._sizes)))
        if self._symbols <= problem.merged.input_size:
            self._symbols = 0
        self._stairs: list[Staircase] = []
        self._last_use = [0] * (len(problem.merged.nodes) + 1)
        for index, node in enumerate(problem.merged.nodes):
            known = type(node) is MergedAffine or type(node) is MergedActivation
            if isinstance(node, MergedActivation) and node.inexact is not None:
                # What is known of an inexact operation is how far it is from its source.
                known = Activation.of(node).is_linear
            if not known:
                raise CertificateError(f"layer {node.name!r}: certificates do not cover this kind of layer")
            if isinstance(node, MergedActivation):
                self._stairs.append(Staircase.of(node))
            for source in node.sources:
                self._last_use[source] = index
        self._last_use[problem.merged.output] = len(problem.merged.nodes)

    def leaves_in(self, size: int) -> int:
        """Return how many leaves to bound at once, so that a form takes about so many bytes."""
        return max(1, size // (8 * max(self._sizes) * min(sum(self._sizes), max(self._symbols, 1))))

    @property
    def whole(self) -> BoolArray:
        """Which quantities are integers, shape (quantities,)."""
        nodes = (stairs.node for stairs in self._stairs)
        parts = [np.repeat([False, node.step is not None], node.size) for node in nodes]
        return np.concatenate([np.zeros(0, dtype=np.bool_), *parts])

    def upper(self, cubes: Cubes, limits: Ends | None = None) -> Float64Array:
        """Return upper bounds on ``f_q − f`` and then on ``f − f_q`` of the outputs asked about.

        Returns
        -------
        float64, shape (leaves, 2·chosen)
            Minus infinity where the decisions leave no input.
        """
        return self.bounds(self.trace(cubes, limits))

    def bounds(self, trace: Trace) -> Float64Array:
        """Return the same of leaves that were taken through the network."""
        lower, upper = trace.output.d.ends(trace.output.d.spread())
        chosen = self._problem.outputs
        bounds = np.concatenate([upper[chosen], -lower[chosen]]).T
        return np.where(trace.empty[:, None], -np.inf, bounds)

    def trace(
        self,
        cubes: Cubes,
        limits: Ends | None,
        closer: Callable[[Trace, int], Ranges | None] | None = None,
    ) -> Trace:
        """Take leaves through the network.

        Parameters
        ----------
        closer : callable, optional
            Given a trace so far, bounds the value that an activation reads; None where it cannot.
        """
        merged = self._problem.merged
        symbols = Symbols(self._symbols)
        read, first = _input(self._problem.domain, cubes, symbols)
        values: list[Value | None] = [first]
        layers: list[Layer] = []
        sides, sizes = [first.sides], [first.sizes]
        empty, row = np.zeros(len(cubes), dtype=np.bool_), 0
        for index, node in enumerate(merged.nodes):
            sources = [value for value in (values[source] for source in node.sources) if value is not None]
            if isinstance(node, MergedAffine):
                value = _affine(node, sources, symbols)
            else:
                rows = slice(row, row + 2 * node.size)
                decided = None if limits is None else (limits[0][rows], limits[1][rows])
                so_far = Trace(read, layers, sides, sizes, sources[0], empty)
                known = None if closer is None else closer(so_far, node.source)
                stairs = self._stairs[len(layers)]
                layer, value, contradiction = _activation(stairs, sources[0], symbols, decided, known)
                row += 2 * node.size
                empty |= contradiction
                layers.append(layer)
            values.append(value)
            sides.append(value.sides)
            sizes.append(value.sizes)
            for source in node.sources:
                if self._last_use[source] == index:
                    values[source] = None
        output = values[merged.output]
        assert output is not None
        return Trace(read, layers, sides, sizes, output, empty)

    def float_side(self, cubes: Cubes) -> Form:
        """Return the form of the float output alone over leaves."""
        merged, symbols = self._problem.merged, Symbols(self._symbols)
        forms = [_input(self._problem.domain, cubes, symbols)[1].a]
        for node in merged.nodes:
            if isinstance(node, MergedAffine):
                terms = [(term.float_matrix, forms[term.source], 0.0) for term in node.terms]
                forms.append(affine(terms, node.float_bias, np.zeros_like(node.float_bias), symbols))
            else:
                a, spread, phi = forms[node.source], forms[node.source].spread(), Activation.of(node)
                ends = a.ends(spread)
                along = line(phi.graph(ends), phi.secant(ends), phi.image(ends))
                forms.append(clamped(a, np.abs(a.centre) + spread, along, symbols)[0])
        return forms[merged.output]


def _affine(node: MergedAffine, sources: list[Value], symbols: Symbols) -> Value:
    """Return an affine node's value; the ends of its sides are those of products of intervals."""
    pairs = list(zip(node.terms, sources, strict=True))
    on_float = [(term.float_matrix, source.a, 0.0) for term, source in pairs]
    on_both = [(term.quantized_matrix, source.d, 0.0) for term, source in pairs]
    # ``Ŵ − W`` is stored rounded once: within 2u of its stored entries.
    mixed = [(term.difference_matrix, source.a, 2 * UNIT_ROUNDOFF) for term, source in pairs]
    none = np.zeros_like(node.float_bias)
    sides = [source.sides for source in sources]
    on_float_side = [(term.float_matrix, ends) for term, (ends, _) in zip(node.terms, sides, strict=True)]
    on_quantized = [(term.quantized_matrix, ends) for term, (_, ends) in zip(node.terms, sides, strict=True)]
    side, size = _products(on_float_side, node.float_bias, none)
    other, other_size = _products(on_quantized, node.quantized_bias, node.quantized_bias_error)
    return Value(
        affine(on_float, node.float_bias, none, symbols),
        affine([*on_both, *mixed], node.difference_bias, node.difference_bias_error, symbols),
        (side, other),
        (size, other_size),
    )


def _products(
    terms: list[tuple[Matrix, Ends]], bias: Float64Array, bias_error: Float64Array
) -> tuple[Ends, Float64Array]:
    """Return the ends of ``Σ matrix·x + bias``, and the most that all summands' sizes can add up to."""
    size = np.abs(bias)[:, None] + sum(absolute(matrix) @ largest(ends) for matrix, ends in terms)
    width = sum(matrix.shape[1] for matrix, _ in terms) + len(terms) + 1
    form = affine([(matrix, interval(ends), 0.0) for matrix, ends in terms], bias, bias_error, Symbols(0))
    return form.ends(form.spread()), size * (1 + 2 * gamma(width)) + TINY


def _activation(
    stairs: Staircase, source: Value, symbols: Symbols, limits: Ends | None, known: Ranges | None
) -> tuple[Layer, Value, BoolArray]:
    """Return the forms of ``h = φ(a)`` and ``δ = φ_q(v) − φ(a)``, and in which leaves the decisions leave nothing.

    ``h = λ·a + c ± m`` is a band along the secant, or level.  For ``δ`` each neuron takes the one of less noise of

    apart
        ``φ_q(v) = λ_q·v + c_q ± m_q``, with ``v = a + d``, less the form of ``h``, whose noise is the *same* symbol;
    together
        ``φ(v) − φ(a)`` lies between ``m·d`` and ``M·d`` by the slopes of ``φ``, 0 and 1 where it is a clamp, so within
        ``(M − m)·|d|/2`` of ``(m + M)·d/2``; rounding and saturation ``φ_q(v) − φ(v)`` are added as an interval.

    A constant, the image of ``φ_q`` less that of ``φ``, has never less noise than what is apart.
    """
    a = Form(padded(source.a.shared, symbols.shared), source.a.own, source.a.error)
    d = Form(padded(source.d.shared, symbols.shared), padded(source.d.own, symbols.own), source.d.error)
    spread_a, spread_d = a.spread(), d.spread()
    size_a, size_d = np.abs(a.centre) + spread_a, np.abs(d.centre) + spread_d
    v = Form(a.shared + d.shared, d.own, a.error + d.error + 2 * UNIT_ROUNDOFF * (size_a + size_d))
    ranges = a.ends(spread_a), v.ends(v.spread()), d.ends(spread_d)
    if known is not None:
        ranges = _both(ranges[0], known[0]), _both(ranges[1], known[1]), _both(ranges[2], known[2])
    ends_a, ends_v, ends_d, empty = _closed(stairs, limits, ranges, source.sides)
    phi, (z, ends_cut) = stairs.phi, stairs.result(ends_v)
    layer = Layer(stairs, ends_a, ends_v, ends_d, z, ends_cut)
    image = phi.image(ends_a)
    slope, centre, noise = line(phi.graph(ends_a), phi.secant(ends_a), image)
    q_slope, q_centre, q_noise = line(layer.pieces(), stairs.psi.secant(ends_v), z)
    cut, cut_noise = middle(*ends_cut)
    least, most = phi.slopes(ends_a, ends_v)
    mean = 0.5 * (least + most)
    together = (0.5 * (most - least) + ROUNDED * mean) * largest(ends_d) * (1 + ROUNDED) + cut_noise
    apart = ~less(together, q_noise + noise)
    along_a = np.where(apart, q_slope - slope, 0.0)
    along_d = np.where(apart, q_slope, mean)
    offset = np.where(apart, q_centre - centre, cut)
    own_noise = np.where(apart, q_noise, together)

    h, columns, lost = clamped(a, size_a, (slope, centre, noise), symbols)
    own_columns, own_lost = symbols.add_own(own_noise * (1 + ROUNDED))
    new = along_a[:, :, None] * a.shared
    new += along_d[:, :, None] * d.shared
    new[:, :, 0] += offset
    # The products with slopes, their sum, the slope and the offset are each rounded once.
    error = np.abs(along_a) * a.error + along_d * d.error + own_lost + np.where(apart, lost, 0.0)
    error += ROUNDED * ((q_slope + slope) * size_a * apart + along_d * size_d + np.abs(offset))
    error += ROUNDED * (np.abs(q_centre) + np.abs(centre)) * apart
    minus = np.where(apart[:, :, None], -columns, 0.0)
    delta = Form(
        np.concatenate([new, minus], axis=2),
        np.concatenate([along_d[:, :, None] * d.own, own_columns], axis=2),
        error * (1 + ROUNDED) + TINY,
    )
    return layer, Value(h, delta, (image, z), (largest(image), largest(z))), empty


def _closed(
    stairs: Staircase, limits: Ends | None, ranges: Ranges, sides: tuple[Ends, Ends]
) -> tuple[Ends, Ends, Ends, BoolArray]:
    """Return the ends of ``a``, ``v`` and ``d`` under decisions, and in which leaves these leave nothing.

    *Soundness:* every input of the leaf satisfies the decisions and ``d = v − a``; products with the unit of an
    accumulator, sums and differences are rounded outwards.
    """
    a, v, d = _both(ranges[0], sides[0]), _both(ranges[1], sides[1]), ranges[2]
    if limits is not None:
        low, high = (stairs.unit * end[len(a[0]) :] for end in limits)
        low = low - ROUNDED * np.abs(np.where(np.isfinite(low), low, 0.0))
        high = high + ROUNDED * np.abs(np.where(np.isfinite(high), high, 0.0))
        a, v = _both(a, (limits[0][: len(a[0])], limits[1][: len(a[0])])), _both(v, (low, high))
    d = _meet(d, v[0] - a[1], v[1] - a[0])
    v = _meet(v, a[0] + d[0], a[1] + d[1])
    a = _meet(a, v[0] - d[1], v[1] - d[0])
    empty: BoolArray = np.any((a[0] > a[1]) | (v[0] > v[1]) | (d[0] > d[1]), axis=0)
    # What is said of an empty leaf does not matter, but its intervals have to be some.
    return (a[0], np.maximum(*a)), (v[0], np.maximum(*v)), (d[0], np.maximum(*d)), empty


def _both(one: Ends, other: Ends) -> Ends:
    return np.maximum(one[0], other[0]), np.minimum(one[1], other[1])


def _meet(ends: Ends, lower: Float64Array, upper: Float64Array) -> Ends:
    """Intersect with ends that were rounded once."""
    return _both(ends, (np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)))


def _input(domain: Domain, cubes: Cubes, symbols: Symbols) -> tuple[Layer, Value]:
    """Return what both sides read; its forms have one symbol an input, and one more where codes can differ."""
    x = lower, upper = cubes.lower.T, cubes.upper.T
    centre, radius = middle(lower, upper)
    zero = np.zeros_like(centre)
    a = symbols.on_inputs(centre, radius, zero)
    gap_low, gap_high = (end.T for end in domain.difference(cubes))
    integer, z = domain.integer, x
    if integer is None:
        d = symbols.on_inputs(zero, zero, zero)
    else:
        first, last = cubes.level_lower.T.astype(np.float64), cubes.level_upper.T.astype(np.float64)
        scale, reading = integer.scale[:, None], integer.float_scale[:, None]
        reach = np.maximum(np.abs(first), np.abs(last)) * scale
        z = scale * first - ROUNDED * reach, scale * last + ROUNDED * reach
        if domain.kind == "codes":
            # x = fl(float_scale·level) and v = scale·level, the level being level ± half of the range.
            level, half, gap = 0.5 * (first + last), 0.5 * (last - first), scale - reading
            error = ROUNDED * np.maximum(np.abs(first), np.abs(last)) * reading
            a = symbols.on_inputs(reading * level, reading * half, error)
            d = symbols.on_inputs(gap * level, gap * half, 2 * (error + ROUNDED * reach))
        else:
            # One code: d = scale·level − x is exact.  Several: an interval.
            single = first == last
            between, noise = middle(gap_low, gap_high)
            columns, lost = symbols.add_own(np.where(single, 0.0, noise))
            error = ROUNDED * (reach + largest(x))
            start = np.where(single, scale * first - centre, between)
            d = symbols.on_inputs(start, np.where(single, -radius, 0.0), error + lost, columns)
    nothing = MergedActivation("input", 0, len(lower), -np.inf, np.inf, None, None, None)
    layer = Layer(Staircase.of(nothing), x, z, (gap_low, gap_high), z, (zero, zero))
    return layer, Value(a, d, (x, z), (largest(x), largest(z)))
