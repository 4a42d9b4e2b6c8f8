"""The alarm: executed points against the bounds of the cubes that hold them."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import SoundnessError
from milpq.merge import Cubes
from milpq.search.execution import Execution
from milpq.search.pool import WitnessPool


def check_values(
    cubes: Cubes, upper: Float64Array, values: Float64Array, points: Float64Array, execution: Execution
) -> None:
    """Check one executed point of each cube against the bounds of the cube.

    Parameters
    ----------
    upper, values : float64, shape (cubes, objectives)
        Bounds, and objectives as executed; minus infinity is not checked.
    points : float64, shape (cubes, inputs)

    Raises
    ------
    SoundnessError
        A value exceeds its bound by more than the error of the execution, or a bound is NaN.
    """
    outputs: list[int] = execution.problem.outputs.tolist()
    least = np.nextafter(values - np.tile(execution.error, 2), -np.inf)
    wrong = np.argwhere(~(least <= upper))
    if len(wrong):
        row, objective = (int(i) for i in wrong[0])
        raise SoundnessError(
            f"executing the input {points[row].tolist()} gives {_name(objective, outputs)} = "
            f"{float(values[row, objective])!r}, above the "
            f"bound {float(upper[row, objective])!r} of the cube {describe(cubes, row)}"
        )


def check_pool(cubes: Cubes, upper: Float64Array, pool: WitnessPool) -> None:
    """Check that no cube is bounded below a known witness that it holds.

    Raises
    ------
    SoundnessError
        A witness exceeds the bound of a cube it lies in.
    """
    for objective in np.flatnonzero(np.isfinite(pool.lower)).tolist():
        below = np.flatnonzero(upper[:, objective] < pool.lower[objective])
        point, levels = pool.points[objective], pool.levels[objective]
        part = cubes.select(below)
        inside = (part.lower <= point) & (point <= part.upper)
        inside &= (part.level_lower <= levels) & (levels <= part.level_upper)
        wrong = below[inside.all(axis=1)]
        if len(wrong):
            row = int(wrong[0])
            raise SoundnessError(
                f"the witness {point.tolist()} has {_name(objective, pool.outputs.tolist())} >= "
                f"{float(pool.lower[objective])!r}, above the bound {float(upper[row, objective])!r} of the "
                f"cube {describe(cubes, row)}"
            )


def describe(cubes: Cubes, row: int) -> str:
    """Return one cube in words: its ends, and its levels where it has some."""
    text = f"[{cubes.lower[row].tolist()}, {cubes.upper[row].tolist()}]"
    if cubes.level_lower[row].any() or cubes.level_upper[row].any():
        text += f" (levels {cubes.level_lower[row].tolist()} to {cubes.level_upper[row].tolist()})"
    return text


def _name(objective: int, outputs: list[int]) -> str:
    sides = "f_q − f" if objective < len(outputs) else "f − f_q"
    return f"({sides})[{outputs[objective % len(outputs)]}]"
