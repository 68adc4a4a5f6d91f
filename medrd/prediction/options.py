"""The options of ``medrd predict``: one object for the command line, Python and finished results.

This module imports nothing slow, since ``medrd --help`` reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
)

import typer
from typer.models import OptionInfo

from medrd.errors import ConfigError
from medrd.run.shard import Shard

if TYPE_CHECKING:
    from medrd.run.record import Record


@dataclass(frozen=True)
class Shows:
    """Marks an option that does not change maps and masks.

    ``in_record(record, options)`` tells from the record of a finished result whether that result is
    what a call with the option asks for.
    """

    in_record: Callable[["Record", "PredictOptions"], bool]


NO_EFFECT: Final = Shows(lambda record, options: True)
"""Marks an option that leaves a finished result as it is."""

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Recompute existing results, and replace those of another scan of the same name.",
    ),
    NO_EFFECT,
]
Frame = Annotated[
    int | None, typer.Option(min=0, help="Frame of a 4D scan, counted from 0."), NO_EFFECT
]
Series = Annotated[
    str | None,
    typer.Option(help="Series Instance UID, for DICOM folders with several series."),
    NO_EFFECT,
]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda or cuda:N. auto takes a GPU if there is one."),
    NO_EFFECT,
]
KeepNames = Annotated[
    bool,
    typer.Option(
        "--keep-names",
        help="Keep the patient's name, number and birth date in DICOM objects. By default they are "
        "empty.",
    ),
    NO_EFFECT,
]
OneShard = Annotated[
    Shard | None,
    typer.Option(
        parser=Shard.parse,
        metavar="K/N",
        help="Process only part K of N, with K from 1 to N. Make one call per part, all with the "
        "same --out, for instance in a SLURM array.",
    ),
    NO_EFFECT,
]


@dataclass(frozen=True)
class PredictOptions:
    """Options of a call, the same for all of its inputs.

    A field with a ``typer.Option`` is an option of the command line, and its help says what it
    does. A field that is not marked with :data:`NO_EFFECT` or :class:`Shows` changes the result:
    results with another value of it are computed again.

    Without ``overwrite``, an input is skipped if the recorded hashes of its files, the model and
    the outputs are the same, and fails if its name belongs to a result of another input that still
    exists. Without ``strict``, differences from the training scans are warnings in the log and in
    the JSON file (``unlike_training``), which also lists what could not be checked
    (``not_judged``). ``shard`` counts the inputs in the order of their results' paths.
    """

    overwrite: Overwrite = False
    # The chosen frame or series is part of the inputs' hashes.
    frame: Frame = None
    series: Series = None
    max_voxels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Refuse volumes or pictures with more voxels or pixels than this, before reading "
            "them. Default: from the model's config.",
        ),
        NO_EFFECT,
    ] = None
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse scans that are unlike the training scans."),
        Shows(lambda record, _: record.unlike_training == []),
    ] = False
    # A result's identity holds what ``auto`` was resolved to.
    device: Device = "auto"
    engine: Annotated[
        Literal["auto", "torch", "fused"],
        typer.Option(
            parser=str,  # checked below; Typer's own error says "Value error"
            metavar="<auto|torch|fused>",
            help="fused: fold BatchNorm into the convolutions, which is faster on a CPU. torch: "
            "run the networks as trained. auto: fused on a CPU, otherwise torch.",
        ),
        NO_EFFECT,
    ] = "auto"
    picture: Annotated[bool, Shows(lambda record, _: "picture" in record.outputs)] = True
    """Also write an overlay as PNG."""
    shard: OneShard = None
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="For raw heads: prepare them first, as medrd prepare does, in OUT/prepared. "
            "Implies --native.",
        ),
        NO_EFFECT,
    ] = False
    native: Annotated[
        bool,
        typer.Option(
            "--native", help="For scans from medrd prepare: also write maps on the raw scan's grid."
        ),
        Shows(lambda record, _: "native_map" in record.outputs),
    ] = False
    dicom: Annotated[
        bool,
        typer.Option(
            "--dicom",
            help="For DICOM series: also write a Segmentation, a Parametric Map and a report. "
            "With --native, also for scans that medrd prepare made from a series.",
        ),
        Shows(lambda record, options: _names_kept(record) == options.keep_names),
    ] = False
    keep_names: KeepNames = False
    report: Annotated[
        bool,
        typer.Option("--report", help="Also write report.html, a page that shows the maps."),
        NO_EFFECT,
    ] = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that the command line would not take either."""
        hints = get_type_hints(type(self), include_extras=True)
        for name, part in [(name, part) for name, hint in hints.items() for part in get_args(hint)]:
            value = getattr(self, name)
            least = part.min if isinstance(part, OptionInfo) else None
            if get_origin(part) is Literal and value not in get_args(part):
                expected = f"one of {', '.join(get_args(part))}"
            elif least is not None and value is not None and value < least:
                expected = f"at least {least}"
            else:
                continue
            raise ConfigError(
                f"--{name.replace('_', '-')}",
                expected=expected,
                found=str(value),
                remedy="Correct it, or leave it out.",
            )

    @property
    def identity(self) -> dict[str, Any]:
        """The options that change a result, where they differ from their defaults."""
        changed = [each for each in fields(self) if getattr(self, each.name) != each.default]
        return {e.name: getattr(self, e.name) for e in changed if not self._marks(e.name)}

    def shown_by(self, record: "Record") -> bool:
        """Whether the record of a finished result shows all that these options ask for."""
        asked = [each.name for each in fields(self) if getattr(self, each.name)]
        return all(mark.in_record(record, self) for name in asked for mark in self._marks(name))

    def _marks(self, name: str) -> list[Shows]:
        hint = get_type_hints(type(self), include_extras=True)[name]
        return [mark for mark in get_args(hint) if isinstance(mark, Shows)]


class PredictKeywords(TypedDict, total=False):
    """The fields of :class:`PredictOptions`, for the keywords of :func:`medrd.predict`."""

    overwrite: bool
    frame: int | None
    series: str | None
    max_voxels: int | None
    strict: bool
    device: str
    engine: Literal["auto", "torch", "fused"]
    picture: bool
    shard: Shard | None
    prepare: bool
    native: bool
    dicom: bool
    keep_names: bool
    report: bool


DEFAULTS = PredictOptions()


def _names_kept(record: "Record") -> bool | None:
    """Whether the DICOM objects of a result hold names; None if it has no objects."""
    kept: bool | None = (record.content.get("dicom") or {}).get("names_kept")
    return kept
