"""Turn an HDF5 file into plain arrays; a program of its own, which `_hdf5.py` runs.

The HDF5 library may hang or crash on a damaged file, so no such file is opened in milpq's own process.  Reads the file
from standard input and writes a ``.npz`` archive to standard output:

- ``data:PATH`` an array, ``group:PATH`` a group (empty), ``attribute:PATH@NAME`` an attribute's texts, one a line;
- ``refused:PATH`` why what lies there is not read, as bytes of UTF-8.
"""

# h5py has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import io
import math
import sys
from typing import Any

import h5py
import numpy as np

CPU_S = 60
MEMORY_BYTES = 6 << 30
MAX_OBJECTS = 20_000
MAX_DEPTH = 32
MAX_NAMES = 16
ATTRIBUTES = ("model_config", "weight_names")


def extract(content: bytes) -> dict[str, np.ndarray]:
    """Return what a file holds, by the keys above."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(io.BytesIO(content), "r") as file:
        _group(file, "", len(content), 0, found)
    return found


def _group(group: Any, path: str, size: int, depth: int, found: dict[str, np.ndarray]) -> None:
    found[f"group:{path}"] = np.zeros(0, dtype=np.uint8)
    for name in ATTRIBUTES:
        if name in group.attrs:
            count = math.prod(group.attrs.get_id(name).shape)
            if count > MAX_NAMES:
                found[f"refused:{path}@{name}"] = _bytes(f"has more than {MAX_NAMES} texts")
                continue
            texts = (
                text if isinstance(text, bytes) else str(text).encode()
                for text in np.ravel(np.asarray(group.attrs[name], dtype=object))
            )
            found[f"attribute:{path}@{name}"] = _bytes(b"\n".join(texts))
    for name in group:
        where = f"{path}/{name}"
        if len(found) > MAX_OBJECTS or depth > MAX_DEPTH:
            raise ValueError("more objects than any Keras file has")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            found[f"refused:{where}"] = _bytes("is a link, which no Keras file has")
            continue
        value = group[name]
        if isinstance(value, h5py.Group):
            _group(value, where, size, depth + 1, found)
        else:
            refused = _refused(value, size)
            found[f"refused:{where}" if refused else f"data:{where}"] = (
                _bytes(refused) if refused else np.asarray(value[()])
            )


def _refused(data: Any, size: int) -> str:
    """Return why an array is not read, or nothing."""
    if not isinstance(data, h5py.Dataset):
        return "is no array"
    if data.chunks is not None or data.is_virtual or data.external:
        return "is compressed or outside the file; save the model again"
    if data.dtype not in {np.dtype("float32"), np.dtype("float64")}:
        return f"holds {data.dtype} weights; milpq reads float32 and float64"
    if data.size * data.dtype.itemsize > size:
        return f"claims shape {data.shape}, more than the file holds"
    return ""


def _bytes(text: str | bytes) -> np.ndarray:
    return np.frombuffer(text.encode() if isinstance(text, str) else text, dtype=np.uint8)


def _limit() -> None:
    """Have the system end this process when it takes too much; the parent has a clock besides."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit()
    # What a library prints must not get between the bytes.
    try:
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **extract(sys.stdin.buffer.read()))  # pyright: ignore[reportArgumentType]
    except Exception as reason:  # noqa: BLE001 - h5py raises a wide range of errors on damaged files
        sys.exit(" ".join(f"{reason}".split())[:200] or type(reason).__name__)
    sys.stdout.buffer.write(stream.getvalue())
