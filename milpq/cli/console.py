"""Live progress: a status line on a terminal, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from milpq.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from milpq.verify import Progress, Result

MODES: Final = ("auto", "json", "none")
_EVERY_S = 0.1


def check_mode(mode: str) -> None:
    """Raise UsageError for an unknown mode of progress."""
    if mode not in MODES:
        raise UsageError(f"unknown progress {mode!r}; use one of {', '.join(MODES)}")


@contextmanager
def progress(mode: str) -> Generator[Callable[[Progress], None] | None]:
    """Give a listener for the progress of a run, as `mode` asks; all of it goes to stderr."""
    check_mode(mode)
    if mode == "json":
        yield _json_lines()
    elif mode == "auto" and sys.stderr.isatty():
        with _status_line() as listener:
            yield listener
    else:
        yield None


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that shows brackets and colons in file names as they are."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(console: Console, result: Result) -> None:
    """Print a result, its verdict on one line whatever the width."""
    from milpq.report.terminal import details, headline

    console.print(headline(result), soft_wrap=True)
    console.print(details(result))


def _json_lines() -> Callable[[Progress], None]:
    last: list[tuple[str, float, float]] = []

    def listen(event: Progress) -> None:
        state = (event.stage, event.lower, event.upper)
        if last and last[-1] == state:
            return
        last[:] = [state]
        line = {
            "stage": event.stage,
            "lower": event.lower,
            "upper": event.upper if math.isfinite(event.upper) else None,
            "time_s": round(event.time_s, 3),
        }
        sys.stderr.write(json.dumps(line | ({"detail": event.detail} if event.detail else {})) + "\n")
        sys.stderr.flush()

    return listen


@contextmanager
def _status_line() -> Generator[Callable[[Progress], None]]:
    from milpq.verify.numbers import downward, upward

    shown = -math.inf
    with plain_console(stderr=True).status("reading the models") as status:

        def listen(event: Progress) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < _EVERY_S:
                return
            shown = now
            bracket = f"[{downward(event.lower)}, {upward(event.upper)}]"
            detail = f"  {event.detail}" if event.detail else ""
            status.update(f"{event.stage:<12} max |f_q − f| in {bracket}  {event.time_s:.1f} s{detail}")

        yield listen
