"""From a suite to its cases: every combination, in the order of the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from milpq.bench.places import find
from milpq.bench.suite import (
    FilePair,
    FixedPointPair,
    Grid,
    Limits,
    MethodName,
    PairSpec,
    QuantizedPair,
    RandomPair,
    RegionSpec,
    Suite,
    WeightsPair,
)
from milpq.bench.tasks import build_region, quantized_on_box, random_pair, rounded_weights
from milpq.formats import load_float
from milpq.formats.sides import on_target
from milpq.merge import DomainKind, Problem, QuantizedNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedModel
from milpq.quantization import quantize_fixed_point
from milpq.region.box import Box
from milpq.verify.models import load_pair

_Spec = TypeVar("_Spec", bound="PairSpec | RegionSpec | Limits")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One question, one method, one set of limits; the sweeps of its parts are settled.

    Parameters
    ----------
    tolerance : float or None
        Real units; None asks for the bracket.
    outputs : tuple of int or None
        None asks about all.
    time_s, grace_s : float
        Seconds: the limit given to the method, and what it may overrun before it is stopped.
    memory_mib : int
        Mebibytes of the process.
    """

    grid: str
    pair: PairSpec
    region: RegionSpec
    target: str | None
    domain: DomainKind | None
    outputs: tuple[int, ...] | None
    tolerance: float | None
    method: MethodName
    solver: str
    gap: float
    seed: int
    time_s: float
    grace_s: float
    memory_mib: int
    jobs: int

    @property
    def axes(self) -> dict[str, float]:
        """The numbers of the sweeps, by name: what plots are drawn over."""
        return {
            name: getattr(spec, name)
            for spec in (self.pair, self.region)
            for name in spec.sweeps
            if isinstance(getattr(spec, name), int | float)
        }

    @property
    def words(self) -> list[str]:
        """What is asked, for people, in parts."""
        parts = [self.pair.name, *_settled_values(self.pair), self.region.name, *_settled_values(self.region)]
        parts += [word for word in (self.target, self.domain) if word is not None]
        if self.outputs is not None:
            parts.append(f"outputs={','.join(map(str, self.outputs))}")
        if self.tolerance is not None:
            parts.append(f"tolerance={self.tolerance:g}")
        return parts

    @property
    def question(self) -> str:
        """What is asked, for people."""
        return " ".join(self.words)

    @property
    def label(self) -> str:
        """A name no other case of the suite has."""
        effort = f"{self.method} {self.time_s:g} s" + (f" {self.jobs} jobs" if self.jobs > 1 else "")
        return f"{self.grid}: {self.question}, {effort}"


def expand(suite: Suite, time_limit: float | None = None) -> list[Case]:
    """Return the cases of a suite, in its order.

    Parameters
    ----------
    time_limit : float, optional
        Seconds; cases to which the suite gives more get this.
    """
    cases = (case for grid in suite.grid for case in _expand_grid(suite, grid))
    return [
        case if time_limit is None else replace(case, time_s=min(case.time_s, time_limit)) for case in cases
    ]


def _expand_grid(suite: Suite, grid: Grid) -> Iterator[Case]:
    pairs = [settled for pair in grid.pairs for settled in _settle(pair)]
    regions = [settled for region in grid.regions for settled in _settle(region)]
    limits = list(_settle(grid.limits or suite.limits))
    outputs = [None if chosen == "all" else tuple(chosen) for chosen in grid.outputs]
    axes = itertools.product(
        pairs,
        grid.targets or [None],
        grid.domains or [None],
        regions,
        outputs,
        grid.tolerances or [None],
        grid.methods,
        limits,
    )
    for pair, target, domain, region, chosen, tolerance, method, limit in axes:
        assert isinstance(limit.time_s, float | int)
        assert isinstance(limit.jobs, int)
        yield Case(
            grid.name,
            pair,
            region,
            target,
            domain,
            chosen,
            tolerance,
            method,
            grid.solver,
            suite.gap if grid.gap is None else grid.gap,
            suite.seed,
            float(limit.time_s),
            limit.grace_s,
            limit.memory_mib,
            limit.jobs,
        )


def _settle(spec: _Spec) -> Iterator[_Spec]:
    """Yield a specification with every combination of its sweeps."""
    fields = [name for name in spec.sweeps if isinstance(getattr(spec, name), list)]
    for values in itertools.product(*(getattr(spec, name) for name in fields)):
        yield spec.model_copy(update=dict(zip(fields, values, strict=True)))


def _settled_values(spec: PairSpec | RegionSpec) -> list[str]:
    return [f"{name}={getattr(spec, name):g}" for name in spec.sweeps]


class Poser:
    """Turns cases into problems; each pair of networks is made once.

    Parameters
    ----------
    folder : Path
        Of the suite; its paths are relative to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: tuple[object, FloatNetwork, QuantizedNetwork] | None = None

    def pose(self, case: Case) -> Problem:
        """Return the problem of a case.

        Raises
        ------
        MissingDataError
            A file of the data folder is not there.
        MilpqError
            Some part of the case is not usable.
        """
        key = (case.pair, case.target)
        if self._last is None or self._last[0] != key:
            self._last = (key, *self._sides(case.pair, case.target))
        _, float_network, quantized = self._last
        box = build_region(case.region, quantized, self._folder)
        outputs = None if case.outputs is None else list(case.outputs)
        return Problem.create(float_network, quantized, box, case.domain, outputs)

    def _sides(self, spec: PairSpec, target: str | None) -> tuple[FloatNetwork, QuantizedNetwork]:
        if isinstance(spec, FilePair):
            files = [find(path, self._folder) for path in (spec.float_file, spec.quantized)]
            pair = load_pair(files[0], files[1], target, spec.float_twin)
            return pair.float_network, pair.quantized
        if isinstance(spec, RandomPair):
            return _random(spec, target)
        network = load_float(find(spec.float_file, self._folder))
        assert isinstance(spec.bits, int)
        if isinstance(spec, WeightsPair):
            return network, on_target(rounded_weights(network, spec.bits), target)
        if isinstance(spec, FixedPointPair):
            # Settled here: clipped weights are more than half a step off, which no pair of files may be.
            return network, on_target(quantize_fixed_point(network, spec.bits), target)
        return network, on_target(_on_box(spec, network), target)


def _on_box(spec: QuantizedPair, network: FloatNetwork) -> QuantizedModel:
    assert isinstance(spec.bits, int)
    box = Box(spec.lower, spec.upper)
    box.check_size(network.input_size)
    return quantized_on_box(network, box.lower, box.upper, spec.bits, spec.seed)


def _random(spec: RandomPair, target: str | None) -> tuple[FloatNetwork, QuantizedNetwork]:
    numbers = spec.inputs, spec.width, spec.depth, spec.bits, spec.seed
    inputs, width, depth, bits, seed = (number for number in numbers if isinstance(number, int))
    network, quantized = random_pair([inputs, *[width] * depth, spec.outputs], bits, seed)
    if spec.weights_only:
        return network, on_target(rounded_weights(network, bits), target)
    return network, on_target(quantized, target)
