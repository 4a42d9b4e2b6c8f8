"""``milpq targets`` and ``milpq solvers``."""

from __future__ import annotations

from milpq.cli.console import plain_console


def targets() -> None:
    """List the inference targets: the runtimes whose rounding milpq reproduces."""
    from rich.table import Table

    from milpq.rounding.targets import list_targets, target_options

    table = Table(box=None, pad_edge=False)
    for heading in ("target", "input rounding", "what it is, and its options (ID:option=value)"):
        table.add_column(heading, overflow="fold")
    for target in list_targets():
        options = "; ".join(
            f"{name}={'|'.join(values)}" for name, values in target_options(target.name).items()
        )
        table.add_row(
            target.name, target.input_rounding, target.summary + (f" ({options})" if options else "")
        )
    plain_console().print(table)


def solvers() -> None:
    """List the solvers, and whether each can be used here."""
    from rich.table import Table

    from milpq.milp.backends import describe_solvers

    table = Table(box=None, pad_edge=False)
    for heading in ("solver", "version", "licence", "features"):
        table.add_column(heading, overflow="fold")
    for solver in describe_solvers():
        version = solver.version or f"not installed{f'; {solver.install}' if solver.install else ''}"
        table.add_row(solver.name, version, solver.licence, ", ".join(solver.features))
    plain_console().print(table)
