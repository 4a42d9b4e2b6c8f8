"""Certified bounds on how far an int8 neural network can be from the float network it was made from.

The names below are the public interface.  They are imported when first used, so that ``import milpq`` stays
quick and needs neither torch nor a solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from milpq.certificate import check
    from milpq.formats import load, load_quantized, save
    from milpq.precision import search_precision
    from milpq.quantization import Scheme, quantize, quantize_fixed_point
    from milpq.region.box import Box
    from milpq.torch_face import MergedNetwork, compute_guaranteed_error
    from milpq.verify import Explanation, Result, assert_quantization_error, bound, explain

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Explanation",
    "MergedNetwork",
    "Result",
    "Scheme",
    "__version__",
    "assert_quantization_error",
    "bound",
    "check",
    "compute_guaranteed_error",
    "explain",
    "load",
    "load_quantized",
    "quantize",
    "quantize_fixed_point",
    "save",
    "search_precision",
]

_HOMES: Final = {
    "Box": "milpq.region.box",
    "Explanation": "milpq.verify",
    "MergedNetwork": "milpq.torch_face",
    "Result": "milpq.verify",
    "Scheme": "milpq.quantization",
    "assert_quantization_error": "milpq.verify",
    "bound": "milpq.verify",
    "check": "milpq.certificate",
    "compute_guaranteed_error": "milpq.torch_face",
    "explain": "milpq.verify",
    "load": "milpq.formats",
    "load_quantized": "milpq.formats",
    "quantize": "milpq.quantization",
    "quantize_fixed_point": "milpq.quantization",
    "save": "milpq.formats",
    "search_precision": "milpq.precision",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'milpq' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
