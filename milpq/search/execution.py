"""Fast execution of both networks on many points, with one error bound for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen, gamma
from milpq.merge import MergedAffine, Problem
from milpq.network.curves import CURVE_ERROR
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, Smooth, absolute, apply_matrix, row_terms
from milpq.network.program import evaluate_fast, execute_fast, levels_fast

CHUNK = 2048
"""Points executed at once: the activations of a small network then stay in the cache."""

_NUMBERS = 1 << 18
"""Numbers read and given at once: more would not stay in the cache between the two networks."""

_CHUNK_S = 1.0
"""Large networks execute fewer points at once, about so many seconds of them."""


def signed(difference: Float64Array) -> Float64Array:
    """Return the objectives of some differences: ``[d, −d]``, shape (points, 2·chosen).

    Objective ``k`` asks for the largest ``f_q − f`` of chosen output ``k``, objective ``chosen + k`` for its
    largest ``f − f_q``.
    """
    return np.concatenate([difference, -difference], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """Both networks of a problem, ready to run on points of its domain.

    Parameters
    ----------
    problem : Problem

    Attributes
    ----------
    error : float64, shape (chosen,)
        ``|run(x) − (f_q − f)(x)| <= error`` for every ``x`` of the domain.

    *Soundness:* the running error analysis of ``FloatNetwork.evaluate_with_error``, on intervals of the values in the
    domain instead of on the values themselves.
    """

    problem: Problem
    error: Float64Array = field(init=False)

    def __post_init__(self) -> None:
        problem = self.problem
        root = problem.domain.root
        size, error = _largest_error(problem.float_network, root.lower[0], root.upper[0])
        quantized = problem.quantized
        if isinstance(quantized, IntegerNetwork):
            level = np.maximum(*(np.abs(end) for end in quantized.reachable[quantized.output]))
            other_size = quantized.output_scale * level * (1 + gamma(2))
            other_error = gamma(2) * other_size + 5e-324
        elif isinstance(quantized, DynamicNetwork):
            other_size = quantized.largest_output(np.maximum(np.abs(root.lower), np.abs(root.upper))[0])
            other_error = np.zeros_like(other_size)
        else:
            other_size, other_error = _largest_error(quantized, root.lower[0], root.upper[0])
        total = (error + other_error + gamma(2) * (size + other_size)) * (1 + 1e-12)
        object.__setattr__(self, "error", frozen(total[problem.outputs]))

    @property
    def objectives(self) -> int:
        """Number of objectives: two signs for each chosen output."""
        return 2 * len(self.problem.outputs)

    def run(self, points: Float64Array, levels: Int64Array | None = None) -> Float64Array:
        """Return ``f_q − f`` of the chosen outputs, shape (points, chosen), within `error`.

        Parameters
        ----------
        points : float64, shape (points, inputs)
            What `f` reads.
        levels : int64, shape (points, inputs), optional
            What the integer side reads, where the caller knows it already.
        """
        result = np.empty((len(points), len(self.problem.outputs)))
        numbers = points.shape[1] + 2 * self.problem.merged.output_size
        chunk = max(1, min(chunk_size(self.problem), _NUMBERS // numbers))
        for start in range(0, len(points), chunk):
            part = slice(start, start + chunk)
            reference, other = self.outputs(points[part], None if levels is None else levels[part])
            np.subtract(other, reference, out=result[part])
        return result

    def outputs(
        self, points: Float64Array, levels: Int64Array | None = None
    ) -> tuple[Float64Array, Float64Array]:
        """Return the chosen outputs of ``f`` and ``f_q``, each of shape (points, chosen); `run` is their difference.

        All points are executed at once: the caller chooses how many, see `chunk_size`.
        """
        problem = self.problem
        quantized = problem.quantized
        if isinstance(quantized, IntegerNetwork):
            read = quantized_levels(problem, points) if levels is None else levels
            other = execute_fast(quantized, read) * quantized.output_scale
        elif isinstance(quantized, DynamicNetwork):
            other = quantized.evaluate(points)
        else:
            other = evaluate_fast(quantized, points)
        return evaluate_fast(problem.float_network, points)[:, problem.outputs], other[:, problem.outputs]


def compile_execution(problem: Problem) -> None:
    """Have execution compiled, which takes seconds once on every machine, before time counts."""
    Execution(problem).run(problem.domain.root.lower)


def quantized_levels(problem: Problem, points: Float64Array) -> Int64Array:
    """Return what ``problem.quantized_levels`` does, shape (points, inputs), compiled where inputs are real."""
    integer = problem.domain.integer
    if problem.domain.kind == "codes":
        return problem.quantized_levels(points)
    assert integer is not None and integer.quantizer is not None
    return levels_fast(integer.quantizer, points)


def chunk_size(problem: Problem) -> int:
    """Return how many points to execute at once: `CHUNK`, or fewer of a network whose values would fill the memory."""
    return max(1, min(CHUNK, int(_CHUNK_S / execution_s(problem))))


def execution_s(problem: Problem) -> float:
    """Return roughly how long one execution of both networks takes in a large batch, in processor seconds.

    A model of operations, not a measurement: what is chosen by it stays the same from run to run.
    """
    products, neurons = 0.0, 0
    for node in problem.merged.nodes:
        if isinstance(node, MergedAffine):
            for term in node.terms:
                matrix = term.float_matrix
                products += 2 * (matrix.size if isinstance(matrix, np.ndarray) else 1.5 * matrix.nnz)
        else:
            neurons += node.size
    return products * 3.5e-11 + neurons * 1e-9 + 3e-8


def _largest_error(
    network: FloatNetwork, lower: Float64Array, upper: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return bounds on the output's magnitude and on the error of its float64 evaluation, shape (outputs,).

    Parameters
    ----------
    lower, upper : float64, shape (inputs,)
        The inputs, which carry no error.

    *Soundness:* `FloatNetwork.evaluate_with_error`, with intervals that hold the exact values in place of the values.
    An interval ``m ± r`` becomes ``Wm + b ± |W|r``, widened by what summing that up may round; the size of a value
    that is read is the largest of its interval and its error.
    """
    ends, errors = [(lower, upper)], [np.zeros_like(lower)]
    with np.errstate(over="ignore", invalid="ignore"):
        for node in network.nodes:
            if isinstance(node, Affine):
                middle, size = node.bias, np.abs(node.bias)
                spread = carried = np.zeros_like(size)
                width = 4 + sum(row_terms(term.matrix) for term in node.terms)
                for term in node.terms:
                    matrix, (low, high) = absolute(term.matrix), ends[term.source]
                    half = np.nextafter(0.5 * (high - low), np.inf)
                    middle = middle + apply_matrix(term.matrix, (low + half)[None])[0]
                    spread = spread + apply_matrix(matrix, half[None])[0]
                    reach = np.maximum(np.abs(low), np.abs(high)) + errors[term.source]
                    size = size + apply_matrix(matrix, reach[None])[0]
                    carried = carried + apply_matrix(matrix, errors[term.source][None])[0]
                slack = 1 + 4 * gamma(width)
                error = (gamma(width) * size + carried) * slack + width * 5e-324
                # Middle and half sum to no more than three times the size, and are rounded as its sum is.
                widened = spread + 8 * gamma(width) * size * slack + width * 5e-324
                low, high = middle - widened, middle + widened
            elif isinstance(node, Smooth):
                low = np.full_like(errors[node.source], node.curve.lower)
                high = np.full_like(low, node.curve.upper)
                error = (node.curve.steepest * errors[node.source] + CURVE_ERROR) * (1 + 2.0**-50)
            else:
                low, high = (np.clip(end, node.lower, node.upper) for end in ends[node.source])
                error = errors[node.source]
            ends.append((low, high))
            errors.append(np.where(np.isnan(error), np.inf, error))
    (low, high), error = ends[network.output], errors[network.output]
    size = np.maximum(np.abs(low), np.abs(high)) + error
    return np.where(np.isnan(size), np.inf, size), error
