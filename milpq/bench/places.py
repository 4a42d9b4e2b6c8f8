"""What a path in a suite means: a bundled file, one of the data folder, or one beside the suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from milpq.errors import MissingDataError
from milpq.formats.bundled import bundled_file

DATA_VARIABLE: Final = "MILPQ_DATA"


def find(path: str, folder: Path) -> Path:
    """Return where a path of a suite leads.

    Parameters
    ----------
    folder : Path
        Of the suite; other paths are relative to it.

    Raises
    ------
    MissingDataError
        A ``data:`` file is not there.
    """
    kind, _, rest = path.partition(":")
    if kind == "bundled":
        return bundled_file(rest)
    if kind == "data":
        stated = os.environ.get(DATA_VARIABLE)
        data = Path(stated) if stated else folder.resolve().parent.parent / "shared" / "data"
        if not (data / rest).is_file():
            raise MissingDataError(f"needs {rest}; set {DATA_VARIABLE} to the folder that holds it")
        return data / rest
    return folder / path
