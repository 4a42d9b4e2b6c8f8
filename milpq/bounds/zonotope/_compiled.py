"""Compilation of the loops that numpy is too slow for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba  # pyright: ignore[reportMissingTypeStubs]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return a function for other compiled ones to call; Python cannot, so no wrapper is built.

    Plain IEEE arithmetic: no reassociation, so error bounds written for the source hold for the machine code
    (a contraction to fused multiply-add would only round less).
    """
    return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def entry(function: Function) -> Function:
    """Return a function compiled on its first call from Python, and kept on disk from then on.

    It releases the interpreter while it runs.
    """
    return _compile(function, no_cfunc_wrapper=True)


def _compile(function: Function, **options: bool) -> Function:
    compile_ = cast(Any, numba).njit(cache=True, nogil=True, error_model="numpy", **options)
    return cast(Function, compile_(function))
