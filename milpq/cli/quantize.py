"""``milpq quantize``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from milpq.cli.arguments import (
    EFFORT,
    QUESTION,
    FloatFile,
    Gap,
    InputDomain,
    JobsOrAll,
    ProgressMode,
    Seed,
    Solver,
    Target,
    report_option,
    time_limit_option,
)
from milpq.cli.console import check_mode, narrated, plain_console

if TYPE_CHECKING:
    from milpq.network.float_network import FloatNetwork
    from milpq.network.quantized_model import QuantizedModel
    from milpq.precision import CostKind, SearchProgress
    from milpq.quantization import RangeMethod, Scheme


def quantize(
    float_file: FloatFile,
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
    target: Target = None,
    bits: Annotated[
        str | None,
        typer.Option(metavar="N[,N…]", help="Bits of the weights, 2 to 16; one for all or one a layer."),
    ] = None,
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
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Find the cheapest bits whose certified error stays within T; needs --region.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    region: Annotated[
        Path | None,
        typer.Option(
            metavar="REGION",
            help="Input box of the search: .toml, .npz or .vnnlib.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    widths: Annotated[
        str,
        typer.Option(
            metavar="N-N|N,N…", help="Bits of the weights to try in each layer.", rich_help_panel=QUESTION
        ),
    ] = "2-8",
    cost: Annotated[
        str,
        typer.Option(
            metavar="memory|macs",
            help="What is to be small: bits of weights, or multiplications × bits.",
            rich_help_panel=QUESTION,
        ),
    ] = "memory",
    front: Annotated[
        bool,
        typer.Option(
            "--front/--no-front",
            help="Measure the front of cost against certified error too.",
            rich_help_panel=QUESTION,
        ),
    ] = True,
    input_domain: InputDomain = None,
    gap: Gap = 0.01,
    time_limit: Annotated[float | None, time_limit_option("the search; no limit by default")] = None,
    question_limit: Annotated[
        float,
        typer.Option(metavar="S", help="Seconds for one question to the verifier.", rich_help_panel=EFFORT),
    ] = 60.0,
    solver: Solver = "auto",
    jobs: JobsOrAll = None,
    seed: Seed = 0,
    report: Annotated[
        list[Path] | None, report_option("the front of a search, .json, .csv, .svg, .png or .pdf")
    ] = None,
    progress_mode: ProgressMode = "auto",
) -> int:
    """Quantize a float network to an integer network, with activation ranges from sample inputs.

    The .json file states the arithmetic completely. A .tflite has int8 input and output, an .onnx (QOperator)
    float ones; the real runtimes give the same results as `milpq simulate`. With --tolerance and --region, the
    bits of each layer are those of least cost whose certified error over the region stays within it.

    Exit codes: 0 done, 1 every choice of bits exceeds the tolerance, 2 bad usage or input, 3 undecided, 4
    soundness alarm, 130 interrupted.
    """
    from milpq.errors import UsageError
    from milpq.formats import check_save_path, load_float, save
    from milpq.quantization import Scheme, calibrate_network, quantize_calibrated, quantize_fixed_point
    from milpq.rounding.targets import get_target

    check_save_path(output)
    if (calibration is None) == (fixed_point is None):
        raise UsageError("give either --calibration DATA or --fixed-point N")
    if (tolerance is None) != (region is None):
        raise UsageError("a search over bits needs both --tolerance T and --region REGION")
    network = load_float(float_file)
    if fixed_point is not None:
        if tolerance is not None:
            raise UsageError("--fixed-point has one width; the search needs --calibration")
        model = quantize_fixed_point(network, fixed_point)
        save(model, output)
        _show(model, output)
        return 0
    assert calibration is not None
    scheme = Scheme(
        parse_bits(bits or "8", "--bits"),
        parse_bits(activation_bits, "--activation-bits"),
        input_bits,
        per_channel,
        not asymmetric_weights,
        symmetric,
        power_of_two,
        cast("RangeMethod", range_method),
        percentile,
        raw_output,
        accumulator_bits,
    )
    if tolerance is None or region is None:
        if report:
            raise UsageError("--report writes the front of a search; give --tolerance T and --region REGION")
        chosen = None if target is None else get_target(target)
        calibrated = calibrate_network(network, calibration, scheme, chosen)
        model = quantize_calibrated(network, calibrated, scheme, chosen)
        save(model, output)
        _show(model, output)
        return 0
    if bits is not None:
        raise UsageError("--bits fixes what the search is to find; give --widths to limit it")
    from milpq.precision import search_precision
    from milpq.precision.report import check_front_path, details, headline, write_front

    check_mode(progress_mode)
    for path in report or ():
        check_front_path(path)
    tried = parse_widths(widths)
    if target is not None:
        _check_output(network, calibration, replace(scheme, weight_bits=max(tried)), target, output)
    with narrated(progress_mode, "reading the models", _words, _line) as listener:
        result = search_precision(
            network,
            calibration,
            region,
            tolerance,
            target=target or "",
            widths=tried,
            cost=cast("CostKind", cost),
            scheme=scheme,
            input_domain=input_domain,
            front=front,
            gap=gap,
            time_limit=time_limit,
            question_limit=question_limit,
            solver=solver,
            jobs=jobs,
            seed=seed,
            on_progress=listener,
        )
    if result.model is not None:
        save(result.model, output)
    for path in report or ():
        write_front(result, path)
    console = plain_console()
    console.print(headline(result), soft_wrap=True)
    console.print(details(result))
    if result.model is not None:
        _show(result.model, output)
    return result.exit_code


def parse_widths(text: str) -> tuple[int, ...]:
    """Return the widths that ``2-8`` or ``2,4,8`` name.

    Raises
    ------
    UsageError
        It is neither.
    """
    from milpq.errors import UsageError

    try:
        first, dash, last = text.partition("-")
        return tuple(range(int(first), int(last) + 1) if dash else (int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"--widths {text}: give a range such as 2-8, or widths with commas") from None


def _check_output(
    network: FloatNetwork, calibration: Path, scheme: Scheme, target: str, output: Path
) -> None:
    """Raise before a long search what writing its result would raise after it."""
    from milpq.errors import AccumulatorOverflowError
    from milpq.formats import check_saveable
    from milpq.quantization import calibrate_network, quantize_calibrated
    from milpq.rounding.targets import get_target

    try:
        chosen = get_target(target)
        calibrated = calibrate_network(network, calibration, scheme, chosen)
        model = quantize_calibrated(network, calibrated, scheme, chosen)
    except AccumulatorOverflowError:
        return  # Of the widest choice only; the search passes over those.
    check_saveable(model, output)


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
        if not isinstance(layer, QuantizedLinear):
            typer.echo(f"  {layer.name}: {_OPERATORS[type(layer).__name__]}")
            continue
        end = layer.requantization
        codes = (
            "accumulators"
            if end is None
            else f"codes {end.code_lower} to {end.code_upper} of {end.output_scale:.6g}"
        )
        neurons, inputs = layer.weights.shape
        typer.echo(f"  {layer.name}: {neurons}×{inputs} weights, {codes}")


_OPERATORS = {
    "QuantizedAverage": "average",
    "QuantizedLookup": "clip or table of codes",
    "QuantizedMaximum": "maximum",
    "QuantizedSelection": "pad or concatenation",
    "QuantizedSum": "sum",
    "QuantizedUnary": "function of codes",
}


def _words(event: SearchProgress) -> dict[str, object]:
    return asdict(event)


def _line(event: SearchProgress) -> str:
    best = "none" if event.certified_cost is None else f"{event.certified_cost:,}"
    return (
        f"{event.examined:,} configurations examined, cost {event.cost:,}, certified {best}, "
        f"{event.verifier_calls} verifier calls  {event.time_s:.1f} s"
    )
