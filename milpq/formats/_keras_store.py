"""What a Keras file holds: its configuration as JSON, and the weights of each layer in HDF5.

Files of strangers: archives are read member by member into memory and never unpacked, links and data outside the file
are refused, and so are compressed arrays, which Keras does not write and which could unpack to anything.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, TypeAlias, cast

from milpq._arrays import Float64Array
from milpq.errors import MilpqError, ModelFileError
from milpq.formats._files import MAX_ARRAY_BYTES, PathLike, read_bytes, to_float64
from milpq.formats._hdf5 import read_hdf5

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
        self._legacy = Path(path).suffix.lower() != ".keras"
        try:
            config = b"" if self._legacy else _member(path, content, "config.json", MAX_CONFIG_BYTES)
            stored = content if self._legacy else _member(path, content, "model.weights.h5", MAX_ARRAY_BYTES)
        except MilpqError:
            raise
        # zipfile raises a wide range of standard errors on damaged archives.
        except Exception as reason:
            raise ModelFileError(f"{path}: is no readable Keras file ({reason})") from reason
        self._file = read_hdf5(stored, path)
        if self._legacy:
            where = f"{path}: does not hold its configuration; save the whole model, not its weights only"
            config = "\n".join(self._file.texts("", "model_config", where)).encode()
        self.config = self._parsed(config)

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
        group = f"/layers/{place}/vars" if not self._legacy else f"/model_weights/{place}"
        if self._legacy:
            names = self._file.texts(group, "weight_names", where)
        else:
            names = [str(index) for index in range(self._file.children(group, where))]
        if len(names) > MAX_WEIGHTS_A_LAYER:
            raise ModelFileError(f"{where}: has more than {MAX_WEIGHTS_A_LAYER} weights")
        return [to_float64(self._file.array(f"{group}/{name}", where)) for name in names]

    def _parsed(self, text: bytes) -> Config:
        try:
            parsed: object = json.loads(text)
        except RecursionError:
            raise ModelFileError(f"{self.path}: its configuration is nested too deeply") from None
        except ValueError as reason:
            raise ModelFileError(f"{self.path}: its configuration is no JSON ({reason})") from reason
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
