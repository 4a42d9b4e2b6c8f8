"""Compilation of the loops that numpy is too slow for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
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
    try:
        result = _compile(function, cache=True, no_cfunc_wrapper=True)
    except RuntimeError:
        # No folder to keep it in can be written: compiled anew in every process.
        return _compile(function, no_cfunc_wrapper=True)
    folder = Path(function.__code__.co_filename).parent
    # numba forgets what it kept when the function's own file changes, but not when a function it calls does.
    cast(Any, result)._cache._cache_file._source_stamp = _sources(folder)  # noqa: SLF001
    return result


def _sources(folder: Path) -> str:
    """Return a digest of every source of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _compile(function: Function, **options: bool) -> Function:
    compile_ = cast(Any, numba).njit(nogil=True, error_model="numpy", **options)
    return cast(Function, compile_(function))
