"""``milpq demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from milpq.cli.arguments import ProgressMode, time_limit_option
from milpq.cli.console import check_mode, plain_console, progress, show

if TYPE_CHECKING:
    from milpq.merge import DomainKind

TARGET: Final = "tflm"


@dataclass(frozen=True, slots=True)
class _Question:
    """A bundled pair and what is asked about it."""

    model: str
    region: str
    story: str
    tolerance: float | None = None
    domain: DomainKind = "continuous"

    def files(self) -> list[Path]:
        from milpq.formats.bundled import bundled_file

        names = f"{self.model}.onnx", f"{self.model}_int8.tflite", f"{self.region}.toml"
        return [bundled_file(name) for name in names]

    def command(self) -> str:
        """Return how to ask the same by hand."""
        names = [file.name for file in self.files()]
        parts = ["milpq bound", *names[:2], "--region", names[2], "--target", TARGET]
        parts += [] if self.tolerance is None else [f"--tolerance {self.tolerance}"]
        parts += [] if self.domain == "continuous" else [f"--input-domain {self.domain}"]
        return " ".join(parts)


QUESTIONS: Final = (
    _Question(
        "controller",
        "controller_small",
        "An inverted pendulum's controller, 3-16-16-1, around upright: does int8 move the motor by over 3 %?",
        tolerance=0.03,
    ),
    _Question(
        "digits",
        "digits",
        "A classifier of 8x8 digits, 64-32-16-10, one image give or take one code in every pixel: how far can int8 "
        "move a score?",
        domain="codes",
    ),
)


def demo(
    time_limit: Annotated[float, time_limit_option("each of the two questions")] = 180.0,
    progress_mode: ProgressMode = "auto",
) -> int:
    """Answer two questions on models that come with milpq, as TensorFlow Lite Micro computes them."""
    from milpq.verify.options import Options

    check_mode(progress_mode)
    Options(time_limit=time_limit)
    console = plain_console()
    console.print(
        "Two questions, each to a proven answer; the second takes one to two minutes of processor time. The first run "
        "on a machine takes up to a minute longer: the search's inner loop is compiled then, and kept."
    )
    for question in QUESTIONS:
        console.print()
        console.rule(question.model, align="left")
        console.print(question.story)
        console.print(f"$ {question.command()}\n", style="dim", soft_wrap=True)
        if not _answer(question, time_limit, progress_mode):
            return 130
    folder = QUESTIONS[0].files()[0].parent
    console.print(f"\nThe files are in {folder}", style="dim", soft_wrap=True)
    return 0


def _answer(question: _Question, time_limit: float, progress_mode: str) -> bool:
    """Show the answer to a question; False where it was interrupted."""
    from milpq.verify import bound

    with progress(progress_mode) as listener:
        result = bound(
            *question.files(),
            target=TARGET,
            input_domain=question.domain,
            tolerance=question.tolerance,
            time_limit=time_limit,
            on_progress=listener,
        )
    show(plain_console(), result)
    return result.status != "interrupted"
