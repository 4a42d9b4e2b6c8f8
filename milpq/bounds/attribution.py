"""Where the output difference comes from: certified bounds on the contribution of every source of error.

*Sources* are what the quantized side does differently: the input quantizer, the weights and biases of a layer, the
rounding of a step, and what the range of its codes cuts off.  At any one input, with ``h``, ``a`` and ``v`` as both
networks compute them there, the merged network is linear in its sources.  For a clamp ``φ`` there is a secant slope
``s ∈ [0, 1]`` with ``φ(v) − φ(a) = s·(v − a)``, so that

    ``d = Ŵ·δ + [(Ŵ − W)·h + (b̂ − b)]``,  ``δ = s·d + [base(v) − φ(v)] + [φ_q(v) − base(v)]``

is a linear recursion whose brackets are the sources.  The *contribution* of a source is what remains of ``d`` at the
output when every other bracket is set to zero while the slopes stay.  **The contributions add up to ``f_q − f``
exactly, at every input.**

Each is bounded over a cube by the machinery of the whole difference: forward intervals, tightened by backward
substitution in which an undecided slope is relaxed by ``min(t, 0) <= s·t <= max(t, 0)`` and its chords.

*Soundness:* the slopes of a cube are 1 where both sides stay between the kinks, 0 where both stay beyond the same
one, and otherwise only known to lie in [0, 1]; rounding is that of `milpq.bounds.backward`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, Matrix
from milpq.bounds.backward import Functionals, two_sided
from milpq.bounds.forward import AffineSum, ResidueBand, residue_band, saturation
from milpq.bounds.planes import Plane, PlanePair
from milpq.bounds.prepared import Sizes, prepared
from milpq.bounds.relaxation import Band, Relaxation, relax
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine, MergedNode
from milpq.merge.problem import Problem
from milpq.network.nodes import entries

Kind: TypeAlias = Literal["input", "weights", "rounding", "saturation"]

_REFINED = 1024
"""Layers with more undecided neurons keep their interval bounds: substituting them back would take minutes."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source of error.

    Parameters
    ----------
    kind : Kind
        ``input``: the input quantizer; ``weights``: weights and biases of an affine node; ``rounding`` and
        ``saturation``: the two parts of a step.
    layer : str
        Name of the affine node, for a step the one it reads.
    value : int
        Merged value where the error enters; 0 is the input.
    """

    kind: Kind
    layer: str
    value: int


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """Bounds on what one source contributes to ``f_q − f``, of shape (cubes, outputs), real units."""

    source: Source
    bounds: Interval


def list_sources(merged: Merged, *, integer_input: bool) -> tuple[Source, ...]:
    """Return the sources of a merged network, in the order of its values."""
    sources = [Source("input", "input", 0)] if integer_input else []
    for index, node in enumerate(merged.nodes):
        value = index + 1
        if isinstance(node, MergedAffine):
            sources.append(Source("weights", node.name, value))
        else:
            before = merged.nodes[node.source - 1] if node.source else node
            layer = before.name if isinstance(before, MergedAffine) else node.name
            if node.step is not None:
                sources += [Source("rounding", layer, value), Source("saturation", layer, value)]
    return tuple(sources)


def attribute(
    problem: Problem, bounds: Bounds, refine: Callable[[], bool] | None = None
) -> tuple[Contribution, ...]:
    """Bound the contribution of every source over each cube.

    Parameters
    ----------
    bounds : Bounds
        Of the cubes, by any method; the tighter, the tighter the contributions.
    refine : callable, optional
        Asked before each backward substitution; where it says False, intervals are all there is.

    Returns
    -------
    tuple of Contribution
        In the order of `list_sources`.

    *Soundness:* rounded outwards.  At every input of a cube each contribution lies within its bounds, so the sums of
    the bounds hold ``f_q − f``.
    """
    frame = _Frame.of(problem, bounds)
    return tuple(
        Contribution(source, _Spread(frame, source, refine or (lambda: True)).run())
        for source in list_sources(problem.merged, integer_input=problem.domain.integer is not None)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """What the sources share.

    `quiet` holds the nodes without a weight difference; `decided` the slopes that are 1 and those that are 0, for each
    activation value.
    """

    nodes: tuple[MergedNode, ...]
    quiet: tuple[MergedNode, ...]
    sizes: tuple[tuple[Sizes, ...], ...]
    quiet_sizes: tuple[tuple[Sizes, ...], ...]
    values: tuple[ValueBounds, ...]
    decided: dict[int, tuple[BoolArray, BoolArray]]
    float_side: dict[int, Band]
    steps: dict[int, ResidueBand]
    input_difference: Interval
    output: int

    @classmethod
    def of(cls, problem: Problem, bounds: Bounds) -> _Frame:
        merged = problem.merged
        ready = prepared(merged)
        decided: dict[int, tuple[BoolArray, BoolArray]] = {}
        float_side: dict[int, Band] = {}
        steps: dict[int, ResidueBand] = {}
        for index, node in enumerate(merged.nodes):
            if isinstance(node, MergedActivation):
                source = bounds.values[node.source]
                band = residue_band(node, ready.residues[index], source)
                if band is not None:
                    steps[index + 1] = band
                decided[index + 1] = _decided(node, source)
                float_side[index + 1] = relax(node, band, source, carry_difference=True).float_side
        return cls(
            merged.nodes,
            tuple(_quiet(node) if isinstance(node, MergedAffine) else node for node in merged.nodes),
            ready.sizes,
            tuple(
                tuple(replace(size, difference_matrix=_zero(size.difference_matrix)) for size in sizes)
                for sizes in ready.sizes
            ),
            bounds.values,
            decided,
            float_side,
            steps,
            bounds.values[0].difference,
            merged.output,
        )


class _Spread:
    """How one source spreads to the output: bounds ``t`` on its part of the difference of every value."""

    def __init__(self, frame: _Frame, source: Source, refine: Callable[[], bool]) -> None:
        self._frame = frame
        self._may_refine = refine
        self._source = source
        self._reached: set[int] = {source.value}
        self._bands: dict[int, Band] = {}
        self._values: list[ValueBounds] = []
        for known in frame.values:
            nothing = np.zeros_like(known.difference.lower)
            self._values.append(
                ValueBounds(known.float_side, known.quantized_side, Interval(nothing, nothing))
            )

    def run(self) -> Interval:
        """Return bounds on the contribution to every output."""
        frame, first = self._frame, self._source.value
        own = self._own()
        if not (own.lower.any() or own.upper.any()):
            return self._values[frame.output].difference
        self._set(first, own)
        for value in range(first, frame.output + 1):
            node = frame.nodes[value - 1] if value else None
            if value > first and node is not None:
                if self._reached.isdisjoint(node.sources):
                    continue
                self._reached.add(value)
                self._set(value, self._image(value, node))
            wanted = self._undecided(value)
            if isinstance(node, MergedAffine) and 0 < len(wanted) <= _REFINED and self._may_refine():
                self._refine(value, wanted)
        if frame.output in self._reached and self._may_refine():
            everything = np.arange(self._values[frame.output].difference.lower.shape[1], dtype=np.int64)
            self._refine(frame.output, everything)
        return self._values[frame.output].difference

    def _own(self) -> Interval:
        """Return the interval of the source itself, where it enters."""
        frame, value = self._frame, self._source.value
        match self._source.kind:
            case "input":
                return frame.input_difference
            case "rounding":
                return frame.steps[value].residue
            case "saturation":
                node = frame.nodes[value - 1]
                assert isinstance(node, MergedActivation)
                v = frame.values[node.source].quantized_side
                clamped = Interval(
                    np.clip(v.lower, node.lower, node.upper), np.clip(v.upper, node.lower, node.upper)
                )
                step = frame.steps[value]
                cut = saturation(step, clamped)
                # Exactly nothing where the range of the codes is not left.
                return Interval(
                    np.where(clamped.upper <= step.saturation_upper, 0.0, cut.lower),
                    np.where(clamped.lower >= step.saturation_lower, 0.0, cut.upper),
                )
            case "weights":
                node = frame.nodes[value - 1]
                assert isinstance(node, MergedAffine)
                if _same(node):
                    return self._values[value].difference
                total = AffineSum(node.difference_bias, node.difference_bias_error)
                for term, size in zip(node.terms, frame.sizes[value - 1], strict=True):
                    h = frame.values[term.source].float_side
                    total.add(term.difference_matrix, size.difference_matrix, h)
                return total.interval()

    def _image(self, value: int, node: MergedNode) -> Interval:
        """Return the interval image of ``t`` under one node."""
        if isinstance(node, MergedAffine):
            total = AffineSum(np.zeros(node.size))
            for term, size in zip(node.terms, self._frame.sizes[value - 1], strict=True):
                if term.source in self._reached:
                    t = self._values[term.source].difference
                    total.add(term.quantized_matrix, size.quantized_matrix, t)
            return total.interval()
        t = self._values[node.source].difference
        one, zero = self._frame.decided[value]
        self._bands[value] = _slope_band(t, one, zero)
        lower = np.where(one, t.lower, np.where(zero, 0.0, np.minimum(t.lower, 0.0)))
        upper = np.where(one, t.upper, np.where(zero, 0.0, np.maximum(t.upper, 0.0)))
        return Interval(lower, upper)

    def _undecided(self, value: int) -> Int64Array:
        """Return the neurons of a value whose slope some cube leaves open."""
        wanted = np.zeros(self._values[value].difference.lower.shape[1], dtype=np.bool_)
        for reader, (one, zero) in self._frame.decided.items():
            if self._frame.nodes[reader - 1].sources == (value,):
                wanted |= ~(one | zero).all(axis=0)
        return np.flatnonzero(wanted)

    def _refine(self, value: int, chosen: Int64Array) -> None:
        """Tighten ``t`` of the chosen neurons by backward substitution."""
        known = self._values[value].difference
        cubes, size = known.lower.shape
        count = len(chosen)
        rows = np.zeros((2 * count, size))
        rows[np.arange(count), chosen] = 1.0
        rows[np.arange(count, 2 * count), chosen] = -1.0
        functionals = Functionals(cubes, 2 * count)
        functionals.add(value, None, np.broadcast_to(rows, (cubes, *rows.shape)))
        found = two_sided(self._substitute(functionals, value))
        lower, upper = known.lower.copy(), known.upper.copy()
        lower[:, chosen], upper[:, chosen] = found.lower, found.upper
        self._set(value, known.intersect(Interval(lower, upper), f"a contribution at value {value}"))

    def _substitute(self, functionals: Functionals, start: int) -> Float64Array:
        frame, first = self._frame, self._source.value
        for value in range(start, first, -1):
            functionals.forget_differences(self._reached)
            if value in self._reached:
                self._step_back(functionals, value, frame.quiet, frame.quiet_sizes)
        functionals.forget_differences(self._reached)
        if self._source.kind != "weights":
            return functionals.upper(self._values)
        self._step_back(functionals, first, frame.nodes, frame.sizes)
        functionals.forget_differences(())
        for value in range(first - 1, 0, -1):
            self._step_back(functionals, value, frame.quiet, frame.quiet_sizes)
        return functionals.upper(self._values)

    def _step_back(
        self,
        functionals: Functionals,
        value: int,
        nodes: tuple[MergedNode, ...],
        sizes: tuple[tuple[Sizes, ...], ...],
    ) -> None:
        node = nodes[value - 1]
        if isinstance(node, MergedAffine):
            functionals.substitute_affine(value, node, sizes[value - 1], self._values)
        else:
            float_side = self._frame.float_side[value]
            # Below the source only the float side has coefficients, and the second band is not used.
            band = self._bands.get(value, float_side)
            functionals.substitute_activation(value, node, Relaxation(float_side, band))

    def _set(self, value: int, difference: Interval) -> None:
        self._values[value] = replace(self._values[value], difference=difference)


def _decided(node: MergedActivation, source: ValueBounds) -> tuple[BoolArray, BoolArray]:
    """Return where the secant slope is 1 and where it is 0, for all inputs of each cube."""
    sides = source.float_side, source.quantized_side
    inside = [(side.lower >= node.lower) & (side.upper <= node.upper) for side in sides]
    below = [side.upper <= node.lower for side in sides]
    above = [side.lower >= node.upper for side in sides]
    return inside[0] & inside[1], (below[0] & below[1]) | (above[0] & above[1])


def _slope_band(t: Interval, one: BoolArray, zero: BoolArray) -> Band:
    """Return the band of ``s·t``, between ``min(t, 0)`` and ``max(t, 0)`` and their chords where `s` is open."""
    straddles = (t.lower < 0) & (t.upper > 0) & ~one & ~zero
    width = np.where(straddles, t.upper - t.lower, 1.0)
    high = np.where(straddles, t.upper / width, t.lower >= 0)
    low = np.where(straddles, -t.lower / width, t.upper <= 0)
    high, low = (np.where(one, 1.0, np.where(zero, 0.0, slope)) for slope in (high, low))
    none = np.zeros_like(high)
    pair = PlanePair(
        Plane(none, low, np.where(straddles, -low * t.upper, 0.0)),
        Plane(none, high, np.where(straddles, -high * t.lower, 0.0)),
    )
    nowhere = Interval(none, none)
    return Band.of(pair.widened(nowhere, t), nowhere, t)


def _same(node: MergedAffine) -> bool:
    """Tell whether both sides have exactly the same weights and biases."""
    matrices = [entries(term.difference_matrix) for term in node.terms]
    return not any(part.any() for part in (*matrices, node.difference_bias, node.difference_bias_error))


def _quiet(node: MergedAffine) -> MergedAffine:
    """Return a node whose two sides have the same weights and biases."""
    nothing = np.zeros_like(node.difference_bias)
    terms = tuple(replace(term, difference_matrix=_zero(term.difference_matrix)) for term in node.terms)
    return replace(node, terms=terms, difference_bias=nothing, difference_bias_error=nothing)


def _zero(matrix: Matrix) -> Matrix:
    return np.zeros(matrix.shape) if isinstance(matrix, np.ndarray) else matrix * 0.0
