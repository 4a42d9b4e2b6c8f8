"""Read input regions: ``.toml``, ``.npz``, and the box of a ``.vnnlib`` file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import RegionError
from milpq.formats._files import PathLike, beside, read_npy, read_npz, read_text, to_float64
from milpq.formats.vnnlib_box import read_vnnlib_box
from milpq.region.box import Box


def load_region(path: PathLike) -> Box:
    """Return the box a region file describes, whatever its format.

    Raises
    ------
    RegionError
        The file is unreadable, of an unknown ending, or does not describe a box of finite numbers.
    """
    readers = {".toml": read_toml_region, ".npz": read_npz_region, ".vnnlib": read_vnnlib_box}
    ending = Path(path).suffix.lower()
    if ending not in readers:
        raise RegionError(f"{path}: regions end in .toml, .npz or .vnnlib, not {ending!r}")
    return readers[ending](path)


def read_toml_region(path: PathLike) -> Box:
    """Return the box of a TOML file.

    Either ``lower`` and ``upper`` (lists of numbers), or ``center`` (a list, or the name of a ``.npy`` file
    beside the TOML file), ``radius`` (a number or a list) and optionally ``clip = [lower, upper]``.

    *Soundness:* numbers are read as the nearest float64; ``center ± radius`` of those is rounded outward, so
    the box contains the one described.

    Raises
    ------
    RegionError
        The file is unreadable, has an unknown or missing key, or does not describe a box.
    """
    try:
        content = tomllib.loads(read_text(path, RegionError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RegionError(f"{path}: is not TOML ({error})") from error
    keys = set(content)
    if keys == {"lower", "upper"}:
        return _box(path, _numbers(path, content, "lower"), _numbers(path, content, "upper"))
    if {"center", "radius"} <= keys <= {"center", "radius", "clip"}:
        return _ball(path, content)
    unknown = sorted(keys - {"lower", "upper", "center", "radius", "clip"})
    if unknown:
        raise RegionError(
            f"{path}: unknown key {unknown[0]!r}; a region has lower and upper, or center and radius"
        )
    raise RegionError(
        f"{path}: give either lower and upper, or center and radius (and clip), not {sorted(keys)}"
    )


def read_npz_region(path: PathLike) -> Box:
    """Return the box of a ``.npz`` file with the arrays ``lower`` and ``upper``, flattened row-major.

    Raises
    ------
    RegionError
        The file is unreadable, or holds other arrays than these two.
    """
    arrays = read_npz(path, RegionError)
    if set(arrays) != {"lower", "upper"}:
        raise RegionError(f"{path}: holds the arrays {sorted(arrays)}; a region has lower and upper")
    return _box(path, _flat(arrays["lower"]), _flat(arrays["upper"]))


def _ball(path: PathLike, content: dict[str, Any]) -> Box:
    """Return ``center ± radius``, rounded outward and clipped."""
    if isinstance(content["center"], str):
        center = _flat(read_npy(beside(path, content["center"], RegionError), RegionError))
    else:
        center = _numbers(path, content, "center")
    if isinstance(content["radius"], list):
        radius = _numbers(path, content, "radius")
    else:
        radius = np.full(center.shape, _number(path, "radius", content["radius"]))
    if radius.shape != center.shape:
        raise RegionError(f"{path}: center has {len(center)} entries but radius has {len(radius)}")
    if not (radius >= 0).all():
        raise RegionError(f"{path}: radius must not be negative")
    lower, upper = 0.0 - _sum_rounded_up(-center, radius), _sum_rounded_up(center, radius)
    if "clip" in content:
        clip = _numbers(path, content, "clip")
        if len(clip) != 2 or not clip[0] <= clip[1]:
            raise RegionError(f"{path}: clip must be [lower, upper]")
        lower, upper = np.maximum(lower, clip[0]), np.minimum(upper, clip[1])
    return _box(path, lower, upper)


def _sum_rounded_up(first: Float64Array, second: Float64Array) -> Float64Array:
    """Return the float64 just above the exact sum, or the sum itself where it is exact."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = first + second
        back = total - first
        error = (first - (total - back)) + (second - back)  # Knuth's TwoSum: exactly what rounding lost.
        return np.where(error > 0, np.nextafter(total, np.inf), total)


def _numbers(path: PathLike, content: dict[str, Any], key: str) -> Float64Array:
    entries: object = content[key]
    if not isinstance(entries, list):
        raise RegionError(f"{path}: {key} must be a list of numbers")
    return np.array(
        [_number(path, f"{key}[{i}]", entry) for i, entry in enumerate(cast("list[object]", entries))],
        dtype=np.float64,
    )


def _number(path: PathLike, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RegionError(f"{path}: {key} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise RegionError(f"{path}: {key} is too large") from None


def _flat(array: npt.NDArray[Any]) -> Float64Array:
    return to_float64(array).ravel()


def _box(path: PathLike, lower: Float64Array, upper: Float64Array) -> Box:
    try:
        return Box(lower, upper)
    except RegionError as error:
        raise RegionError(f"{path}: {error}") from error
