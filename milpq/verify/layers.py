"""How much each layer contributes to the error: certified bounds beside what sampling sees."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds import differential, interval
from milpq.bounds.attribution import Source, attribute
from milpq.bounds.values import Bounds
from milpq.errors import SoundnessError, UnsupportedModelError, UsageError
from milpq.formats.provenance import source_files
from milpq.formats.sides import FloatSource, QuantizedSource
from milpq.merge import Cubes, MergedAffine, Problem
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import entries
from milpq.search.budget import Budget
from milpq.search.halves import choose, halve
from milpq.search.inputs import FeedableInputs
from milpq.verify.explanation import Explanation, Share
from milpq.verify.models import RegionSource, load_box, load_pair, pose
from milpq.verify.options import checked_domain, checked_twin
from milpq.verify.result import Result
from milpq.verify.spread import execute_sources

PARTS: Final = 256
"""Parts into which a region of few inputs is cut."""

_FEW_INPUTS: Final = 8
_LARGE: Final = 20_000
"""Networks with more neurons are bounded by intervals alone: backward substitution takes minutes a source."""

_POINTS: Final = 2000
_FEW_POINTS: Final = 20
_OPERATIONS: Final = 4e9
"""Of the execution of random inputs."""

_CHUNK: Final = 2_000_000
"""Numbers in the array of contributions of one chunk."""

_SLACK: Final = 1e-9
"""Of the size of all contributions together: what float64 adds to a sampled one."""


def explain(
    float_network: FloatSource,
    quantized: QuantizedSource,
    region: RegionSource,
    *,
    target: str | None = None,
    input_domain: str | None = None,
    outputs: Sequence[int] | None = None,
    parts: int | None = None,
    seed: int = 0,
    float_twin: str | None = None,
    time_limit: float | None = None,
) -> Explanation:
    """Say how much each source of error contributes to ``f_q − f``, at most and as sampled.

    At every input the contributions of all sources add up to ``f_q − f`` exactly; see `milpq.bounds.attribution` for
    what a contribution is.

    Parameters
    ----------
    float_network, quantized, region, target, input_domain, outputs, float_twin
        As for `milpq.bound`.
    parts : int, optional
        Cut the region into about so many parts, which makes the bounds tighter; by default one part, and `PARTS`
        where the networks have few inputs.
    seed : int
        Of the random inputs.
    time_limit : float, optional
        Seconds after which shares not yet bounded keep what intervals give.  Very large networks get no more in any
        case, which a note says.

    Raises
    ------
    MilpqError
        A file, network, region, target or option is not usable.
    SoundnessError
        An executed input contradicts a bound.

    *Soundness:* certified shares are rounded upwards, and every sample is checked against them.
    """
    if parts is not None and not 1 <= parts <= 1_000_000:
        raise UsageError(f"the number of parts must be from 1 to 1000000, not {parts}")
    if not 0 <= seed < 2**31:
        raise UsageError(f"the seed must be from 0 to 2147483647, not {seed}")
    domain, twin = checked_domain(input_domain), checked_twin(float_twin)
    box, region_origin = load_box(region)
    pair = load_pair(float_network, quantized, target, twin)
    problem = pose(pair, box, region_origin, domain, outputs)
    if time_limit is not None and not 0.0 < time_limit < math.inf:
        raise UsageError(f"the time limit must be a positive number of seconds, not {time_limit}")
    found = explain_problem(
        problem, region_origin, parts=parts, seed=seed, notes=pair.notes, budget=Budget(time_limit)
    )
    return replace(found, files=source_files(float_network, quantized, region, twin))


def explain_problem(
    problem: Problem,
    region_origin: str = "<memory>",
    *,
    parts: int | None = None,
    seed: int = 0,
    notes: tuple[str, ...] = (),
    budget: Budget | None = None,
    known: Bounds | None = None,
) -> Explanation:
    """Explain a problem; see `explain`.

    Parameters
    ----------
    known : Bounds, optional
        Bounds of the root cube, which are used where the region is not cut.

    Raises
    ------
    UnsupportedModelError
        The networks have layers whose error has no such parts.
    """
    if not problem.merged.is_exact:
        raise UnsupportedModelError(
            f"{problem.quantized.origin}: quantizes its activations dynamically; what its layers contribute "
            "is not known to milpq"
        )
    if not problem.merged.is_piecewise_linear:
        raise UnsupportedModelError(
            f"{problem.float_network.origin}: holds a sigmoid or tanh; milpq explains piecewise linear networks"
        )
    started = time.monotonic()
    budget = budget or Budget()
    large = sum(node.size for node in problem.merged.nodes) > _LARGE
    if large:
        notes = (*notes, f"more than {_LARGE:,} neurons: shares are bounded by intervals alone, and loose")
    wanted = parts or (PARTS if problem.merged.input_size <= _FEW_INPUTS and not large else 1)
    cubes = cut(problem, wanted)
    sources, certified, upper = _certify(problem, cubes, known, lambda: not (large or budget.spent))
    largest, square, sampled_max, points = _sample(problem, sources, seed)
    slack = _SLACK * (certified.sum(axis=0) + 1e-300)
    if (largest > certified + slack).any() or (sampled_max > upper + slack).any():
        wrong = np.argwhere(largest > certified + slack)
        what = "the output error"
        if len(wrong):
            source = sources[int(wrong[0, 0])]
            what = f"the {source.kind} of {source.layer!r}"
        raise SoundnessError(
            f"soundness alarm: an executed input exceeds the certified share of {what}; please report this with "
            "both models"
        )
    quantized = problem.quantized
    chosen: list[int] = problem.outputs.tolist()
    return Explanation(
        tuple(
            Share(source.kind, source.layer, certified[k], largest[k], np.sqrt(square[k] / points))
            for k, source in enumerate(sources)
        ),
        tuple(chosen),
        upper,
        sampled_max,
        quantized.output_scale[problem.outputs] if isinstance(quantized, IntegerNetwork) else None,
        problem.hash(),
        problem.float_network.origin,
        quantized.origin,
        region_origin,
        quantized.target if isinstance(quantized, IntegerNetwork) else None,
        problem.domain.kind,
        len(cubes),
        points,
        seed,
        notes,
        time.monotonic() - started,
    )


def add_explanation(
    result: Result, problem: Problem, seed: int, left_s: float | None, known: Bounds | None
) -> Result:
    """Return the result with what each layer contributes, as tight as the time that is left allows.

    Networks that cannot be explained get a note that says why.
    """
    asked = result.problem
    budget = Budget(None if left_s is None else max(left_s, 0.0))
    try:
        found = explain_problem(
            problem, asked.region_origin, seed=seed, notes=asked.notes, budget=budget, known=known
        )
    except UnsupportedModelError as error:
        return replace(result, problem=replace(asked, notes=(*asked.notes, str(error))))
    return replace(result, explanation=found)


def cut(problem: Problem, parts: int) -> Cubes:
    """Return the domain as about so many cubes, halved along the input that is widest relative to the region."""
    domain = problem.domain
    cubes = domain.root
    width = np.maximum(cubes.upper - cubes.lower, 1e-300)
    whole: list[Cubes] = []
    while len(cubes) and 2 * len(cubes) + sum(map(len, whole)) <= parts:
        dimension, possible = choose(domain, cubes, (cubes.upper - cubes.lower) / width)
        if not possible.all():
            whole.append(cubes.select(np.flatnonzero(~possible)))
        inside = np.flatnonzero(possible)
        cubes = halve(domain, cubes.select(inside), dimension[inside])
    return Cubes.concatenate([*whole, cubes])


def _certify(
    problem: Problem, cubes: Cubes, known: Bounds | None, refine: Callable[[], bool]
) -> tuple[tuple[Source, ...], Float64Array, Float64Array]:
    """Return the sources, their certified shares (sources, chosen), and bounds on the whole (chosen,).

    The whole is bounded by the differential method and by the sum of the contributions, the better of both on every
    cube.
    """
    chosen = problem.outputs
    sources: tuple[Source, ...] = ()
    certified: Float64Array = np.zeros(0)
    upper: Float64Array = np.zeros(len(chosen))
    widest = max([problem.merged.input_size] + [node.size for node in problem.merged.nodes])
    batch = max(1, 500_000 // (widest * min(widest, 64)))
    for start in range(0, len(cubes), batch):
        part = cubes.select(slice(start, start + batch))
        bounds = interval(problem, part)
        if known is not None and len(cubes) == 1:
            bounds = bounds.intersect(known)
        elif refine():
            bounds = bounds.intersect(differential(problem, part))
        found = attribute(problem, bounds, refine)
        sources = tuple(one.source for one in found)
        lower = np.stack([one.bounds.lower[:, chosen] for one in found])
        higher = np.stack([one.bounds.upper[:, chosen] for one in found])
        shares = np.maximum(np.maximum(-lower, higher), 0.0).max(axis=1)
        certified = shares if not certified.size else np.maximum(certified, shares)
        # A float64 sum of so few numbers is within 1e-12 of their magnitudes.
        slack = 1e-12 * np.maximum(-lower, higher).sum(axis=0)
        whole = bounds.difference
        ends = (
            np.minimum(higher.sum(axis=0) + slack, whole.upper[:, chosen]),
            np.minimum(slack - lower.sum(axis=0), -whole.lower[:, chosen]),
        )
        upper = np.maximum(upper, np.maximum(*ends).max(axis=0))
    return sources, certified, upper


def _sample(
    problem: Problem, sources: tuple[Source, ...], seed: int
) -> tuple[Float64Array, Float64Array, Float64Array, int]:
    """Return the largest contributions seen, the sums of their squares, the largest differences, and the points."""
    generator = np.random.default_rng(seed)
    inputs = FeedableInputs(problem)
    chosen = problem.outputs
    largest, square = np.zeros((2, len(sources), len(chosen)))
    whole = np.zeros(len(chosen))
    operations = len(sources) * sum(
        entries(term.quantized_matrix).size
        for node in problem.merged.nodes
        if isinstance(node, MergedAffine)
        for term in node.terms
    )
    points = min(_POINTS, max(_FEW_POINTS, int(_OPERATIONS // max(operations, 1))))
    widest = max([problem.merged.input_size] + [node.size for node in problem.merged.nodes])
    chunk = max(1, _CHUNK // (widest * len(sources)))
    for start in range(0, points, chunk):
        batch = inputs.random(generator, min(chunk, points - start))
        contributions = execute_sources(problem, sources, batch)[:, :, chosen]
        largest = np.maximum(largest, np.abs(contributions).max(axis=1))
        square += np.square(contributions).sum(axis=1)
        whole = np.maximum(whole, np.abs(contributions.sum(axis=0)).max(axis=0))
    return largest, square, whole, points
