"""Random sampling: what testing alone would say, and a check on every bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from milpq.merge import Problem
from milpq.search.budget import Budget
from milpq.search.execution import Execution, chunk_size
from milpq.search.inputs import FeedableInputs
from milpq.search.pool import WitnessPool, sharpen


@dataclass(frozen=True, slots=True)
class Sampled:
    """Statistics of ``f_q − f`` over uniform random feedable inputs and the chosen outputs.

    Parameters
    ----------
    points : int
    max : float
        Largest ``|f_q − f|`` seen, real units; rounded downwards, so it never lies above a bound.
    rmse : float
        Root of the mean of ``(f_q − f)²``, real units.
    sqnr_db : float or None
        ``10·log10(Σ f² / Σ (f_q − f)²)``; None where one of the sums is zero.
    """

    points: int
    max: float
    rmse: float
    sqnr_db: float | None


def sample(
    problem: Problem, points: int, seed: int, pool: WitnessPool, budget: Budget | None = None
) -> tuple[Sampled, WitnessPool]:
    """Execute both networks on uniform random inputs.

    Parameters
    ----------
    points : int
        How many inputs; fewer where the budget runs out after the first chunk.
    pool : WitnessPool
        Where the samples are added, so that each of them is checked against each bound.
    """
    budget = budget or Budget()
    generator = np.random.default_rng(seed)
    chunk = chunk_size(problem)
    execution, inputs = Execution(problem), FeedableInputs(problem)
    done, square, signal = 0, 0.0, 0.0
    own = WitnessPool.empty(problem)
    while done < points and not (done and budget.spent):
        batch = inputs.random(generator, min(chunk, points - done))
        levels = inputs.levels(batch)
        reference, other = execution.outputs(batch, levels)
        difference = other - reference
        own = own.update(batch, levels, difference, execution.error)
        square += float(np.square(difference).sum())
        signal += float(np.square(reference).sum())
        done += len(batch)
    own = sharpen(problem, own)
    rmse = math.sqrt(square / (done * len(problem.outputs)))
    sqnr = 10.0 * math.log10(signal / square) if signal > 0.0 and square > 0.0 else None
    return Sampled(done, max(0.0, float(own.lower.max())), rmse, sqnr), pool.join(own)
