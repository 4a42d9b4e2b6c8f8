"""Sliding windows as ONNX states them, by attributes that convolutions and pools share."""

from __future__ import annotations

from typing import Any, Protocol

from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.network.geometry import Windows, same_padding


class WindowStep(Protocol):
    """What these operators need to know of a node."""

    options: dict[str, Any]

    def integer_list(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of integers, or None where it is not given."""
        ...

    def damaged(self, what: str) -> ModelFileError:
        """Return the error that this node is malformed."""
        ...

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error that this node `what`."""
        ...


def image_extents(step: WindowStep, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the spatial extents of a batch of one image (1, channels, *extents)."""
    if len(shape) < 3 or shape[0] != 1:
        raise step.unsupported(f"reads shape {shape}; milpq reads one image (1, channels, *extents)")
    return shape[2:]


def sliding_windows(step: WindowStep, spatial: tuple[int, ...], kernel: tuple[int, ...] | None) -> Windows:
    """Return the windows that a convolution or pool states.

    Parameters
    ----------
    kernel : extents of the kernel, or None where only the attribute gives them
    """
    rank = len(spatial)
    ones = [1] * rank
    stated = step.integer_list("kernel_shape")
    size = kernel or tuple(stated or ())
    strides = tuple(step.integer_list("strides") or ones)
    dilations = tuple(step.integer_list("dilations") or ones)
    pads = step.integer_list("pads") or [0] * (2 * rank)
    fits = {len(strides), len(dilations), len(size)} == {rank} and len(pads) == 2 * rank
    if not fits or (stated is not None and tuple(stated) != size):
        raise step.damaged("its kernel_shape, strides, dilations or pads do not fit its input")
    mode = step.options.get("auto_pad", "NOTSET")
    if mode not in {"NOTSET", "VALID", "SAME_UPPER"}:
        raise step.unsupported(f"uses auto_pad {mode}; state its pads")
    padding = tuple(zip(pads[:rank], pads[rank:], strict=True))
    ceiling = bool(step.options.get("ceil_mode", 0))
    try:
        if mode == "SAME_UPPER":
            padding = same_padding(spatial, size, strides, dilations)
        elif mode == "VALID":
            padding = ((0, 0),) * rank
        return Windows.of(spatial, size, strides, dilations, padding, ceiling=ceiling)
    except (ValueError, ZeroDivisionError) as error:
        raise InvalidNetworkError(str(step.damaged(f"its windows do not fit: {error}"))) from error


def whole_image(spatial: tuple[int, ...]) -> Windows:
    """Return the one window that a global pool reads."""
    ones = (1,) * len(spatial)
    return Windows.of(spatial, spatial, ones, ones, ((0, 0),) * len(spatial))
