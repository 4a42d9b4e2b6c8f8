"""The checker's own bound on the difference of two networks: a zonotope of both sides and their difference.

Forms of the float side ``a`` and of the difference ``d = v − a`` go through the merged network layer by layer; the
quantized side is their sum.  ``a' = W·h + b`` and ``d' = Ŵ·δ + (Ŵ − W)·h + (b̂ − b)`` are exact in forms.  An activation
takes ``h = φ(a)`` and ``δ = φ_q(v) − φ(a)`` into bands along ``a`` and ``d``, each of its noises a new symbol.

References: the shared symbols and the band along ``d`` are those of VeryDiff (S. Teuber, P. Kern, M. Janzen,
B. Beckert, *Revisiting Differential Verification*, TACAS 2025, section 4); the steps of an integer side, the rounding
errors and the choice between bands are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array
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
from milpq.errors import CertificateError
from milpq.merge import Cubes, Domain, MergedActivation, MergedAffine, Problem
from milpq.rounding.step import NEVER, StepFunction

_SYMBOLS = 4096
"""Noises of one leaf that are followed through the network; further ones only widen the errors."""


@dataclass(frozen=True, slots=True, eq=False)
class Staircase:
    """A step function against the clamp ``ψ`` that it rounds: ``ψ(v) + low <= φ_q(v) <= ψ(v) + high`` everywhere.

    ``ψ`` is the float activation cut to the values of the extreme codes, again a clamp; all shapes (neurons, 1).
    """

    step: StepFunction
    unit: Float64Array
    scale: Float64Array
    bottom: Float64Array
    top: Float64Array
    low: Float64Array
    high: Float64Array

    @classmethod
    def of(cls, node: MergedActivation) -> Staircase | None:
        """Return the staircase of a node, None where the quantized side is real.

        *Soundness:* on a plateau ``φ_q`` is constant and ``ψ`` nondecreasing, so ``φ_q − ψ`` is largest at the left
        end of a plateau and smallest at its right end; all ends are evaluated, with eight roundings to spare.
        """
        step, unit, scale = node.step, node.scale_in, node.scale_out
        if step is None or unit is None or scale is None:
            return None
        rows = np.arange(len(step.values), dtype=np.int64)
        column = np.arange(step.values.shape[1], dtype=np.int64)
        # Plateaus before a threshold at −∞ and after one at +∞ are never taken.
        first = (step.thresholds == -NEVER).sum(axis=1)
        last = step.values.shape[1] - 1 - (step.thresholds == NEVER).sum(axis=1)
        unit, scale = unit[:, None], scale[:, None]
        ends = scale * np.stack([step.values[rows, first], step.values[rows, last]], axis=1)[step.rows]
        bottom = np.clip(node.lower, ends[:, :1], ends[:, 1:])
        top = np.clip(node.upper, ends[:, :1], ends[:, 1:])
        low, high = np.empty_like(unit), np.empty_like(unit)
        for neuron, row in enumerate(step.rows.tolist()):
            taken = (column >= first[row]) & (column <= last[row])
            level = scale[neuron] * step.values[row]
            threshold = step.thresholds[row].astype(np.float64)
            threshold = np.where(np.abs(threshold) < NEVER, threshold, np.copysign(np.inf, threshold))
            left = np.clip(unit[neuron] * np.append(-np.inf, threshold), bottom[neuron], top[neuron])
            right = np.clip(unit[neuron] * np.append(threshold - 1, np.inf), bottom[neuron], top[neuron])
            slack = ROUNDED * (np.abs(ends[neuron]).max() + max(abs(bottom[neuron, 0]), abs(top[neuron, 0])))
            high[neuron] = (level - left)[taken].max() + slack + TINY
            low[neuron] = (level - right)[taken].min() - slack - TINY
        return cls(step, unit, scale, bottom, top, low, high)

    def image(self, value: Ends) -> Ends:
        """Return the least and largest output over an interval of real values.

        *Soundness:* accumulators are integers below 2^31, so a relative slack of 2^−50 on the quotient loses none.
        """
        lower, upper = (end / self.unit for end in value)
        first = np.ceil(np.clip(lower - 2.0**-50 * np.abs(lower) - TINY, -(2.0**40) + 1, 2.0**40 - 1))
        last = np.floor(np.clip(upper + 2.0**-50 * np.abs(upper) + TINY, -(2.0**40) + 1, 2.0**40 - 1))
        levels = (self._levels(first), self._levels(np.maximum(first, last)))
        slack = ROUNDED * np.maximum(*(np.abs(self.scale * level) for level in levels))
        return self.scale * levels[0] - slack, self.scale * levels[1] + slack

    def _levels(self, accumulators: Float64Array) -> Int64Array:
        return self.step(accumulators.T.astype(np.int64)).T


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
            if type(node) not in {MergedAffine, MergedActivation}:
                raise CertificateError(f"layer {node.name!r}: certificates do not cover this kind of layer")
            self._stairs.append(Staircase.of(node) if isinstance(node, MergedActivation) else None)
            for source in node.sources:
                self._last_use[source] = index
        self._last_use[problem.merged.output] = len(problem.merged.nodes)

    def leaves_in(self, size: int) -> int:
        """Return how many leaves to bound at once, so that a form takes about so many bytes."""
        sizes = [self._problem.merged.input_size, *(node.size for node in self._problem.merged.nodes)]
        return max(1, size // (8 * max(sizes) * min(sum(sizes), _SYMBOLS)))

    def upper(self, cubes: Cubes) -> Float64Array:
        """Return upper bounds on ``f_q − f`` and then on ``f − f_q`` of the outputs asked about.

        Returns
        -------
        float64, shape (leaves, 2·chosen)
        """
        merged = self._problem.merged
        symbols = Symbols(_SYMBOLS)
        values: list[tuple[Form, Form] | None] = [_input_forms(self._problem.domain, cubes, symbols)]
        for index, node in enumerate(merged.nodes):
            sources = [values[source] for source in node.sources]
            pairs = [pair for pair in sources if pair is not None]
            if isinstance(node, MergedAffine):
                values.append(_affine_pair(node, pairs, symbols))
            else:
                values.append(_activation(node, self._stairs[index], *pairs[0], symbols))
            for source in node.sources:
                if self._last_use[source] == index:
                    values[source] = None
        output = values[merged.output]
        assert output is not None
        difference = output[1]
        lower, upper = difference.ends(difference.spread())
        chosen = self._problem.outputs
        return np.concatenate([upper[chosen], -lower[chosen]]).T


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
    node: MergedActivation, stairs: Staircase | None, a: Form, d: Form, symbols: Symbols
) -> tuple[Form, Form]:
    """Return the forms of ``h = φ(a)`` and ``δ = φ_q(v) − φ(a)``.

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
    float_shared, shared, own = (
        padded(a.shared, shared_width), padded(d.shared, shared_width), padded(d.own, own_width)
    )  # fmt: skip
    spread_a, spread_d = a.spread(), d.spread()
    ends_a, ends_d = a.ends(spread_a), d.ends(spread_d)
    size_a, size_d = np.abs(a.centre) + spread_a, np.abs(d.centre) + spread_d
    rounding = UNIT_ROUNDOFF * 2 * (size_a + size_d)
    v = Form(float_shared + shared, own, a.error + d.error + rounding)
    ends_v = v.ends(v.spread())

    slope, centre, noise = clamp_band(ends_a, node.lower, node.upper)
    h_lower, h_upper = (np.clip(end, node.lower, node.upper) for end in ends_a)
    (slope_q, centre_q, noise_q), image, (cut_low, cut_high) = _quantized_band(node, stairs, ends_v)

    centre_cut, noise_cut = middle(cut_low, cut_high)
    reach_d = 0.5 * np.maximum(np.abs(ends_d[0]), np.abs(ends_d[1])) * (1 + ROUNDED)
    constant, noise_constant = middle(image[0] - h_upper, image[1] - h_lower)
    constant_slack = ROUNDED * (np.abs(image[0]) + np.abs(image[1]) + np.abs(h_lower) + np.abs(h_upper))
    noises = np.stack([noise_q + noise, reach_d + noise_cut, noise_constant + constant_slack])
    best = np.argmin(noises, axis=0)
    apart, together = best == 0, best == 1
    along_a = np.where(apart, slope_q - slope, 0.0)
    along_d = np.where(apart, slope_q, np.where(together, 0.5, 0.0))
    offset = np.where(apart, centre_q - centre, np.where(together, centre_cut, constant))
    own_noise = np.where(
        apart, noise_q, np.where(together, reach_d + noise_cut, noise_constant + constant_slack)
    )

    h, columns, lost = clamped(a, size_a, (slope, centre, noise), symbols)
    own_columns, own_lost = symbols.add_own(own_noise * (1 + ROUNDED))
    new = along_a[:, :, None] * float_shared
    new += along_d[:, :, None] * shared
    new[:, :, 0] += offset
    # The products with slopes, their sum, the slope and the offset are each rounded once.
    error = np.abs(along_a) * a.error + along_d * d.error + own_lost + np.where(apart, lost, 0.0)
    error += ROUNDED * ((slope_q + slope) * size_a * apart + along_d * size_d + np.abs(offset))
    error += ROUNDED * (np.abs(centre_q) + np.abs(centre)) * apart
    minus = np.where(apart[:, :, None], -columns, 0.0)
    return (
        h,
        Form(
            np.concatenate([new, minus], axis=2),
            np.concatenate([along_d[:, :, None] * own, own_columns], axis=2),
            error * (1 + ROUNDED) + TINY,
        ),
    )


def _quantized_band(
    node: MergedActivation, stairs: Staircase | None, value: Ends
) -> tuple[tuple[Float64Array, ...], Ends, Ends]:
    """Return the band of ``φ_q`` along ``v``, its image, and the range of ``φ_q(v) − φ(v)``."""
    if stairs is None:
        lower, upper = (np.clip(end, node.lower, node.upper) for end in value)
        nothing = np.zeros_like(lower)
        return clamp_band(value, node.lower, node.upper), (lower, upper), (nothing, nothing)
    slope, centre, noise = clamp_band(value, stairs.bottom, stairs.top)
    rounding_centre, rounding = middle(stairs.low, stairs.high)
    centre, noise = (
        centre + rounding_centre,
        noise + rounding + ROUNDED * (np.abs(centre) + np.abs(rounding_centre)),
    )
    image = stairs.image(value)
    plateau_centre, plateau = middle(*image)
    flat = plateau <= noise
    band = (
        np.where(flat, 0.0, slope), np.where(flat, plateau_centre, centre), np.where(flat, plateau, noise)
    )  # fmt: skip
    # ψ − φ falls: the code range cuts most at the upper end.
    phi = [np.clip(end, node.lower, node.upper) for end in value]
    cut = [np.clip(end, stairs.bottom, stairs.top) - inner for end, inner in zip(value, phi, strict=True)]
    slack = ROUNDED * (np.abs(cut[0]) + np.abs(cut[1]) + np.abs(phi[0]) + np.abs(phi[1]))
    return band, image, (cut[1] + stairs.low - slack, cut[0] + stairs.high + slack)


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
