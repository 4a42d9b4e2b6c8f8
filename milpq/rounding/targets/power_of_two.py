"""Runtimes that requantize by shifting: CMSIS-NN's legacy q7 kernels, NNoM, and kin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from milpq.errors import TargetError
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.requantizers import power_of_two_requantizer
from milpq.rounding.targets.base import TargetFamily, factor_float64, spell

OPTIONS = {"input": ("half-away", "rint-div", "rint-mul", "floor-div")}
"""The input quantizer belongs to the user's program here, so it is an option."""

_SUMMARIES = {
    "half-up": "power-of-two scales, rounding shift (CMSIS-NN legacy q7, NNoM)",
    "floor": "power-of-two scales, plain shift (CMSIS-NN legacy q7 and NNoM with truncation)",
    "half-even": "power-of-two scales, shift with half to even (ESP32-P4)",
}


@dataclass(frozen=True, slots=True)
class PowerOfTwoTarget:
    """Requantization by a right shift.

    Parameters
    ----------
    rounding : "half-up", "floor" or "half-even"
    input_rounding : str
        The rule with which the user's program quantizes the input.
    """

    rounding: str
    input_rounding: str = "half-away"

    @property
    def name(self) -> str:
        """The id, options included."""
        return spell(f"pow2-{self.rounding}", {"input": self.input_rounding}, OPTIONS)

    @property
    def summary(self) -> str:
        """One line for lists."""
        return _SUMMARIES[self.rounding]

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            Input scale times weight scale over output scale is not a power of two.
        """
        # Float32 significands have 24 bits, so the product is exact in float64, and a quotient that is
        # exactly a power of two is exact as well; the comparison repeats it as a product to be sure of that.
        factor = factor_float64(requantization, "float64")
        fraction, exponent = np.frexp(factor)
        product = np.float64(requantization.input_scale) * requantization.weight_scales
        exact = (fraction == 0.5) & (factor * np.float64(requantization.output_scale) == product)
        if not exact.all():
            channel = int(np.flatnonzero(~exact)[0])
            raise TargetError(
                f"{self.name}: channel {channel} needs the factor {float(factor[channel]):g}, which is not a "
                "power of two; use power-of-two scales or another target"
            )
        return power_of_two_requantizer(
            1 - exponent.astype(np.int64),
            self.rounding,
            requantization.output_zero_point,
            requantization.code_lower,
            requantization.code_upper,
        )


def _build_half_up(options: Mapping[str, str]) -> PowerOfTwoTarget:
    return PowerOfTwoTarget("half-up", options["input"])


def _build_floor(options: Mapping[str, str]) -> PowerOfTwoTarget:
    return PowerOfTwoTarget("floor", options["input"])


def _build_half_even(options: Mapping[str, str]) -> PowerOfTwoTarget:
    return PowerOfTwoTarget("half-even", options["input"])


FAMILIES = (
    TargetFamily("pow2-half-up", _build_half_up, OPTIONS),
    TargetFamily("pow2-floor", _build_floor, OPTIONS),
    TargetFamily("pow2-half-even", _build_half_even, OPTIONS),
)
