"""How the branch and bound bounds cubes, and what it learns about where to split and where to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds._ascent_kernel import compile_ascent
from milpq.bounds.classes import CodeClasses, has_classes
from milpq.bounds.symbolic import Arrays, check_placeable, differential, differential_on
from milpq.bounds.values import Bounds, Interval
from milpq.bounds.zonotope import FEW_INPUTS, supports, zonotope_objectives
from milpq.errors import UsageError
from milpq.merge import Cubes, Problem
from milpq.search.behind import compile_behind
from milpq.search.gradient import difference_gradient
from milpq.search.slopes import influence

Bound: TypeAlias = Callable[[Problem, Cubes], Bounds]
"""A propagation such as `milpq.bounds.differential`, batched over cubes."""


@dataclass(frozen=True, slots=True, eq=False)
class CubeBounds:
    """What a bounding says of a batch of cubes.

    Parameters
    ----------
    upper : float64, shape (cubes, objectives)
        Upper bounds on the objectives.
    float_side : Interval, shape (cubes, chosen)
        Bounds on the chosen outputs of `f`.
    score : float64, shape (cubes, inputs)
        How much a split along each input promises.
    towards : float64, shape (cubes, inputs)
        A point of each cube where an objective above its threshold is likely to be large.
    values : Bounds or None
        Bounds on every merged value, where the bounding has them.
    """

    upper: Float64Array
    float_side: Interval
    score: Float64Array
    towards: Float64Array
    values: Bounds | None


class Bounding(Protocol):
    """A bounding method of the branch and bound; picklable where the executor has processes."""

    @property
    def executions(self) -> int:
        """How many executions of both networks cost about as much as bounding one cube."""
        ...

    def __call__(self, problem: Problem, cubes: Cubes, threshold: Float64Array) -> CubeBounds:
        """Bound the objectives over each cube; those at most `threshold`, shape (objectives,), do not matter."""
        ...


@dataclass(frozen=True, slots=True)
class Propagated:
    """Any propagation as a bounding.

    A split along an input promises its width times how strongly it can move the outputs.
    """

    bound: Bound
    executions: int = 2048

    def __call__(self, problem: Problem, cubes: Cubes, threshold: Float64Array) -> CubeBounds:
        """Bound the objectives over each cube."""
        values = self.bound(problem, cubes)
        outputs, difference = problem.outputs, values.difference
        upper = np.concatenate([difference.upper[:, outputs], -difference.lower[:, outputs]], axis=1)
        score = (cubes.upper - cubes.lower) * influence(problem, values)
        middle = 0.5 * cubes.lower + 0.5 * cubes.upper
        objective = np.argmax(upper - np.where(np.isfinite(threshold), threshold, 0.0), axis=1)
        gradient = sum(difference_gradient(problem, middle, objective), np.zeros_like(middle))
        side = values.values[problem.merged.output].float_side
        float_side = Interval(side.lower[:, outputs], side.upper[:, outputs])
        return CubeBounds(upper, float_side, score, np.where(gradient > 0, cubes.upper, cubes.lower), values)


@dataclass(frozen=True, slots=True)
class Zonotope:
    """The compiled zonotope: thousands of cubes of a small network each second."""

    executions: int = 100

    def __call__(self, problem: Problem, cubes: Cubes, threshold: Float64Array) -> CubeBounds:
        """Bound the objectives over each cube."""
        # Cells of the continuous domain are bounded by the slopes that bounds on every value give.
        every = problem.domain.kind == "continuous"
        found = zonotope_objectives(problem, cubes, threshold, every=every)
        return CubeBounds(found.upper, found.float_side, found.score, found.towards, found.values)


@dataclass(frozen=True, slots=True)
class OnDevice:
    """`milpq.bounds.differential` by torch on a device, as a propagation.

    Parameters
    ----------
    name : str
        ``cuda``; or ``cpu``, for torch on the host.
    """

    name: str

    def __call__(self, problem: Problem, cubes: Cubes) -> Bounds:
        """Bound every value of the merged network over each cube."""
        return differential_on(problem, cubes, _arrays(self.name))


DEVICES: Final = ("cpu", "cuda")

DEVICE_BATCH: Final = 2048
"""Cubes split in one job on a GPU, which is busy with no fewer."""


def check_device(name: str) -> None:
    """Check the name of a device, and that it can be used.

    Raises
    ------
    UsageError
        It cannot.
    """
    if name not in DEVICES:
        raise UsageError(f"unknown device {name!r}; use {' or '.join(DEVICES)}")
    if name != "cpu":
        _arrays(name)


def _arrays(name: str) -> Arrays:
    try:
        from milpq.bounds.device import TorchArrays  # noqa: PLC0415 - takes seconds, and is an extra
    except ImportError:
        raise UsageError(f"--device {name} needs torch: pip install 'milpq[torch]'") from None
    return TorchArrays(name)


def compile_bounding(problem: Problem, device: str) -> None:
    """Have the bounding of a problem compiled, which takes seconds once on every machine, before time counts."""
    bounding = fitting(problem, device)
    if isinstance(bounding, Zonotope):
        bounding(problem, problem.domain.root, np.full(2 * len(problem.outputs), np.inf))
        if has_classes(problem.quantized):
            lowest = problem.domain.root.level_lower
            CodeClasses(problem.quantized).image(problem.domain.cubes_of_levels(lowest, lowest))
    elif problem.merged.is_exact:
        compile_ascent()
        compile_behind(problem)


def fitting(problem: Problem, device: str = "cpu") -> Bounding:
    """Return the bounding that suits the size of a problem; off the host always the differential one.

    Raises
    ------
    UnsupportedModelError
        The device does not take the networks.
    """
    if device != "cpu":
        check_placeable(problem)
        return Propagated(OnDevice(device))
    if problem.merged.input_size <= FEW_INPUTS and supports(problem.merged):
        return Zonotope()
    return Propagated(differential)
