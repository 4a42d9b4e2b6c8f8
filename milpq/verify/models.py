"""From what a user hands over, paths or objects, to the two networks of a problem."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from milpq.errors import NotAPairError, TargetError, UsageError
from milpq.merge import QuantizedNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.quantized_model import QuantizedModel
from milpq.region.box import Box
from milpq.verify.options import FloatTwin

if TYPE_CHECKING:
    import numpy.typing as npt

PathLike: TypeAlias = "str | os.PathLike[str]"
FloatSource: TypeAlias = "FloatNetwork | PathLike"
QuantizedSource: TypeAlias = "FloatNetwork | IntegerNetwork | QuantizedModel | PathLike"
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
    from milpq.formats import load_float, load_quantized  # noqa: PLC0415 - reads no model format before one is asked for
    from milpq.network.pairing import check_pair, dequantized_twin  # noqa: PLC0415

    quantized_model = (
        load_quantized(quantized_source)
        if isinstance(quantized_source, str | os.PathLike)
        else quantized_source
    )
    float_network = load_float(float_source) if isinstance(float_source, str | os.PathLike) else float_source
    if isinstance(quantized_model, QuantizedModel):
        if twin == "dequantized":
            float_network = dequantized_twin(quantized_model)
        else:
            check_pair(float_network, quantized_model)
    elif twin == "dequantized":
        raise UsageError(
            "the float twin 'dequantized' needs an integer model, from a file or as a QuantizedModel"
        )
    quantized = on_target(quantized_model, target)
    notes = [f"{network.origin}: {network.note}" for network in (float_network, quantized) if network.note]
    if twin == "dequantized":
        notes.append("the float side is the integer model's own weights in real arithmetic")
    if bool(float_network.note) != bool(quantized.note) and any("igmoid" in note for note in notes):
        raise NotAPairError(
            f"only one of the two networks ends in a sigmoid ({notes[0]}); remove it from that one"
        )
    return Pair(float_network, quantized, tuple(notes))


def settle(source: QuantizedSource, target: str | None) -> QuantizedNetwork:
    """Load a quantized network and settle its rounding."""
    from milpq.formats import load_quantized  # noqa: PLC0415

    return on_target(load_quantized(source) if isinstance(source, str | os.PathLike) else source, target)


def on_target(model: FloatNetwork | IntegerNetwork | QuantizedModel, target: str | None) -> QuantizedNetwork:
    """Settle the rounding of a quantized model as the target with this id executes it.

    Raises
    ------
    TargetError
        The target is missing or unknown, or it is given for a network whose arithmetic is settled.
    """
    from milpq.rounding.targets import get_target  # noqa: PLC0415

    if isinstance(model, QuantizedModel):
        return model.on_target(None if target is None else get_target(target))
    if target is not None:
        get_target(target)
        if isinstance(model, FloatNetwork):
            raise TargetError(
                f"{model.origin}: is computed in real arithmetic, so --target {target} has no meaning"
            )
        if model.target != target:
            raise TargetError(f"{model.origin}: was made for target {model.target}, not {target}")
    return model


def load_box(source: RegionSource) -> tuple[Box, str]:
    """Return the region and where it comes from."""
    from milpq.formats import load_region  # noqa: PLC0415

    if isinstance(source, Box):
        return source, "<memory>"
    if isinstance(source, tuple):
        return Box(*source), "<memory>"
    return load_region(source), str(source)
