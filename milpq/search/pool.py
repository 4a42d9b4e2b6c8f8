"""Witnesses: the best executed inputs known so far, one for each objective."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.merge import Problem
from milpq.network.integer_network import IntegerNetwork


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """One executed input and the difference it shows.

    Parameters
    ----------
    output : int
        Index of the network output.
    sign : int
        +1 where ``f_q − f`` is asked to be large, −1 where ``f − f_q`` is.
    point : float64, shape (inputs,)
        What `f` reads: float32 numbers, or the real values of codes.
    levels : int64, shape (inputs,)
        What the integer side reads; zero for a real quantized side.
    difference : float
        ``f_q − f`` at that output, rounded to nearest.
    lower : float
        At most ``sign·(f_q − f)`` in exact arithmetic.
    """

    output: int
    sign: int
    point: Float64Array
    levels: Int64Array
    difference: float
    lower: float


@dataclass(frozen=True, slots=True, eq=False)
class WitnessPool:
    """The best witness of each objective, in the order of ``milpq.search.execution.signed``.

    Parameters
    ----------
    points : float64, shape (objectives, inputs)
    levels : int64, shape (objectives, inputs)
    values : float64, shape (objectives,)
        ``sign·(f_q − f)`` as executed.
    lower : float64, shape (objectives,)
        Not above the exact ``sign·(f_q − f)``; minus infinity where there is no witness yet.
    outputs : int64, shape (chosen,)
    """

    points: Float64Array
    levels: Int64Array
    values: Float64Array
    lower: Float64Array
    outputs: Int64Array

    @classmethod
    def empty(cls, problem: Problem) -> WitnessPool:
        """Return a pool without witnesses."""
        objectives, inputs = 2 * len(problem.outputs), problem.merged.input_size
        nothing = np.full(objectives, -np.inf)
        return cls(
            np.zeros((objectives, inputs)),
            np.zeros((objectives, inputs), dtype=np.int64),
            nothing,
            nothing.copy(),
            problem.outputs,
        )

    @property
    def largest(self) -> float:
        """A lower bound on the largest ``|f_q − f|`` over the chosen outputs, at least 0."""
        return max(0.0, float(self.lower.max()))

    @property
    def best(self) -> Witness | None:
        """The witness of the largest ``|f_q − f|``."""
        return self.witness(int(np.argmax(self.lower)))

    def witness(self, objective: int) -> Witness | None:
        """Return the witness of one objective, or None where there is none."""
        if not np.isfinite(self.lower[objective]):
            return None
        chosen = len(self.outputs)
        sign = 1 if objective < chosen else -1
        return Witness(
            int(self.outputs[objective % chosen]),
            sign,
            self.points[objective],
            self.levels[objective],
            sign * float(self.values[objective]),
            float(self.lower[objective]),
        )

    def update(
        self, points: Float64Array, levels: Int64Array, difference: Float64Array, error: Float64Array
    ) -> WitnessPool:
        """Return the pool with executed points added.

        Parameters
        ----------
        points : float64, shape (points, inputs)
        levels : int64, shape (points, inputs)
        difference : float64, shape (points, chosen)
            ``f_q − f``, each within `error`.
        error : float64, shape (chosen,) or (points, chosen)

        *Soundness:* lower ends are rounded downwards.
        """
        if not len(points):
            return self
        if error.ndim == 1:
            # Taking one error off and rounding keep the order: the largest value has the largest lower end.
            row = np.concatenate([difference.argmax(axis=0), difference.argmin(axis=0)])
        else:
            row = np.concatenate([(difference - error).argmax(axis=0), (difference + error).argmin(axis=0)])
        chosen = len(self.outputs)
        output, sign = np.tile(np.arange(chosen), 2), np.repeat([1.0, -1.0], chosen)
        values = sign * difference[row, output]
        lower = np.nextafter(values - np.broadcast_to(error, difference.shape)[row, output], -np.inf)
        better = lower > self.lower
        if not better.any():
            return self
        return WitnessPool(
            frozen(np.where(better[:, None], points[row], self.points)),
            frozen(np.where(better[:, None], levels[row], self.levels)),
            frozen(np.where(better, values, self.values)),
            frozen(np.where(better, lower, self.lower)),
            self.outputs,
        )

    def join(self, other: WitnessPool) -> WitnessPool:
        """Return the better witness of two pools, objective by objective; ties stay with this one."""
        better = other.lower > self.lower
        if not better.any():
            return self
        return WitnessPool(
            frozen(np.where(better[:, None], other.points, self.points)),
            frozen(np.where(better[:, None], other.levels, self.levels)),
            frozen(np.where(better, other.values, self.values)),
            frozen(np.where(better, other.lower, self.lower)),
            self.outputs,
        )


def enclose_difference(problem: Problem, point: Float64Array) -> list[tuple[Fraction, Fraction]]:
    """Return fractions around ``f_q − f`` at one input for every chosen output; both are exact without curves."""
    reference = problem.float_network.enclose(point)
    quantized = problem.quantized
    if isinstance(quantized, IntegerNetwork):
        levels = quantized.execute(problem.quantized_levels(point[None]))[0]
        exact = [
            Fraction(float(scale)) * int(level)
            for scale, level in zip(quantized.output_scale, levels, strict=True)
        ]
        other = exact, exact
    else:
        other = quantized.enclose(point)
    chosen: list[int] = problem.outputs.tolist()
    return [(other[0][j] - reference[1][j], other[1][j] - reference[0][j]) for j in chosen]


def refine_exact(problem: Problem, witness: Witness) -> Witness:
    """Return the witness with its difference recomputed in exact arithmetic.

    Slow (see ``FloatNetwork.evaluate_exact``): for a witness that is reported, not for searching.

    *Soundness:* `lower` is the largest float64 number that does not exceed the exact value.
    """
    chosen: list[int] = problem.outputs.tolist()
    position = chosen.index(witness.output)
    least, most = enclose_difference(problem, witness.point)[position]
    end = least if witness.sign > 0 else most
    return Witness(
        witness.output,
        witness.sign,
        witness.point,
        witness.levels,
        float(end),
        round_down(witness.sign * end),
    )


def refine_pool(problem: Problem, pool: WitnessPool) -> WitnessPool:
    """Return the pool with every lower end recomputed by `refine_exact`."""
    values, lower = pool.values.copy(), pool.lower.copy()
    for objective in range(len(lower)):
        witness = pool.witness(objective)
        if witness is not None:
            refined = refine_exact(problem, witness)
            values[objective] = witness.sign * refined.difference
            lower[objective] = refined.lower
    return WitnessPool(pool.points, pool.levels, frozen(values), frozen(lower), pool.outputs)


def sharpen(problem: Problem, pool: WitnessPool) -> WitnessPool:
    """Return the pool with lower ends by the running error of each witness, where these are higher.

    An order below the error that holds on the whole domain, which near a maximum would be a gap to close.
    """
    known = np.flatnonzero(np.isfinite(pool.lower))
    points = pool.points[known]
    return pool.update(points, pool.levels[known], *problem.differences(points)) if len(known) else pool


def round_down(value: Fraction) -> float:
    """Return the largest float64 number that is not above a fraction."""
    nearest = float(value)
    return math.nextafter(nearest, -math.inf) if Fraction(nearest) > value else nearest


def round_up(value: Fraction) -> float:
    """Return the smallest float64 number that is not below a fraction."""
    return -round_down(-value)
