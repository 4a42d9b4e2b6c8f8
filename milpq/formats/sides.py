"""From what a user hands over, paths, torch modules or objects, to the two networks of a question."""

from __future__ import annotations

import os
from typing import TypeAlias

from milpq.errors import TargetError, UsageError
from milpq.formats._files import PathLike, TorchModule
from milpq.formats.load import load_float, load_quantized
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.layout import match_layouts
from milpq.network.pairing import dequantized_twin
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target

Unsettled: TypeAlias = "FloatNetwork | IntegerNetwork | QuantizedModel | DynamicNetwork"
"""A quantized side whose rounding a target may have to settle."""

FloatSource: TypeAlias = "FloatNetwork | PathLike | TorchModule"
QuantizedSource: TypeAlias = "Unsettled | PathLike | TorchModule"


def load_sides(
    float_source: FloatSource, quantized_source: QuantizedSource, *, dequantized: bool
) -> tuple[FloatNetwork, Unsettled]:
    """Load what is no object yet, and bring the float side into the layout of the quantized one.

    Parameters
    ----------
    dequantized : bool
        Whether the float side is the integer model's own weights; `float_source` is not read then.

    Raises
    ------
    MilpqError
        A file is unreadable, or there is no integer model to dequantize.
    """
    quantized = load_quantized_side(quantized_source)
    if dequantized:
        if not isinstance(quantized, QuantizedModel):
            raise UsageError(
                "--float-twin dequantized needs an integer model, from a file or a QuantizedModel"
            )
        return dequantized_twin(quantized), quantized
    stored = isinstance(float_source, str | os.PathLike | TorchModule)
    network = load_float(float_source) if stored else float_source
    if isinstance(quantized, QuantizedModel | FloatNetwork):
        network = match_layouts(network, quantized)
    return network, quantized


def load_quantized_side(source: QuantizedSource, *, keep_final_activation: bool = False) -> Unsettled:
    """Return the quantized side; a final sigmoid of a file is kept only for execution."""
    if isinstance(source, str | os.PathLike | TorchModule):
        return load_quantized(source, keep_final_activation=keep_final_activation)
    return source


def on_target(model: Unsettled, target: str | None) -> FloatNetwork | IntegerNetwork | DynamicNetwork:
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
