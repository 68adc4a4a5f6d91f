"""The options of ``medrd prepare`` that decide how a head is prepared.

This module imports nothing slow, since ``medrd --help`` reads it.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import typer

TEMPLATE: Final = "template"
"""No other program: the brain is the template's, refined."""


@dataclass(frozen=True)
class PrepareOptions:
    """Options of the preparation; the help of each says what it does."""

    bias: Annotated[bool, typer.Option(help="Correct the bias field with N4.")] = True
    stretch: Annotated[
        bool,
        typer.Option(
            "--stretch",
            help="Also scale heads to the size of the template, which BraTS does not do.",
        ),
    ] = False
    extraction: Annotated[
        str,
        typer.Option(
            "--brain",
            metavar="template|hd-bet|synthstrip|deepbet|COMMAND",
            help="How to find the brain: from the template (refined), with one of these programs, "
            "or with your own command, in which {in} and {mask} stand for file names.",
        ),
    ] = TEMPLATE
