"""Read `.nnet` files, the text format of the ACAS Xu networks."""

from __future__ import annotations

import itertools

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import ModelFileError
from milpq.formats._files import PathLike, read_text
from milpq.formats._float_builder import FloatBuilder
from milpq.network.float_network import FloatNetwork

NOTE = "inputs and outputs are in the normalized coordinates of the .nnet file"
"""What `note` says of every network of this format."""

MAX_LAYERS = 10_000
"""Largest number of layers read."""


def read_nnet(path: PathLike) -> FloatNetwork:
    """Return the network of a `.nnet` file, ReLU between its layers.

    The normalization constants of the file are not applied: the network maps normalized inputs to normalized
    outputs, as the ONNX files of VNN-COMP do.

    Raises
    ------
    ModelFileError
        The file is missing, or is not a complete `.nnet` file; the line is named.
    InvalidNetworkError
        A weight is NaN or infinite; the layer is named.

    References
    ----------
    K. Julian, https://github.com/sisl/NNet, "File format of .nnet".
    """
    rows = _Rows(path, read_text(path))
    layers, inputs, outputs, _ = rows.integers(4)
    if not 0 < layers <= MAX_LAYERS:
        raise ModelFileError(f"{path}: claims {layers} layers; milpq reads 1 to {MAX_LAYERS}")
    sizes = rows.integers(layers + 1)
    if sizes[0] != inputs or sizes[-1] != outputs:
        raise ModelFileError(
            f"{path}: its layer sizes {sizes} do not match its {inputs} inputs, {outputs} outputs"
        )
    # A flag that is not used any more, then the minima, maxima, means and ranges, of which files exist that
    # list more than they have inputs.
    rows.skip(5)
    builder = FloatBuilder(inputs, str(path))
    value = 0
    for index, (narrow, wide) in enumerate(itertools.pairwise(sizes)):
        builder.check_size(wide, f"layer {index}")
        weights = [rows.numbers(narrow) for _ in range(wide)]
        bias = np.concatenate([rows.numbers(1) for _ in range(wide)])
        value = builder.linear(f"layer{index}", value, np.stack(weights), bias)
        if index < layers - 1:
            value = builder.clamp(f"relu{index}", value, 0.0, np.inf)
    rows.finish()
    return builder.finish(value, NOTE)


class _Rows:
    """The lines of the file one by one, comments and empty ones left out."""

    def __init__(self, path: PathLike, text: str) -> None:
        self._path = path
        numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
        self._rows = ((number, line) for number, line in numbered if line and not line.startswith("//"))

    def numbers(self, count: int) -> Float64Array:
        """Return the `count` numbers of the next line."""
        number, cells = self._next()
        if len(cells) != count:
            raise ModelFileError(
                f"{self._path}: line {number}: {len(cells)} numbers where {count} are needed"
            )
        return self.parse(number, cells)

    def parse(self, number: int, cells: list[str]) -> Float64Array:
        """Return the numbers in the cells of a line."""
        try:
            return np.array([float(cell) for cell in cells])
        except ValueError as error:
            raise ModelFileError(f"{self._path}: line {number}: {error}") from error

    def integers(self, count: int) -> list[int]:
        """Return the `count` integers of the next line."""
        number, cells = self._next()
        if len(cells) != count or any(not (cell.isdecimal() and len(cell) < 10) for cell in cells):
            raise ModelFileError(
                f"{self._path}: line {number}: is not the {count} integers a .nnet file has there"
            )
        return [int(cell) for cell in cells]

    def skip(self, count: int) -> None:
        """Pass over lines of numbers."""
        for _ in range(count):
            number, cells = self._next()
            self.parse(number, cells)

    def finish(self) -> None:
        """Raise ModelFileError if anything is left."""
        rest = next(self._rows, None)
        if rest is not None:
            raise ModelFileError(f"{self._path}: line {rest[0]}: more numbers than the header announces")

    def _next(self) -> tuple[int, list[str]]:
        row = next(self._rows, None)
        if row is None:
            raise ModelFileError(f"{self._path}: ends too early; is the file truncated?")
        number, line = row
        return number, [cell.strip() for cell in line.removesuffix(",").split(",")]
