"""A quantized model as its file states it, before an inference target settles the rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import TargetError, about
from milpq.network.images import Image
from milpq.network.integer_network import IntegerInput, IntegerNetwork
from milpq.network.lowering import Lowering
from milpq.network.quantized_layers import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedMaximum,
    QuantizedOffset,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
    StatedKernel,
    StatedRequantization,
)
from milpq.rounding.input_quantizer import InputQuantizer
from milpq.rounding.requantization import Requantization, Target

__all__ = [
    "QuantizedAverage",
    "QuantizedLayer",
    "QuantizedLinear",
    "QuantizedLookup",
    "QuantizedMaximum",
    "QuantizedModel",
    "QuantizedOffset",
    "QuantizedSelection",
    "QuantizedSum",
    "QuantizedUnary",
    "StatedKernel",
    "StatedRequantization",
]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """A quantized model as stated by its file.

    Parameters
    ----------
    float_scale : float64, shape (inputs,)
        What `f` reads per input level when inputs are on codes; normally equal to `input_scale`.
    input_rounding : str or None
        Input quantizer rule the file states itself; None leaves it to the target.
    images : tuple of Image or None, one a value, or empty
        What is known to be an image, and its layout.
    """

    input_scale: Float64Array
    input_zero_point: int
    input_code_lower: int
    input_code_upper: int
    float_scale: Float64Array
    layers: tuple[QuantizedLayer, ...]
    output: int
    origin: str = "<memory>"
    note: str = ""
    input_rounding: str | None = None
    images: tuple[Image | None, ...] = ()

    @property
    def needs_target(self) -> bool:
        """Tell whether an inference target must settle some rounding."""
        return any(
            isinstance(layer.requantization, Requantization)
            if isinstance(layer, QuantizedLinear)
            else isinstance(layer, QuantizedOffset)
            or (isinstance(layer, QuantizedUnary | QuantizedSum | QuantizedAverage) and layer.stated is None)
            for layer in self.layers
        )

    def on_target(self, target: Target | None) -> IntegerNetwork:
        """Settle every rounding as `target` executes it.

        Raises
        ------
        TargetError
            A target is needed and none was given, or it cannot run a layer.
        AccumulatorOverflowError
            An accumulator can leave int32.
        """
        if target is None and self.needs_target:
            raise TargetError(
                f"{self.origin}: the file does not settle how its layers round; name the runtime "
                "with --target (`milpq targets` lists them)"
            )
        with about(self.origin):
            return self._lowered(target)

    def _lowered(self, target: Target | None) -> IntegerNetwork:
        level_lower = self.input_code_lower - self.input_zero_point
        level_upper = self.input_code_upper - self.input_zero_point
        rule = self.input_rounding or (target.input_rounding if target is not None else None)
        size = len(self.input_scale)
        integer_input = IntegerInput(
            self.input_scale,
            self.input_zero_point,
            level_lower,
            level_upper,
            self.float_scale,
            None
            if rule is None
            else InputQuantizer.from_rule(
                rule,
                self.input_scale,
                np.full(size, self.input_zero_point, dtype=np.int64),
                self.input_code_lower,
                self.input_code_upper,
            ),
        )
        lowering = Lowering(
            np.full(size, level_lower, dtype=np.int64), np.full(size, level_upper, dtype=np.int64), target
        )
        value_of = [0]
        for layer in self.layers:
            value_of.append(lowering.lower(layer, value_of))
        output, last = value_of[self.output], self.layers[self.output - 1] if self.output else None
        if isinstance(last, QuantizedSelection):
            output = lowering.as_codes(last, output)
        return IntegerNetwork(
            integer_input,
            tuple(lowering.nodes),
            output,
            target.name if target is not None else "as stated",
            self.origin,
            self.note,
        )
