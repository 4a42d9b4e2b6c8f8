"""Sliding windows as ONNX states them, by attributes that convolutions and pools share."""

from __future__ import annotations

from typing import Any, Protocol

from milpq.errors import ModelFileError, UnsupportedModelError
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
        raise step.unsupported(f"reads the shape {shape}; milpq reads one image at a time")
    return shape[2:]


def sliding_windows(
    step: WindowStep,
    spatial: tuple[int, ...],
    kernel: tuple[int, ...] | None,
    before: tuple[tuple[int, int], ...] = (),
) -> Windows:
    """Return the windows that a convolution or pool states.

    Parameters
    ----------
    kernel : extents of the kernel, or None where only the attribute gives them
    before : padding of each axis by a Pad in front of it; none where empty
    """
    rank = len(spatial)
    stated = step.integer_list("kernel_shape")
    size = kernel or tuple(stated or ())
    strides = tuple(step.integer_list("strides") or [1] * rank)
    dilations = tuple(step.integer_list("dilations") or [1] * rank)
    flat = step.integer_list("pads") or [0] * (2 * rank)
    mode = step.options.get("auto_pad", "NOTSET")
    if stated is not None and tuple(stated) != size:
        raise step.damaged(f"its kernel_shape {stated} is not that of its kernel {size}")
    if not (len(size) == len(strides) == len(dilations) == rank and len(flat) == 2 * rank):
        raise step.damaged("its strides, dilations, pads and kernel do not have one number an axis")
    if max(*size, *strides, *dilations, *flat) > 2**20 or min(*size, *strides, *dilations) < 1:
        raise step.damaged("a stride, dilation, pad or extent is out of range")
    before = before or ((0, 0),) * rank
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        wide = tuple(extent + sum(pads) for extent, pads in zip(spatial, before, strict=True))
        padding = same_padding(wide, size, strides, dilations)
        if mode == "SAME_LOWER":
            padding = tuple((after, before) for before, after in padding)
    elif mode in {"NOTSET", "VALID"}:
        ends = flat if mode == "NOTSET" else [0] * (2 * rank)
        padding = tuple(zip(ends[:rank], ends[rank:], strict=True))
    else:
        raise step.damaged(f"its auto_pad {mode!r} is unknown")
    padding = tuple(
        (pads[0] + more[0], pads[1] + more[1]) for pads, more in zip(before, padding, strict=True)
    )
    try:
        ceiling = bool(step.options.get("ceil_mode", 0))
        return Windows.of(spatial, size, strides, dilations, padding, ceiling=ceiling)
    except ValueError as error:
        raise step.damaged(str(error)) from error


def whole_image(spatial: tuple[int, ...]) -> Windows:
    """Return the one window that a global pool reads."""
    ones = (1,) * len(spatial)
    return Windows.of(spatial, spatial, ones, ones, ((0, 0),) * len(spatial))
