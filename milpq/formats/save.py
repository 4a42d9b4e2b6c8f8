"""Save a quantized model in whatever format the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from milpq.errors import UsageError
from milpq.formats._files import PathLike
from milpq.formats.writing import check_place
from milpq.network.quantized_model import QuantizedModel

ENDINGS: Final = (".json", ".tflite", ".onnx")


def check_save_path(path: PathLike) -> None:
    """Raise UsageError for an ending that no model is saved with, or a place where nothing can be written."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"{path}: quantized models end in {', '.join(ENDINGS)}, not {Path(path).suffix!r}")
    check_place(Path(path))


def check_saveable(model: QuantizedModel, path: PathLike) -> None:
    """Raise what `save` would, writing nothing, unless the open file is meant, which can state every model."""
    check_save_path(path)
    _content(model, path)


def save(model: QuantizedModel, path: PathLike) -> None:
    """Write a quantized model; the ending of the file decides how.

    ``.json`` is the open integer-network file, which can state every model.  ``.tflite`` (int8 input and
    output) and ``.onnx`` (QOperator, float32 input and output) take int8 layers only.

    Parameters
    ----------
    model : QuantizedModel
    path : path
        Ends in ``.json``, ``.tflite`` or ``.onnx``; an existing file is replaced.

    Raises
    ------
    UnsupportedModelError
        The format cannot state the model; the layer and the remedy are named.
    UsageError
        The ending is none of these, or the folder is missing.
    """
    check_save_path(path)
    content = _content(model, path)
    if content is not None:
        Path(path).write_bytes(content)
        return
    from milpq.formats.open_network import write_open_network

    write_open_network(model, path)


def _content(model: QuantizedModel, path: PathLike) -> bytes | None:
    """Return what a `.tflite` or `.onnx` holds; None for the open file, which may be two."""
    ending = Path(path).suffix.lower()
    if ending == ".tflite":
        from milpq.formats.tflite_writer import tflite_bytes

        return tflite_bytes(model)
    if ending == ".onnx":
        from milpq.formats.onnx_writer import onnx_bytes

        return onnx_bytes(model)
    return None
