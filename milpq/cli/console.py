"""Live progress: a status line on a terminal, JSON lines for programs, or nothing; all of it on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, ParamSpec

from milpq.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from milpq.verify import Progress, Result

MODES: Final = ("auto", "json", "none")
_EVERY_S: Final = 0.1

Event = ParamSpec("Event")


def check_mode(mode: str) -> None:
    """Raise UsageError for an unknown mode of progress."""
    if mode not in MODES:
        raise UsageError(f"unknown progress {mode!r}; use one of {', '.join(MODES)}")


@contextmanager
def narrated(
    mode: str,
    first: str,
    words: Callable[Event, Mapping[str, object]],
    line: Callable[Event, str],
) -> Generator[Callable[Event, None] | None]:
    """Give a listener that tells of events as `mode` asks, or None where nobody listens.

    Parameters
    ----------
    first : str
        Stands on the terminal until the first event.
    words : callable
        What a program is told of an event; nothing where it is empty.
    line : callable
        What a person is told.
    """
    check_mode(mode)
    if mode == "json":
        yield json_lines(words)
    elif mode == "auto" and sys.stderr.isatty():
        shown = -math.inf
        with plain_console(stderr=True).status(first) as status:

            def listen(*event: Event.args, **named: Event.kwargs) -> None:
                nonlocal shown
                now = time.monotonic()
                if now - shown >= _EVERY_S:
                    shown = now
                    status.update(line(*event, **named))

            yield listen
    else:
        yield None


def json_lines(words: Callable[Event, Mapping[str, object]]) -> Callable[Event, None]:
    """Return a listener that writes what there is to say of each event as one line of JSON."""

    def listen(*event: Event.args, **named: Event.kwargs) -> None:
        said = words(*event, **named)
        if said:
            sys.stderr.write(json.dumps(said) + "\n")
            sys.stderr.flush()

    return listen


@contextmanager
def progress(mode: str) -> Generator[Callable[[Progress], None] | None]:
    """Give a listener for the progress of one question, as `mode` asks."""
    from milpq.verify.numbers import downward, upward

    last: list[tuple[str, float, float]] = []

    def words(event: Progress) -> dict[str, object]:
        state = (event.stage, event.lower, event.upper)
        if last and last[-1] == state:
            return {}
        last[:] = [state]
        said: dict[str, object] = {
            "stage": event.stage,
            "lower": event.lower,
            "upper": event.upper if math.isfinite(event.upper) else None,
            "time_s": round(event.time_s, 3),
        }
        return said | ({"detail": event.detail} if event.detail else {})

    def line(event: Progress) -> str:
        bracket = f"[{downward(event.lower)}, {upward(event.upper)}]"
        detail = f"  {event.detail}" if event.detail else ""
        return f"{event.stage:<12} max |f_q − f| in {bracket}  {event.time_s:.1f} s{detail}"

    with narrated(mode, "reading the models", words, line) as listener:
        yield listener


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that shows brackets and colons in file names as they are."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def show(console: Console, result: Result) -> None:
    """Print a result, its verdict on one line whatever the width."""
    from milpq.report.terminal import details, headline

    console.print(headline(result), soft_wrap=True)
    console.print(details(result))
