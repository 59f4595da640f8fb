"""The command line: `crs-bench`, or `python -m bench`.

Each verb is a function that registers itself. An error is one line. The exit status is 2 after a
wrong use and 1 after any other error.
"""

import io
import sys
from typing import Annotated

import typer

from bench.cli import (
    benchmarks,
    docs,
    experiments,
    listing,
    models,
    records,
    reports,
    scoring,
    studies,
    training,
)
from bench.cli.options import app

__all__ = [
    "app", "benchmarks", "docs", "experiments", "listing", "main", "models", "records", "reports",
    "scoring", "studies", "training",
]  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        from bench import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Noise schedules for diffusion models, compared honestly."""


def main() -> None:
    """Run the command line. An expected error prints one line and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of ASCII shows ? for other letters
    try:
        app()
    except ValueError as error:
        typer.echo(f"crs-bench: {error}", err=True)
        sys.exit(2)
    except (RuntimeError, ArithmeticError, OSError) as error:
        typer.echo(f"crs-bench: {type(error).__name__}: {error}", err=True)
        sys.exit(1)
