"""Reading files that strangers wrote: sizes and array headers are checked before anything is allocated."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import MilpqError, ModelFileError

PathLike: TypeAlias = "str | os.PathLike[str]"


@runtime_checkable
class TorchModule(Protocol):
    """A ``torch.nn.Module`` or ``torch.export.ExportedProgram``, told by what they can do.

    Only the readers of torch import torch.
    """

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        """Yield every buffer inside, with its name."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield every parameter inside, with its name."""
        ...


MAX_FILE_BYTES = 2**30
"""Larger files are refused unread."""

MAX_ARRAY_BYTES = 2**30
"""Larger arrays are refused unread."""


def read_bytes(path: PathLike, error: type[MilpqError] = ModelFileError) -> bytes:
    """Return the content of a regular, nonempty file, or raise `error` with one line that says why not."""
    try:
        status = Path(path).stat()
        if Path(path).is_dir():
            raise error(f"{path}: is a directory; name a file")
        if not Path(path).is_file():
            raise error(f"{path}: is not a regular file")
        if status.st_size == 0:
            raise error(f"{path}: the file is empty")
        if status.st_size > MAX_FILE_BYTES:
            raise error(f"{path}: {status.st_size} bytes, more than the {MAX_FILE_BYTES} milpq reads")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as reason:
        if isinstance(reason, MilpqError):
            raise
        raise error(f"{str(path)!r}: cannot be read ({reason})") from reason


def read_text(path: PathLike, error: type[MilpqError] = ModelFileError) -> str:
    """Return the content of a UTF-8 text file."""
    try:
        return read_bytes(path, error).decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: is not text ({reason.reason} at byte {reason.start})") from reason


def beside(path: PathLike, name: str, error: type[MilpqError] = ModelFileError) -> Path:
    """Return the path of file `name` in the directory of `path`; names that lead elsewhere are refused."""
    if not name or name != Path(name).name or "\\" in name or "\0" in name or name in {".", ".."}:
        raise error(f"{path}: {name!r} is not the plain name of a file beside it; move that file there")
    return Path(path).parent / name


def read_npy(path: PathLike, error: type[MilpqError] = ModelFileError) -> npt.NDArray[Any]:
    """Return the numeric array of a ``.npy`` file; pickled objects are refused."""
    return _parse_npy(read_bytes(path, error), str(path), error)


def read_npz(path: PathLike, error: type[MilpqError] = ModelFileError) -> dict[str, npt.NDArray[Any]]:
    """Return the numeric arrays of a ``.npz`` file by name; pickled objects and zip bombs are refused."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path, error))) as archive:
            budget = MAX_ARRAY_BYTES
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                budget -= member.file_size
                _check_budget(path, budget, error)
                with archive.open(member) as stream:
                    content = stream.read(member.file_size + 1)
                arrays[name] = _parse_npy(content, f"{path}, array {name!r}", error)
    except MilpqError:
        raise
    # zipfile and zlib raise a wide range of standard errors on damaged archives.
    except Exception as reason:
        raise error(f"{path}: is not a readable .npz archive ({_one_line(reason)})") from reason
    return arrays


def to_float64(array: npt.NDArray[Any]) -> Float64Array:
    """Return numbers as float64, exactly; signalling NaN become quiet ones without a warning."""
    with np.errstate(invalid="ignore"):
        return array.astype(np.float64)


def _check_budget(path: PathLike, budget: int, error: type[MilpqError]) -> None:
    if budget < 0:
        raise error(f"{path}: its arrays unpack to more than {MAX_ARRAY_BYTES} bytes")


def _parse_npy(content: bytes, where: str, error: type[MilpqError]) -> npt.NDArray[Any]:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
    except Exception as reason:
        raise error(f"{where}: is not a readable .npy array ({_one_line(reason)})") from reason
    if dtype.kind not in "iufb":
        raise error(f"{where}: holds {dtype}, not numbers")
    payload = content[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(payload):
        raise error(
            f"{where}: its header claims shape {shape} of {dtype}, but {len(payload)} bytes follow; "
            "the file is damaged"
        )
    array = np.frombuffer(payload, dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)


def _one_line(reason: BaseException) -> str:
    return " ".join(str(reason).split())[:200] or type(reason).__name__
