"""The command line.

Nothing here imports numpy or a model format before a command needs it, so that ``milpq --help`` is quick.
"""

from milpq.cli.app import main

__all__ = ["main"]
