"""Where the bundled models are."""

from __future__ import annotations

from pathlib import Path

import milpq
from milpq.errors import UsageError


def demo_model(name: str) -> Path:
    """Return the path of a bundled model or region file.

    An installed package holds them beside its modules; a checkout keeps them in ``benchmarks/models``.

    Raises
    ------
    UsageError
        There is no such file.
    """
    package = Path(milpq.__file__).resolve().parent
    for folder in (package / "demo_models", package.parent / "benchmarks" / "models"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"the bundled file {name} is missing; install milpq again")
