"""Which files a question was read from: name, size and SHA-256, so that an answer can be tied to them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeGuard

from milpq.errors import UsageError
from milpq.formats._files import PathLike

if TYPE_CHECKING:
    import numpy.typing as npt

    from milpq.formats.sides import FloatSource, QuantizedSource
    from milpq.region.box import Box

Role: TypeAlias = Literal["float", "quantized", "region", "certificate"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a question.

    What such a file refers to (the arrays of an open network in a ``.npz`` beside it, the center of a region in a
    ``.npy``) is covered by the hash of the problem, which is made from the numbers themselves.

    Parameters
    ----------
    role : "float", "quantized", "region" or "certificate"
    path : str
        As it was given.
    size : int
        Bytes.
    sha256 : str
        Of its bytes, hexadecimal.
    """

    role: Role
    path: str
    size: int
    sha256: str

    def report(self) -> dict[str, object]:
        """Return it as JSON-ready values."""
        return {"role": self.role, "path": self.path, "bytes": self.size, "sha256": self.sha256}


def source_files(
    float_source: FloatSource,
    quantized_source: QuantizedSource,
    region: Box | tuple[npt.ArrayLike, npt.ArrayLike] | PathLike,
    twin: Literal["file", "dequantized"] = "file",
) -> tuple[SourceFile, ...]:
    """Return the files among the parts of a question; what is handed over in memory, or not read, has none.

    Raises
    ------
    UsageError
        A file that was read a moment ago is gone.
    """
    given: dict[Role, object] = {
        "float": None if twin == "dequantized" else float_source,
        "quantized": quantized_source,
        "region": region,
    }
    return tuple(source_file(role, source) for role, source in given.items() if _is_path(source))


def _is_path(source: object) -> TypeGuard[PathLike]:
    return isinstance(source, str | os.PathLike)


def source_file(role: Role, source: PathLike) -> SourceFile:
    """Return one file of a question.

    Raises
    ------
    UsageError
        It is gone.
    """
    try:
        with Path(source).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return SourceFile(role, str(source), stream.tell(), digest)
    except OSError as error:
        raise UsageError(f"{source}: was read, and now cannot be ({error})") from error
