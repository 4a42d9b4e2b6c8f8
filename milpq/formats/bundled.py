"""Where the bundled models are."""

from __future__ import annotations

from pathlib import Path

from milpq.errors import UsageError


def bundled_file(name: str) -> Path:
    """Return the path of a bundled model or region file.

    An installed package holds them beside its modules; a checkout keeps them in ``benchmarks/models``.

    Raises
    ------
    UsageError
        There is no such file.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo_models", package.parent / "benchmarks" / "models"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"there is no bundled file {name}; the bundled ones are in benchmarks/models")
