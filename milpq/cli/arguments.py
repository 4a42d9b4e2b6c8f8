"""The arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

FloatFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FLOAT", help="Float network: .onnx, .tflite, .nnet.")
]
QuantizedFile: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="QUANTIZED", help="Quantized .tflite or .onnx, .json, or a second float network."),
]
Region: TypeAlias = Annotated[Path, typer.Option(metavar="REGION", help="Input box: .toml, .npz or .vnnlib.")]
Target: TypeAlias = Annotated[
    str | None, typer.Option(metavar="ID", help="Runtime whose rounding is meant; see `milpq targets`.")
]
InputDomain: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="continuous|codes", help="Every real input, or only inputs that are codes."),
]
Outputs: TypeAlias = Annotated[
    list[int] | None, typer.Option(metavar="J", help="Ask about output J only; may be given again.")
]
FloatTwin: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="file|dequantized",
        help="Compare with FLOAT, or (not reading FLOAT) with the integer weights in real arithmetic.",
    ),
]
Gap: TypeAlias = Annotated[float, typer.Option(metavar="REL", help="Stop at this relative gap.")]
Seed: TypeAlias = Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")]
ProgressMode: TypeAlias = Annotated[
    str, typer.Option("--progress", metavar="auto|json|none", help="Progress on stderr.")
]
