"""``milpq simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    quantized_file: Annotated[
        Path, typer.Argument(metavar="QUANTIZED", help="Quantized network: .tflite, .onnx or .json.")
    ],
    inputs: Annotated[
        Path, typer.Argument(metavar="INPUTS.npy", help="Input codes, shape (points, inputs).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.npy", help="Where the codes go.")],
    target: Annotated[
        str | None, typer.Option(metavar="ID", help="Runtime whose rounding is meant; see `milpq targets`.")
    ] = None,
) -> None:
    """Execute a quantized network bit-exactly: codes in, codes out."""
    import numpy as np

    from milpq.errors import UsageError
    from milpq.formats._files import read_npy
    from milpq.formats.sides import load_quantized_side, on_target
    from milpq.network.integer_network import IntegerNetwork

    network = on_target(load_quantized_side(quantized_file, keep_final_activation=True), target)
    if not isinstance(network, IntegerNetwork):
        raise UsageError(f"{quantized_file}: is a float network; simulate executes integer networks")
    codes = read_npy(inputs, UsageError)
    if codes.dtype.kind not in "iu":
        raise UsageError(f"{inputs}: holds {codes.dtype}, not integer codes")
    size = network.input.size
    if codes.ndim == 0 or codes.size % size or (codes.ndim > 1 and codes[0].size != size):
        raise UsageError(f"{inputs}: has shape {codes.shape}, but the network reads {size} codes a point")
    results = network.execute_codes(codes.reshape(-1, size).astype(np.int64))
    small = results.min(initial=0) >= -128 and results.max(initial=0) <= 127
    with output.open("wb") as stream:
        np.save(stream, results.astype(np.int8) if small else results)
    typer.echo(f"{output}: {results.shape[0]} results of {results.shape[1]} codes each ({network.target})")
