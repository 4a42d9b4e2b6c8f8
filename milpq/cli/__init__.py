"""The command line.

Nothing here imports numpy or a model format before a command needs it, so that ``milpq --help`` is quick.
"""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the program and leave the process with its exit code."""
    try:
        from milpq.cli.app import run
    except KeyboardInterrupt:
        sys.stderr.write("milpq: error: interrupted\n")
        sys.exit(130)
    code = run()
    # All is said: what is left is waiting for threads at work, which another Ctrl-C may cut short.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)
