"""What the target families share: factors from scales, and how a family names its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import TargetError
from milpq.rounding.arithmetic import Float32Array, quantize_multiplier
from milpq.rounding.requantization import Requantization, Requantizer, Target
from milpq.rounding.requantizers import explicit_requantizer

Product: TypeAlias = Literal["float64", "float32"]
"""How a runtime multiplies input scale and weight scale before it divides by the output scale."""


@dataclass(frozen=True, slots=True)
class TargetFamily:
    """An entry of the registry: one id, the values its options take, and how to build the target.

    Parameters
    ----------
    name : str
        The id without options.
    build : callable
        Called with a value for every option; returns the target.
    options : mapping of option name to allowed values, the default first
    """

    name: str
    build: Callable[[Mapping[str, str]], Target]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def spell(name: str, options: Mapping[str, str], family_options: Mapping[str, tuple[str, ...]]) -> str:
    """Return the id with those options that differ from their default, in the family's order."""
    given = [f"{key}={options[key]}" for key in family_options if options[key] != family_options[key][0]]
    return f"{name}:{','.join(given)}" if given else name


def factor_float64(requantization: Requantization, product: Product) -> Float64Array:
    """Return input scale · weight scale / output scale, shape (channels,), the last division in float64.

    With ``product="float32"`` the product of scales is rounded to float32 first.

    References
    ----------
    TensorFlow Lite, ``kernels/kernel_util.cc``: ``GetQuantizedConvolutionMultipler`` (either product, by
    version) and ``PopulateConvolutionQuantizationParams`` (always float64).
    """
    require_scales(requantization)
    if product == "float32":
        scale = np.float32(requantization.input_scale)
        both = (scale * requantization.weight_scales.astype(np.float32)).astype(np.float64)
    else:
        both = np.float64(requantization.input_scale) * requantization.weight_scales
    return both / np.float64(requantization.output_scale)


def factor_float32(requantization: Requantization) -> Float32Array:
    """Return input scale · weight scale / output scale in float32 throughout, shape (channels,)."""
    require_scales(requantization)
    both = np.float32(requantization.input_scale) * requantization.weight_scales.astype(np.float32)
    return both / np.float32(requantization.output_scale)


def is_per_tensor_fully_connected(requantization: Requantization) -> bool:
    """Whether the layer runs the per-tensor fully connected kernel, which has a multiplier of its own."""
    return requantization.operator == "fully_connected" and not requantization.per_channel


def require_scales(requantization: Requantization) -> None:
    """Raise TargetError unless every scale of a layer is a positive finite float32 value."""
    scales = np.concatenate(
        ([requantization.input_scale, requantization.output_scale], requantization.weight_scales)
    )
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise TargetError("a scale of the layer is not a positive finite number; the model file is damaged")
    if (scales.astype(np.float32) != scales).any():
        raise TargetError("a scale of the layer is not a float32 value; round the scales to float32 first")


def fixed_point_requantizer(
    requantization: Requantization, factor: Float64Array, rounding: str
) -> Requantizer:
    """Return the requantization by a fixed-point multiplier and one of `EXPLICIT_ROUNDINGS`."""
    multiplier, shift = quantize_multiplier(factor)
    return explicit_requantizer(
        multiplier,
        shift,
        rounding,
        requantization.output_zero_point,
        requantization.code_lower,
        requantization.code_upper,
    )
