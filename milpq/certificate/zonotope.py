"""The checker's own bound on the difference of two networks: a zonotope of both sides and their difference.

Forms of the float side ``a`` and of the difference ``d = v − a`` go through the merged network layer by layer; the
quantized side is their sum.  ``a' = W·h + b`` and ``d' = Ŵ·δ + (Ŵ − W)·h + (b̂ − b)`` are exact in forms.  An activation
takes ``h = φ(a)`` and ``δ = φ_q(v) − φ(a)`` into bands along ``a`` and ``d``, each of its noises a new symbol.

A leaf may also be decided: some ``a`` or ``v`` in front of an activation is known to lie in an interval, because the
tree has split there.  Its bands are then those of the smaller interval.

References: the shared symbols and the band along ``d`` are those of VeryDiff (S. Teuber, P. Kern, M. Janzen,
B. Beckert, *Revisiting Differential Verification*, TACAS 2025, section 4); the steps of an integer side, the rounding
errors, decisions and the choice between bands are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array
from milpq.certificate.forms import (
    ROUNDED,
    TINY,
    Ends,
    Form,
    Symbols,
    affine,
    clamp_band,
    clamped,
    diagonal,
    middle,
    padded,
)
from milpq.certificate.stairs import Quantized, Staircase
from milpq.errors import CertificateError
from milpq.merge import Cubes, Domain, MergedActivation, MergedAffine, Problem

_SYMBOLS = 4096
"""Noises of one leaf that are followed through the network; further ones only widen the errors."""


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Decisions of leaves: ends of *quantities*, shape (quantities, leaves); infinite where nothing is decided.

    The quantities are, for each activation in turn, its neurons' ``a`` (real units) and then its neurons' ``v``
    (accumulators where a step follows, real units otherwise).
    """

    lower: Float64Array
    upper: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One activation over a batch of leaves: what is known of its arguments and results.

    Parameters
    ----------
    a, d, h, delta : Form
    a_ends, d_ends, v_ends : Ends
        Under the decisions.
    slope, centre, noise
        The band of ``h`` along ``a``.
    quantized : Quantized
    """

    node: MergedActivation
    stairs: Staircase | None
    a: Form
    d: Form
    h: Form
    delta: Form
    a_ends: Ends
    d_ends: Ends
    v_ends: Ends
    quantized: Quantized


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A batch of leaves from input to output.

    Parameters
    ----------
    layers : list of Layer
        The activations, where they were to be kept.
    difference : Form
        Of the outputs.
    empty : bool, shape (leaves,)
        Where the decisions contradict the forms: no input satisfies them.
    symbols : Symbols
    """

    layers: list[Layer]
    difference: Form
    empty: BoolArray
    symbols: Symbols


class Zonotope:
    """Bounds leaves of one problem, many at once.

    Raises
    ------
    CertificateError
        The merged network has a node that this checker does not know.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._stairs: list[Staircase | None] = []
        self._last_use = [0] * (len(problem.merged.nodes) + 1)
        for index, node in enumerate(problem.merged.nodes):
            beyond = isinstance(node, MergedActivation) and (node.inexact, node.curve) != (None, None)
            if beyond or type(node) not in {MergedAffine, MergedActivation}:
                raise CertificateError(f"layer {node.name!r}: certificates do not cover this kind of layer")
            self._stairs.append(Staircase.of(node) if isinstance(node, MergedActivation) else None)
            for source in node.sources:
                self._last_use[source] = index
        self._last_use[problem.merged.output] = len(problem.merged.nodes)

    def leaves_in(self, size: int) -> int:
        """Return how many leaves to bound at once, so that a form takes about so many bytes."""
        sizes = [self._problem.merged.input_size, *(node.size for node in self._problem.merged.nodes)]
        return max(1, size // (8 * max(sizes) * min(sum(sizes), _SYMBOLS)))

    @property
    def whole(self) -> BoolArray:
        """Which quantities are integers, shape (quantities,)."""
        parts = [np.repeat([False, stairs is not None], node.size) for node, stairs in self._activations()]
        return np.concatenate([np.zeros(0, dtype=np.bool_), *parts])

    def upper(self, cubes: Cubes, limits: Limits | None = None) -> Float64Array:
        """Return upper bounds on ``f_q − f`` and then on ``f − f_q`` of the outputs asked about.

        Returns
        -------
        float64, shape (leaves, 2·chosen)
            Minus infinity where the decisions leave no input.
        """
        trace = self.trace(cubes, limits, keep=False)
        lower, upper = trace.difference.ends(trace.difference.spread())
        chosen = self._problem.outputs
        bounds = np.concatenate([upper[chosen], -lower[chosen]]).T
        return np.where(trace.empty[:, None], -np.inf, bounds)

    def trace(self, cubes: Cubes, limits: Limits | None, *, keep: bool) -> Trace:
        """Take leaves through the network; `keep` what each activation was found to do."""
        merged = self._problem.merged
        symbols = Symbols(_SYMBOLS)
        values: list[tuple[Form, Form] | None] = [_input_forms(self._problem.domain, cubes, symbols)]
        layers: list[Layer] = []
        empty, row = np.zeros(len(cubes), dtype=np.bool_), 0
        for index, node in enumerate(merged.nodes):
            sources = [values[source] for source in node.sources]
            pairs = [pair for pair in sources if pair is not None]
            if isinstance(node, MergedAffine):
                values.append(_affine_pair(node, pairs, symbols))
            else:
                decided = None
                if limits is not None:
                    rows = slice(row, row + 2 * node.size)
                    decided = Limits(limits.lower[rows], limits.upper[rows])
                layer, contradiction = _activation(node, self._stairs[index], *pairs[0], symbols, decided)
                row += 2 * node.size
                empty |= contradiction
                values.append((layer.h, layer.delta))
                layers += [layer] if keep else []
            for source in node.sources:
                if self._last_use[source] == index:
                    values[source] = None
        output = values[merged.output]
        assert output is not None
        return Trace(layers, output[1], empty, symbols)

    def _activations(self) -> list[tuple[MergedActivation, Staircase | None]]:
        nodes = zip(self._problem.merged.nodes, self._stairs, strict=True)
        return [(node, stairs) for node, stairs in nodes if isinstance(node, MergedActivation)]


def _affine_pair(node: MergedAffine, sources: list[tuple[Form, Form]], symbols: Symbols) -> tuple[Form, Form]:
    on_float = [(term.float_matrix, a, 0.0) for term, (a, _) in zip(node.terms, sources, strict=True)]
    on_both = [(term.quantized_matrix, d, 0.0) for term, (_, d) in zip(node.terms, sources, strict=True)]
    # ``Ŵ − W`` is stored rounded once: within 2u of its stored entries.
    mixed = [
        (t.difference_matrix, a, 2 * UNIT_ROUNDOFF) for t, (a, _) in zip(node.terms, sources, strict=True)
    ]
    none = np.zeros_like(node.float_bias)
    return (
        affine(on_float, node.float_bias, none, symbols),
        affine([*on_both, *mixed], node.difference_bias, node.difference_bias_error, symbols),
    )


def _activation(
    node: MergedActivation,
    stairs: Staircase | None,
    a: Form,
    d: Form,
    symbols: Symbols,
    limits: Limits | None,
) -> tuple[Layer, BoolArray]:
    """Return the forms of ``h = φ(a)`` and ``δ = φ_q(v) − φ(a)``, and in which leaves the decisions leave nothing.

    ``h = λ·a + c ± m`` is the clamp's band.  For ``δ`` each neuron takes the band of least noise among

    apart
        ``φ_q(v) = λ_q·v + c_q ± m_q``, with ``v = a + d``, less the form of ``h``, whose noise is the *same* symbol;
    together
        ``φ(v) − φ(a)`` lies between 0 and ``d``, as ``φ`` is nondecreasing and 1-Lipschitz, so within ``|d|/2`` of
        ``d/2``; rounding and saturation ``φ_q(v) − φ(v)`` are added as an interval;
    interval
        a constant: the image of ``φ_q`` less that of ``φ``.
    """
    shared_width, own_width = symbols.shared, symbols.own
    a = Form(padded(a.shared, shared_width), a.own, a.error)
    d = Form(padded(d.shared, shared_width), padded(d.own, own_width), d.error)
    spread_a, spread_d = a.spread(), d.spread()
    size_a, size_d = np.abs(a.centre) + spread_a, np.abs(d.centre) + spread_d
    v = Form(a.shared + d.shared, d.own, a.error + d.error + 2 * UNIT_ROUNDOFF * (size_a + size_d))
    ends_a, ends_d, ends_v = a.ends(spread_a), d.ends(spread_d), v.ends(v.spread())
    empty = np.zeros(a.error.shape[1], dtype=np.bool_)
    if limits is not None:
        ends_a, ends_v, ends_d, empty = _decided(stairs, limits, ends_a, ends_v, ends_d)

    slope, centre, noise = clamp_band(ends_a, node.lower, node.upper)
    h_lower, h_upper = (np.clip(end, node.lower, node.upper) for end in ends_a)
    q = Quantized.of(node, stairs, ends_v)

    cut, cut_noise = middle(q.cut_lower, q.cut_upper)
    reach = 0.5 * np.maximum(np.abs(ends_d[0]), np.abs(ends_d[1])) * (1 + ROUNDED)
    constant, constant_noise = middle(q.lower - h_upper, q.upper - h_lower)
    constant_noise += ROUNDED * (np.abs(q.lower) + np.abs(q.upper) + np.abs(h_lower) + np.abs(h_upper))
    best = np.argmin(np.stack([q.noise + noise, reach + cut_noise, constant_noise]), axis=0)
    apart, together = best == 0, best == 1
    along_a = np.where(apart, q.slope - slope, 0.0)
    along_d = np.where(apart, q.slope, np.where(together, 0.5, 0.0))
    offset = np.where(apart, q.centre - centre, np.where(together, cut, constant))
    own_noise = np.where(apart, q.noise, np.where(together, reach + cut_noise, constant_noise))

    h, columns, lost = clamped(a, size_a, (slope, centre, noise), symbols)
    own_columns, own_lost = symbols.add_own(own_noise * (1 + ROUNDED))
    new = along_a[:, :, None] * a.shared
    new += along_d[:, :, None] * d.shared
    new[:, :, 0] += offset
    # The products with slopes, their sum, the slope and the offset are each rounded once.
    error = np.abs(along_a) * a.error + along_d * d.error + own_lost + np.where(apart, lost, 0.0)
    error += ROUNDED * ((q.slope + slope) * size_a * apart + along_d * size_d + np.abs(offset))
    error += ROUNDED * (np.abs(q.centre) + np.abs(centre)) * apart
    minus = np.where(apart[:, :, None], -columns, 0.0)
    delta = Form(
        np.concatenate([new, minus], axis=2),
        np.concatenate([along_d[:, :, None] * d.own, own_columns], axis=2),
        error * (1 + ROUNDED) + TINY,
    )
    return Layer(node, stairs, a, d, h, delta, ends_a, ends_d, ends_v, q), empty


def _decided(
    stairs: Staircase | None, limits: Limits, a: Ends, v: Ends, d: Ends
) -> tuple[Ends, Ends, Ends, BoolArray]:
    """Return the ends of ``a``, ``v`` and ``d`` under decisions, and in which leaves these leave nothing.

    *Soundness:* every input of the leaf satisfies the decisions and ``d = v − a``; products with the unit of an
    accumulator and differences are rounded outwards.
    """
    size = len(a[0])
    low, high = limits.lower[size:], limits.upper[size:]
    if stairs is not None:
        low, high = stairs.unit * low, stairs.unit * high
        low = low - ROUNDED * np.abs(np.where(np.isfinite(low), low, 0.0))
        high = high + ROUNDED * np.abs(np.where(np.isfinite(high), high, 0.0))
    a = np.maximum(a[0], limits.lower[:size]), np.minimum(a[1], limits.upper[:size])
    v = np.maximum(v[0], low), np.minimum(v[1], high)
    apart = np.nextafter(v[0] - a[1], -np.inf), np.nextafter(v[1] - a[0], np.inf)
    d = np.maximum(d[0], apart[0]), np.minimum(d[1], apart[1])
    empty: BoolArray = np.any((a[0] > a[1]) | (v[0] > v[1]) | (d[0] > d[1]), axis=0)
    # What is said of an empty leaf does not matter, but its intervals have to be some.
    return (a[0], np.maximum(*a)), (v[0], np.maximum(*v)), (d[0], np.maximum(*d)), empty


def _input_forms(domain: Domain, cubes: Cubes, symbols: Symbols) -> tuple[Form, Form]:
    """Return the forms of what `f` reads, one symbol an input, and of what the quantized side reads beyond it."""
    lower, upper = cubes.lower.T, cubes.upper.T
    inputs, leaves = lower.shape
    symbols.shared = 1 + inputs
    centre, radius = middle(lower, upper)
    nothing = np.zeros((inputs, leaves, 0))
    integer = domain.integer
    if integer is None:
        a = Form(diagonal(centre, radius), nothing, np.zeros_like(centre))
        return a, Form(np.zeros_like(a.shared), nothing, np.zeros_like(centre))
    first, last = cubes.level_lower.T.astype(np.float64), cubes.level_upper.T.astype(np.float64)
    scale = integer.scale[:, None]
    reach = np.maximum(np.abs(first), np.abs(last)) * scale
    if domain.kind == "codes":
        # x = fl(float_scale·level) and v = scale·level, the level being level ± half of the range.
        level, half, reading = 0.5 * (first + last), 0.5 * (last - first), integer.float_scale[:, None]
        error = ROUNDED * np.maximum(np.abs(first), np.abs(last)) * reading
        gap = scale - reading
        a = Form(diagonal(reading * level, reading * half), nothing, error)
        return a, Form(diagonal(gap * level, gap * half), nothing, 2 * (error + ROUNDED * reach))
    a = Form(diagonal(centre, radius), nothing, np.zeros_like(centre))
    # One code: d = scale·level − x is exact.  Several: an interval, at its ends where a code ends or the cube does.
    single = first == last
    error = ROUNDED * (reach + np.maximum(np.abs(lower), np.abs(upper)))
    inner_low, inner_high = _code_errors(domain)
    low = np.where(single, 0.0, np.minimum(scale * last - upper, inner_low))
    high = np.where(single, 0.0, np.maximum(scale * first - lower, inner_high))
    between, noise = middle(low, high)
    columns, lost = symbols.add_own(noise)
    start = np.where(single, scale * first - centre, between)
    d = diagonal(start, np.where(single, -radius, 0.0))
    return a, Form(d, columns, error + lost)


def _code_errors(domain: Domain) -> Ends:
    """Return the extremes of ``scale·level − x`` at the code boundaries inside the region, shape (inputs, 1)."""
    integer, root = domain.integer, domain.root
    assert integer is not None and integer.quantizer is not None
    low, high = np.full((2, integer.size, 1), np.inf) * np.array([1.0, -1.0])[:, None, None]
    for i in range(integer.size):
        levels = np.arange(root.level_lower[0, i], root.level_upper[0, i], dtype=np.int64)
        boundary = integer.quantizer.thresholds[i, levels - integer.quantizer.level_lower]
        if len(levels):
            low[i] = (integer.scale[i] * levels - boundary).min()
            high[i] = (integer.scale[i] * (levels + 1) - boundary).max()
    return low, high
