"""What the verbs' options may be, where several have them or where there is a choice."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medrd.runner.pool import Share

Model = Annotated[Path, typer.Argument(help="Run folder, or its model/.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a config key; may be repeated."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was stopped.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Also what is done, be it of other scans of that name.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

Frame = Annotated[int | None, typer.Option(min=0, help="Which frame of 4D scans, from 0.")]
Series = Annotated[
    str | None, typer.Option(help="Series Instance UID, where a DICOM folder has several.")
]

OnRay = Annotated[
    bool, typer.Option("--ray", help="In processes of Ray's, on this machine or a cluster.")
]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; auto on one of its nodes.")]
Actors = Annotated[
    int | None, typer.Option(min=1, help="Ray's processes; default: as many as there is room.")
]
Cpus = Annotated[int | None, typer.Option(min=1, help="Cores of each of them; default: 1.")]
Gpus = Annotated[
    float | None,
    typer.Option(min=0.0, help="GPUs of each; 0.5: two share one. Default: 1 where there are."),
]


class ExportFormat(StrEnum):
    """What ``medrd export`` writes."""

    onnx = "onnx"
    pt2 = "pt2"
    bundle = "bundle"


class Brain(StrEnum):
    """How ``medrd prepare`` finds the brain."""

    template = "template"
    deepbet = "deepbet"


def on_ray(asked: bool, *options: object) -> bool:
    """Whether Ray is asked for, or any option that has a meaning with Ray alone is given."""
    return asked or any(option is not None for option in options)


def share_on_ray(
    ray: bool, address: str | None, actors: int | None, cpus: int | None, gpus: float | None
) -> Share | None:
    """What each of Ray's processes gets; None where neither ``--ray`` nor any of its options is."""
    if not on_ray(ray, address, actors, cpus, gpus):
        return None
    from medrd.extras import require_extra
    from medrd.runner.pool import Share

    require_extra("ray", "--ray")
    return Share(cpus or 1, gpus, actors)
