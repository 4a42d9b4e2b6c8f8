"""The command line.

Nothing here imports numpy or a model format before a command needs it, so that ``milpq --help`` is quick.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

__all__ = ["main"]


def main() -> None:
    """Run the program and leave the process with its exit code."""
    sys.stdout, sys.stderr = _usable(sys.stdout), _usable(sys.stderr)
    # Who ends the program as `timeout` and build servers do, gets the bracket so far as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from milpq.cli.app import run
    except KeyboardInterrupt:
        sys.stderr.write("milpq: error: interrupted\n")
        sys.exit(130)
    code = run()
    # All is said: what is left is waiting for threads at work, which another Ctrl-C may cut short.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_DFL)
    sys.exit(code)


def _usable(stream: TextIO | None) -> TextIO:
    """Return a stream that takes whatever is said: an exit code must mean what it says."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")  # it was closed by who started us
    file: object = stream
    if isinstance(file, io.TextIOWrapper):
        # Many locales' encodings have no sign for what is written here.
        file.reconfigure(errors="replace")
    return stream
