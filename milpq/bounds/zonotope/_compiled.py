"""Compilation of the loops that numpy is too slow for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba  # pyright: ignore[reportMissingTypeStubs]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return the function compiled on its first call, and kept on disk from then on.

    Plain IEEE arithmetic: no reassociation, so error bounds written for the source hold for the machine code
    (a contraction to fused multiply-add would only round less).  The compiled code releases the interpreter.
    """
    compile_ = cast(Any, numba).njit(cache=True, nogil=True, error_model="numpy")
    return cast(Function, compile_(function))
