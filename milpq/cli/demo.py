"""``milpq demo``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from milpq.cli.console import check_mode, plain_console, progress, show

TARGET: Final = "tflm"
PAIRS: Final = (
    (
        "controller",
        "controller_small",
        "an inverted pendulum's controller, 3-16-16-1, around upright: does int8 move the motor by over 3 %?",
        0.03,
    ),
    (
        "digits",
        "digits",
        "a classifier of 8x8 digits, 64-32-16-10, one image give or take one code in every pixel",
        None,
    ),
)
"""Model, region, what it is, tolerance."""


def demo(
    time_limit: Annotated[
        float, typer.Option(metavar="S", help="Seconds for each of the two questions.")
    ] = 20.0,
    progress_mode: Annotated[
        str, typer.Option("--progress", metavar="auto|json|none", help="Progress on stderr.")
    ] = "auto",
) -> int:
    """Answer two questions on the bundled models, on the rounding of TensorFlow Lite Micro."""
    from milpq.formats.bundled import bundled_file
    from milpq.verify import bound

    check_mode(progress_mode)
    console = plain_console()
    for model, region, story, tolerance in PAIRS:
        files = [bundled_file(name) for name in (f"{model}.onnx", f"{model}_int8.tflite", f"{region}.toml")]
        console.rule(model, align="left")
        console.print(story)
        question = f"--target {TARGET}" + (f" --tolerance {tolerance}" if tolerance else "")
        names = f"{files[0].name} {files[1].name} --region {files[2].name}"
        command = f"$ milpq bound {names} {question} --time-limit {time_limit:g}\n"
        console.print(command, style="dim", soft_wrap=True)
        with progress(progress_mode) as listener:
            result = bound(
                *files, target=TARGET, tolerance=tolerance, time_limit=time_limit, on_progress=listener
            )
        show(console, result)
        console.print()
        if result.status == "interrupted":
            return result.exit_code
    console.print(f"The files are in {bundled_file('digits.onnx').parent}", style="dim", soft_wrap=True)
    return 0
