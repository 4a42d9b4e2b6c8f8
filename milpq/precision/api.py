"""From what a user hands over to a search over widths and its result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy.typing as npt

from milpq.errors import TargetError, UsageError
from milpq.formats import load_float
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedModel
from milpq.precision.configurations import COSTS, CostKind, Costs, Widths
from milpq.precision.result import PrecisionResult, SearchProgress, pareto_front
from milpq.precision.search import PrecisionSearch, SearchOptions
from milpq.quantization import Scheme, calibrate_network, linear_layers, quantize_calibrated
from milpq.rounding.targets import get_target
from milpq.verify.models import RegionSource, load_box
from milpq.verify.options import all_cores, checked_domain


def search_precision(
    float_network: FloatNetwork | str | os.PathLike[str],
    calibration: npt.ArrayLike | str | os.PathLike[str],
    region: RegionSource,
    tolerance: float,
    *,
    target: str,
    widths: Sequence[int] | Sequence[Sequence[int]] = (2, 3, 4, 5, 6, 7, 8),
    cost: CostKind = "memory",
    scheme: Scheme | None = None,
    input_domain: str | None = None,
    outputs: Sequence[int] | None = None,
    front: bool = True,
    gap: float = 0.01,
    time_limit: float | None = None,
    question_limit: float | None = 60.0,
    solver: str = "auto",
    jobs: int | None = None,
    seed: int = 0,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> PrecisionResult:
    """Find the cheapest bits of weights, layer by layer, whose certified error stays within a tolerance.

    Parameters
    ----------
    float_network, calibration
        As in `milpq.quantize`.
    region : Box, pair of array-likes (lower, upper), or path
        Inputs over which the error is certified, real units.
    tolerance : float
        Largest ``|f_q − f|`` allowed, real units.
    target : str
        Id of the inference target; the question has no meaning without one.
    widths : sequence of int, or one such sequence a layer
        Bits of the weights that are tried, 2 to 16.
    cost : "memory" or "macs"
        Bits of weights and biases, or multiplications times bits of their weight.
    scheme : Scheme, optional
        All else about the quantization, the same for all configurations.
    input_domain, outputs, solver, jobs, seed
        As in `milpq.bound`.
    front : bool
        Also measure the front of cost against certified error, up to the answer.
    gap : float
        Relative gap to which the front is measured; what is better by less may be missing from it.
    time_limit, question_limit : float, optional
        Seconds for everything, and for one call of the verifier.
    on_progress : callable, optional
        Given a `SearchProgress` now and then.

    Returns
    -------
    PrecisionResult
        ``status`` is ``optimal`` where every cheaper configuration was shown to violate the tolerance by an
        executed input, ``certified`` where some cheaper ones are undecided.

    Raises
    ------
    MilpqError
        A file, option, region or target is not usable.
    SoundnessError
        An executed input contradicts a bound.

    *Soundness:* an error counts as certified where `milpq.bound` or propagation has proved it; see `Record`.
    No configuration is left out because another one with more or fewer bits was good or bad.
    """
    started = time.monotonic()
    if cost not in COSTS:
        raise UsageError(f"unknown cost {cost!r}; use one of {', '.join(COSTS)}")
    if not target:
        raise TargetError("a search needs a target; `milpq targets` lists them")
    options = SearchOptions(
        tolerance,
        front,
        gap,
        time_limit,
        question_limit,
        solver,
        all_cores() if jobs is None else jobs,
        seed,
        on_progress,
    )
    domain, chosen = checked_domain(input_domain), get_target(target)
    if not isinstance(float_network, FloatNetwork):
        float_network = load_float(float_network)
    network = float_network
    layers = linear_layers(network)
    choices = _choices(widths, len(layers))

    base = scheme or Scheme()

    def quantize(bits: Widths) -> QuantizedModel:
        return quantize_calibrated(network, calibrated, replace(base, weight_bits=bits), chosen)

    for tried in choices:
        replace(base, weight_bits=tried)
    calibrated = calibrate_network(network, calibration, base, chosen)
    box, region_origin = load_box(region)
    box.check_size(network.input_size)
    search = PrecisionSearch(
        network,
        quantize,
        choices,
        Costs.of_layers(layers, cost),
        box,
        domain,
        None if outputs is None else list(outputs),
        options,
    )
    status, best, known = search.run()
    records = sorted((found.record() for found in known), key=lambda record: (record.cost, record.widths))
    return PrecisionResult(
        status,
        tolerance,
        cost,
        tuple(layer.name for layer in layers),
        None if best is None else best.record(),
        None if best is None else best.model,
        tuple(records),
        pareto_front(records),
        search.effort(),
        {
            "float": network.origin,
            "region": {"path": region_origin, "lower": box.lower.tolist(), "upper": box.upper.tolist()},
            "target": chosen.name,
            "input_domain": domain,
            "outputs": None if outputs is None else sorted(set(outputs)),
            "widths": [list(tried) for tried in choices],
            "gap": gap,
            "seed": seed,
        },
        time.monotonic() - started,
    )


def _choices(widths: Sequence[int] | Sequence[Sequence[int]], layers: int) -> tuple[tuple[int, ...], ...]:
    """Return the widths each layer may have, ascending.

    Raises
    ------
    UsageError
        There are none, or of another number of layers.
    """
    same = [int(width) for width in widths if not isinstance(width, Sequence)]
    each = [width for width in widths if isinstance(width, Sequence)]
    if same and each:
        raise UsageError("widths: give numbers, or one list of numbers a layer")
    choices = [same] * layers if same else each
    if len(choices) != layers:
        raise UsageError(f"widths for {len(choices)} layers, but the network has {layers}")
    if not all(len(tried) for tried in choices):
        raise UsageError("widths: a layer has none to try")
    return tuple(tuple(sorted(set(tried))) for tried in choices)
