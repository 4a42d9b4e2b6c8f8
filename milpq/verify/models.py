"""From what a user hands over, paths or objects, to the two networks of a problem and its region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from milpq.errors import RegionError, about
from milpq.formats import load_region
from milpq.formats._files import PathLike
from milpq.formats.sides import FloatSource, QuantizedSource, load_sides, on_target
from milpq.merge import DomainKind, Problem, QuantizedNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.pairing import check_ends, check_pair
from milpq.network.quantized_model import QuantizedModel
from milpq.region.box import Box
from milpq.verify.options import FloatTwin

if TYPE_CHECKING:
    import numpy.typing as npt

RegionSource: TypeAlias = "Box | tuple[npt.ArrayLike, npt.ArrayLike] | PathLike"


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two networks ready to be merged.

    Parameters
    ----------
    notes : tuple of str
        What a reader of the answer must know about them.
    """

    float_network: FloatNetwork
    quantized: QuantizedNetwork
    notes: tuple[str, ...]


def load_pair(
    float_source: FloatSource, quantized_source: QuantizedSource, target: str | None, twin: FloatTwin
) -> Pair:
    """Load what is a path, settle the rounding, and check that the two are a pair.

    Raises
    ------
    MilpqError
        A file is unreadable, the target is missing or unknown, or the two are not a pair.
    """
    dequantized = twin == "dequantized"
    float_network, model = load_sides(float_source, quantized_source, dequantized=dequantized)
    if isinstance(model, QuantizedModel) and not dequantized:
        check_pair(float_network, model)
    quantized = on_target(model, target)
    check_ends(float_network, quantized)
    notes = ["the float side is the integer model's own weights in real arithmetic"] if dequantized else []
    notes += [f"{side.origin}: {side.note}" for side in (float_network, quantized) if side.note]
    return Pair(float_network, quantized, tuple(notes))


def load_box(source: RegionSource) -> tuple[Box, str]:
    """Return the region and where it comes from."""
    if isinstance(source, Box):
        return source, "<memory>"
    if isinstance(source, tuple):
        return Box(*source), "<memory>"
    return load_region(source), str(source)


def pose(
    pair: Pair, box: Box, region_origin: str, domain: DomainKind | None, outputs: Sequence[int] | None
) -> Problem:
    """Return the question about a pair over a region.

    Raises
    ------
    MilpqError
        The networks, the region and the outputs do not fit together.
    """
    with about(region_origin, RegionError):
        return Problem.create(
            pair.float_network, pair.quantized, box, domain, None if outputs is None else list(outputs)
        )
