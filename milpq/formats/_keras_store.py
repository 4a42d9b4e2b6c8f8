"""What a Keras file holds: its configuration as JSON, and the weights of each layer in HDF5.

Files of strangers: archives are read member by member into memory and never unpacked, links and data outside the file
are refused, and so are compressed arrays, which Keras does not write and which could unpack to anything.
"""

# h5py has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import importlib.util
import io
import json
import math
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import MilpqError, ModelFileError, UnsupportedModelError, UsageError
from milpq.formats._files import MAX_ARRAY_BYTES, PathLike, read_bytes, to_float64

Config: TypeAlias = "dict[str, Any]"

MAX_CONFIG_BYTES = 2**26
MAX_MEMBERS = 64
"""A `.keras` archive has three members, a few more with assets."""

MAX_WEIGHTS_A_LAYER = 16


class KerasStore:
    """An opened file.

    Parameters
    ----------
    config : dict
        Of the model: ``class_name`` and ``config``.

    Raises
    ------
    ModelFileError
        The file is damaged, or holds what no Keras file holds.
    UsageError
        h5py is not installed.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = path
        content = read_bytes(path)
        if importlib.util.find_spec("h5py") is None:
            raise UsageError(f"{path}: reading Keras files needs h5py; pip install 'milpq[keras]'")
        self._legacy = Path(path).suffix.lower() != ".keras"
        try:
            config = b"" if self._legacy else _member(path, content, "config.json", MAX_CONFIG_BYTES)
            stored = content if self._legacy else _member(path, content, "model.weights.h5", MAX_ARRAY_BYTES)
            self._open(stored)
            if self._legacy:
                config = self._attribute(self._file, "model_config", "its configuration")
            self.config = self._parsed(config)
        except MilpqError:
            raise
        # zipfile, HDF5 and json raise a wide range of standard errors on damaged files.
        except Exception as reason:
            raise ModelFileError(
                f"{path}: is no readable Keras file ({' '.join(str(reason).split())[:200]})"
            ) from reason

    def _open(self, content: bytes) -> None:
        import h5py

        self._size = len(content)
        self._file = h5py.File(io.BytesIO(content), "r")

    def places(self, layers: list[Config]) -> list[str]:
        """Return where the weights of each layer lie: under its name, or its class and how many came before it."""
        if self._legacy:
            return [str(layer.get("config", {}).get("name", "")) for layer in layers]
        seen: Counter[str] = Counter()
        found: list[str] = []
        for layer in layers:
            kind = _snake_case(str(layer.get("class_name", "")))
            found.append(f"{kind}_{seen[kind]}" if seen[kind] else kind)
            seen[kind] += 1
        return found

    def weights(self, place: str, where: str) -> list[Float64Array]:
        """Return the weights of a layer, in the order of Keras.

        Raises
        ------
        ModelFileError
            They are missing or damaged.
        UnsupportedModelError
            They are no float32 or float64 numbers.
        """
        try:
            return [self._array(group, name, where) for group, name in self._names(place, where)]
        except MilpqError:
            raise
        except Exception as reason:
            raise ModelFileError(
                f"{where}: its weights cannot be read ({' '.join(str(reason).split())[:200]})"
            ) from reason

    def _names(self, place: str, where: str) -> list[tuple[Any, str]]:
        """Return group and name of each weight of a layer."""
        if not self._legacy:
            group = self._group(self._file, ["layers", place, "vars"], where)
            return [(group, str(index)) for index in range(min(len(group), MAX_WEIGHTS_A_LAYER + 1))]
        group = self._group(self._file, ["model_weights", place], where)
        if math.prod(group.attrs.get_id("weight_names").shape) > MAX_WEIGHTS_A_LAYER:
            raise ModelFileError(f"{where}: has more than {MAX_WEIGHTS_A_LAYER} weights")
        found: list[tuple[Any, str]] = []
        for stored in np.ravel(group.attrs["weight_names"]):
            name = stored.decode() if isinstance(stored, bytes) else str(stored)
            *folders, last = name.split("/")
            found.append((self._group(group, folders, where), last))
        return found

    def _group(self, group: Any, names: list[str], where: str) -> Any:
        import h5py

        for name in names:
            group = self._item(group, name, where)
            if not isinstance(group, h5py.Group):
                raise ModelFileError(f"{where}: {name!r} is no group of the file")
        return group

    def _item(self, group: Any, name: str, where: str) -> Any:
        """Return what a name stands for; links that may lead out of the file are refused."""
        import h5py

        if not name or "/" in name or name == ".":
            raise ModelFileError(f"{where}: {name!r:.80} is no name of a weight")
        link = group.get(name, getlink=True)
        if link is None:
            raise ModelFileError(f"{where}: its weights {name!r:.80} are not in the file")
        if not isinstance(link, h5py.HardLink):
            raise ModelFileError(f"{where}: {name!r:.80} is a link, which no Keras file has")
        return group[name]

    def _array(self, group: Any, name: str, where: str) -> Float64Array:
        import h5py

        data = self._item(group, name, where)
        if not isinstance(data, h5py.Dataset):
            raise ModelFileError(f"{where}: {name!r:.80} is no array")
        if data.chunks is not None or data.is_virtual or data.external:
            raise ModelFileError(
                f"{where}: {name!r:.80} is compressed or outside the file; save the model again"
            )
        if data.dtype not in {np.dtype("float32"), np.dtype("float64")}:
            raise UnsupportedModelError(f"{where}: has {data.dtype} weights; milpq reads float32 and float64")
        if data.size * data.dtype.itemsize > self._size:
            raise ModelFileError(f"{where}: {name!r:.80} claims shape {data.shape}, more than the file holds")
        return to_float64(np.asarray(data[()]))

    def _attribute(self, group: Any, name: str, what: str) -> bytes:
        if name not in group.attrs or math.prod(group.attrs.get_id(name).shape) != 1:
            raise ModelFileError(
                f"{self.path}: does not hold {what}; save the whole model, not its weights only"
            )
        value = np.ravel(np.asarray(group.attrs[name], dtype=object))[0]
        return value if isinstance(value, bytes) else str(value).encode()

    def _parsed(self, text: bytes) -> Config:
        try:
            parsed: object = json.loads(text)
        except RecursionError:
            raise ModelFileError(f"{self.path}: its configuration is nested too deeply") from None
        if not isinstance(parsed, dict):
            raise ModelFileError(f"{self.path}: its configuration is no JSON object")
        return cast("Config", parsed)


def _member(path: PathLike, content: bytes, name: str, limit: int) -> bytes:
    """Return one member of an archive, at most `limit` bytes of it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [member for member in archive.infolist() if member.filename == name]
        if len(members) != 1 or len(archive.infolist()) > MAX_MEMBERS:
            raise ModelFileError(f"{path}: is no .keras archive with one {name}")
        if members[0].file_size > limit:
            raise ModelFileError(f"{path}: {name} unpacks to more than {limit} bytes")
        with archive.open(members[0]) as stream:
            found = stream.read(limit + 1)
    if len(found) > limit:
        raise ModelFileError(f"{path}: {name} unpacks to more than {limit} bytes")
    return found


def _snake_case(name: str) -> str:
    """Return the name that Keras gives the weights of a class."""
    spaced = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", spaced).lower()
