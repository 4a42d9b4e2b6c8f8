"""From what a user hands over, paths or objects, to the two networks of a problem."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from milpq.errors import TargetError, UsageError
from milpq.formats import TorchModule, load_float, load_quantized, load_region
from milpq.merge import QuantizedNetwork
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.layout import match_layouts
from milpq.network.pairing import check_ends, check_pair, dequantized_twin
from milpq.network.quantized_model import QuantizedModel
from milpq.region.box import Box
from milpq.rounding.targets import get_target
from milpq.verify.options import FloatTwin

if TYPE_CHECKING:
    import numpy.typing as npt

PathLike: TypeAlias = "str | os.PathLike[str]"
FloatSource: TypeAlias = "FloatNetwork | PathLike | TorchModule"
QuantizedSource: TypeAlias = (
    "FloatNetwork | IntegerNetwork | QuantizedModel | DynamicNetwork | PathLike | TorchModule"
)
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
    quantized_model = load_quantized_side(quantized_source)
    if twin == "dequantized":
        if not isinstance(quantized_model, QuantizedModel):
            raise UsageError(
                "--float-twin dequantized needs an integer model, from a file or a QuantizedModel"
            )
        float_network = dequantized_twin(quantized_model)
        notes = ["the float side is the integer model's own weights in real arithmetic"]
    else:
        float_network = _load_float_side(float_source)
        notes = []
        if isinstance(quantized_model, QuantizedModel | FloatNetwork):
            float_network = match_layouts(float_network, quantized_model)
        if isinstance(quantized_model, QuantizedModel):
            check_pair(float_network, quantized_model)
    quantized = on_target(quantized_model, target)
    check_ends(float_network, quantized)
    notes += [f"{side.origin}: {side.note}" for side in (float_network, quantized) if side.note]
    return Pair(float_network, quantized, tuple(notes))


def load_quantized_side(
    source: QuantizedSource, *, keep_final_activation: bool = False
) -> FloatNetwork | IntegerNetwork | QuantizedModel | DynamicNetwork:
    """Return the quantized side; a final sigmoid of a file is kept only for execution."""
    if isinstance(source, str | os.PathLike | TorchModule):
        return load_quantized(source, keep_final_activation=keep_final_activation)
    return source


def _load_float_side(source: FloatSource) -> FloatNetwork:
    return load_float(source) if isinstance(source, str | os.PathLike | TorchModule) else source


def on_target(
    model: FloatNetwork | IntegerNetwork | QuantizedModel | DynamicNetwork, target: str | None
) -> QuantizedNetwork:
    """Settle the rounding of a quantized model as the target with this id executes it.

    Raises
    ------
    TargetError
        The target is missing or unknown, or it is given for a network whose arithmetic is settled.
    """
    if isinstance(model, QuantizedModel | DynamicNetwork):
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
    if isinstance(source, Box):
        return source, "<memory>"
    if isinstance(source, tuple):
        return Box(*source), "<memory>"
    return load_region(source), str(source)
