"""The program: its commands, and how every error ends in one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Final, ParamSpec

import typer

from milpq.cli.bench import bench
from milpq.cli.bound import bound
from milpq.cli.check import check
from milpq.cli.compare import compare
from milpq.cli.demo import demo
from milpq.cli.explain import explain
from milpq.cli.lists import solvers, targets
from milpq.cli.quantize import quantize
from milpq.cli.simulate import simulate
from milpq.cli.vnncomp import vnncomp
from milpq.errors import MilpqError

INTERRUPTED: Final = 130

Arguments = ParamSpec("Arguments")

# typer carries its own copy of click from 0.25 on, so the base of all usage errors has no stable import.
_ClickError: Final = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="milpq",
    help="Certified bounds on how far an int8 neural network can be from its float original.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: Final[dict[str, tuple[Callable[..., object], ...]]] = {
    "Start here": (demo,),
    "Ask about a pair of networks": (bound, explain, compare, check),
    "Make and run integer networks": (quantize, simulate),
    "Ask about many": (bench, vnncomp),
    "What milpq knows": (targets, solvers),
}


@dataclass(frozen=True, slots=True)
class _Done:
    """A command came to its end: typer, which makes an exit code of Ctrl-C as well, has none of these."""

    code: int


def _marked(command: Callable[Arguments, object]) -> Callable[Arguments, _Done]:
    """Return a command that says that it came to its end."""

    @wraps(command)
    def marked(*given: Arguments.args, **named: Arguments.kwargs) -> _Done:
        code = command(*given, **named)
        return _Done(code if isinstance(code, int) else 0)

    return marked


for _panel, _functions in _COMMANDS.items():
    for _function in _functions:
        app.command(rich_help_panel=_panel)(_marked(_function))


def _show_version(value: bool) -> None:
    if value:
        from milpq import __version__

        typer.echo(f"milpq {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    """Certified bounds on how far an int8 neural network can be from its float original."""
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def run(arguments: list[str] | None = None) -> int:
    """Run the program and return its exit code; every expected error is one line on stderr."""
    try:
        outcome: object = app(arguments, prog_name="milpq", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except MilpqError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of stdout has gone (``milpq … | head``); leave quietly, also at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", 2)
    except MemoryError:
        return _fail("out of memory; ask for a smaller region, fewer --output or fewer --jobs", 2)
    except Exception as error:
        if not isinstance(error, _ClickError):
            raise
        return _fail(_usage(error), 2)
    if isinstance(outcome, _Done):
        return outcome.code
    if outcome == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    return outcome if isinstance(outcome, int) else 0


def _usage(error: Exception) -> str:
    """Return what a usage error says, and where to look."""
    say = getattr(error, "format_message", None)
    message = str(say()) if callable(say) else str(error)
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "milpq")
    return f"{message.rstrip('.')}; see {command} --help"


def _fail(message: str, code: int) -> int:
    typer.echo(f"milpq: error: {' '.join(message.split())}", err=True)
    return code
