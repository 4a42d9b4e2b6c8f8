"""``milpq quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from milpq.network.quantized_model import QuantizedModel
    from milpq.quantization import RangeMethod


def quantize(
    float_file: Annotated[
        Path, typer.Argument(metavar="FLOAT", help="Float network: .onnx, .tflite, .nnet.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Where it goes: .json, or .tflite or .onnx (8 bits)."
        ),
    ],
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Sample inputs, (samples, inputs): .npy, or .npz of one array."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Runtime whose rounding the file states; see `milpq targets`."),
    ] = None,
    bits: Annotated[
        str, typer.Option(metavar="N[,N…]", help="Bits of the weights, 2 to 16; one for all or one a layer.")
    ] = "8",
    activation_bits: Annotated[
        str, typer.Option(metavar="N[,N…]", help="Bits of what the layers give; one for all or one a layer.")
    ] = "8",
    input_bits: Annotated[int, typer.Option(metavar="N", help="Bits of the input codes.")] = 8,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="A weight scale for each neuron, not one a layer.")
    ] = False,
    asymmetric_weights: Annotated[
        bool, typer.Option("--asymmetric-weights", help="Weights with a zero point.")
    ] = False,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Activations without a zero point.")] = False,
    power_of_two: Annotated[bool, typer.Option("--power-of-two", help="Scales are powers of two.")] = False,
    range_method: Annotated[
        str, typer.Option("--range", metavar="NAME", help="Of activations: min-max, percentile or mse.")
    ] = "min-max",
    percentile: Annotated[
        float, typer.Option(metavar="P", help="Per cent; with --range percentile.")
    ] = 99.99,
    raw_output: Annotated[
        bool, typer.Option("--raw-output", help="Leave the accumulators of the last layer unrounded.")
    ] = False,
    accumulator_bits: Annotated[
        int, typer.Option(metavar="N", help="Width of the target's accumulators.")
    ] = 32,
    fixed_point: Annotated[
        int | None,
        typer.Option(metavar="N", help="Plain fixed point with N bits, without calibration, instead."),
    ] = None,
) -> None:
    """Quantize a float network to an integer network, with activation ranges from sample inputs.

    The .json file states the arithmetic completely. A .tflite has int8 input and output, an .onnx (QOperator)
    float ones; the real runtimes give the same results as `milpq simulate`.
    """
    from milpq.errors import UsageError
    from milpq.formats import check_save_path, load_float, save
    from milpq.quantization import quantize as quantize_network
    from milpq.quantization import quantize_fixed_point

    check_save_path(output)
    if (calibration is None) == (fixed_point is None):
        raise UsageError("give either --calibration DATA or --fixed-point N")
    network = load_float(float_file)
    if fixed_point is not None:
        model = quantize_fixed_point(network, fixed_point)
    else:
        assert calibration is not None
        model = quantize_network(
            network,
            calibration,
            target=target,
            bits=parse_bits(bits, "--bits"),
            activation_bits=parse_bits(activation_bits, "--activation-bits"),
            input_bits=input_bits,
            per_channel=per_channel,
            symmetric_weights=not asymmetric_weights,
            symmetric_activations=symmetric,
            power_of_two=power_of_two,
            range_method=cast("RangeMethod", range_method),
            percentile=percentile,
            raw_output=raw_output,
            accumulator_bits=accumulator_bits,
        )
    save(model, output)
    _show(model, output)


def parse_bits(text: str, option: str) -> int | tuple[int, ...]:
    """Return a number, or several separated by commas.

    Raises
    ------
    UsageError
        It is neither.
    """
    from milpq.errors import UsageError

    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: give a number of bits, or one a layer with commas") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _show(model: QuantizedModel, output: Path) -> None:
    """Print what the model is, a line a layer."""
    from milpq.network.quantized_model import QuantizedLinear

    typer.echo(f"{output}: {len(model.layers)} layers, {len(model.input_scale)} inputs")
    for layer in model.layers:
        assert isinstance(layer, QuantizedLinear)
        end = layer.requantization
        codes = (
            "accumulators"
            if end is None
            else f"codes {end.code_lower} to {end.code_upper} of {end.output_scale:.6g}"
        )
        neurons, inputs = layer.weights.shape
        typer.echo(f"  {layer.name}: {neurons}×{inputs} weights, {codes}")
