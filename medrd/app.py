"""The application around the commands: options that stand before them, errors, exit codes."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    name="medrd",
    help="Unsupervised anomaly detection in brain MRI by knowledge distillation. "
    "Research use only; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import medrd

        typer.echo(medrd.__version__)
        raise typer.Exit


def end_incomplete(said: str) -> NoReturn:
    """Exit with code 3: some inputs failed, and the others are done."""
    typer.echo(said, err=True)
    raise typer.Exit(3)


@app.callback()
def common(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also log what was found and chosen.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")
    ] = False,
) -> None:
    """Options that stand before the command: ``medrd -v predict …``."""
    from medrd.run.logs import set_up_logging

    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other")
    set_up_logging(verbose=verbose, quiet=quiet)


def main() -> None:
    """Entry point: an error that the user can fix becomes one line and an exit code."""
    from medrd.errors import MedrdError
    from medrd.files import system_error
    from medrd.run.signals import InterruptedRunError
    from medrd.run.terminal import take_every_text

    _collect_garbage_less_often()
    take_every_text()
    # If nothing has to be saved first, SIGTERM ends a command as Ctrl-C does: it prints a message
    # and removes its temporary files.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.argv[1:] = _read_arguments(sys.argv[1:])
        app()
    except MedrdError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as leave:
        if leave.code == 130:  # what Typer makes of a KeyboardInterrupt
            typer.echo("interrupted", err=True)
        raise
    except InterruptedRunError as stopped:
        typer.echo(str(stopped), err=True)
        sys.exit(stopped.exit_code)
    except OSError as error:
        denied = system_error(error)
        if denied is None:
            raise
        typer.echo(f"error: {denied}", err=True)
        sys.exit(denied.exit_code)


def _collect_garbage_less_often() -> None:
    """Save a command the time to search for garbage where there is none.

    Importing torch makes some 190,000 objects that stay. Python would search among them after
    every 700 new ones, and again at the end.
    """
    gc.set_threshold(10_000)
    atexit.register(_spare_the_last_search)


def _spare_the_last_search() -> None:
    # triton, which the exporter imports, would list all that is not collected as leaks of memory.
    if "triton" not in sys.modules:
        gc.freeze()


def _read_arguments(arguments: Sequence[str]) -> list[str]:
    """Expand the ``~`` in ``--out=~/maps``, which shells do not expand.

    Raises
    ------
    ConfigError
        ``~name`` without such a user, or an empty value.
    """
    return [_read_argument(argument) for argument in arguments]


def _read_argument(argument: str) -> str:
    from medrd.errors import ConfigError

    name, equals, value = argument.partition("=")
    named = bool(equals) and name.startswith("--")
    if not named:
        value = argument
    if not value:
        raise ConfigError(
            name or "the command line",
            expected="a value",
            found="an empty one",
            remedy="Give a value, or leave the option out. Is a shell variable unset?",
        )
    if not value.startswith("~"):
        return argument
    expanded = os.path.expanduser(value)
    if expanded.startswith("~"):
        raise ConfigError(
            value,
            expected="a path",
            found=f"{value.partition('/')[0]}, but there is no such user",
            remedy=f"Write the full path, or ./{value} if the name begins with ~.",
        )
    return f"{name}={expanded}" if named else expanded
