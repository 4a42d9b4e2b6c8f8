"""The arrays and texts of an HDF5 file that a stranger wrote."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from milpq.errors import ModelFileError, UnsupportedModelError, UsageError
from milpq.formats._files import PathLike

TIMEOUT_S: Final = 120.0
CHILD: Final = Path(__file__).with_name("_hdf5_child.py")


@dataclass(frozen=True, slots=True)
class Hdf5:
    """What `read_hdf5` found; paths start with a slash, the root's is empty."""

    objects: dict[str, npt.NDArray[Any]]

    def array(self, path: str, where: str) -> npt.NDArray[Any]:
        """Return an array, or raise what is wrong with it; `where` begins the message."""
        return self._find("data", path, where)

    def children(self, path: str, where: str) -> int:
        """Return how many objects a group holds."""
        self._find("group", path, where)
        start = f"{path}/"
        places = [key.partition(":")[2] for key in self.objects]
        return sum(place.startswith(start) and "/" not in place[len(start) :] for place in places)

    def texts(self, path: str, name: str, where: str) -> list[str]:
        """Return the texts of an attribute."""
        value = self._find("attribute", f"{path}@{name}", where)
        return value.tobytes().decode("utf-8", "replace").split("\n") if len(value) else []

    def _find(self, kind: str, path: str, where: str) -> npt.NDArray[Any]:
        # What lies above may be refused: a link to another group, say.
        names = path.split("/")
        for end in range(1, len(names) + 1):
            above = "/".join(names[:end])
            if f"refused:{above}" in self.objects:
                reason = self.objects[f"refused:{above}"].tobytes().decode("utf-8", "replace")
                error = UnsupportedModelError if "milpq reads" in reason else ModelFileError
                raise error(f"{where}: {names[end - 1]!r:.80} {reason}")
            if end < len(names) and f"group:{above}" not in self.objects:
                raise ModelFileError(f"{where}: {names[end - 1]!r:.80} are not in the file")
        found = self.objects.get(f"{kind}:{path}")
        if found is None:
            raise ModelFileError(f"{where}: {names[-1]!r:.80} are not in the file")
        return found


def read_hdf5(content: bytes, path: PathLike) -> Hdf5:
    """Return what an HDF5 file holds.

    The library that reads it may hang or crash on a damaged file, so it runs in a process with limits of its own.

    Raises
    ------
    ModelFileError
        The file is damaged, or reading it takes more time or memory than any model needs.
    UsageError
        h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise UsageError(f"{path}: reading Keras files needs h5py; pip install 'milpq[keras]'")
    try:
        child = subprocess.run(
            [sys.executable, "-I", str(CHILD)],
            input=content,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelFileError(f"{path}: is damaged (the HDF5 library did not end on it)") from None
    if child.returncode:
        said = child.stderr.decode("utf-8", "replace").split("\n")[-2:]
        reason = (
            " ".join(" ".join(said).split())[:200]
            if child.returncode > 0
            else "the HDF5 library crashed on it"
        )
        raise ModelFileError(f"{path}: is no readable Keras file ({reason})")
    try:
        with np.load(io.BytesIO(child.stdout), allow_pickle=False) as archive:
            return Hdf5({name: archive[name] for name in archive.files})
    # zipfile raises a wide range of standard errors; names in the file come from strangers.
    except Exception as error:
        raise ModelFileError(f"{path}: is no readable Keras file ({error})") from error
