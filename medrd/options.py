"""Options that several commands share, and the choices that some options offer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medrd.run.shard import Shard
    from medrd.runner.runner import Runner

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a config key. May be repeated."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run or search.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Recompute existing results, and replace those of another scan of the same name.",
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N. auto takes a GPU if there is one.")
]

Frame = Annotated[int | None, typer.Option(min=0, help="Frame of a 4D scan, counted from 0.")]
Series = Annotated[
    str | None, typer.Option(help="Series Instance UID, for DICOM folders with several series.")
]

KeepNames = Annotated[
    bool,
    typer.Option(
        "--keep-names",
        help="Keep the patient's name, number and birth date in DICOM objects. By default they are "
        "empty.",
    ),
]

OnRay = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Run in several processes with Ray, on this machine or a cluster. Implied by "
        "--address, --actors, --cpus and --gpus.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join: HOST:PORT, or auto when run on one of its nodes. Default: "
        "RAY_ADDRESS if set, otherwise this machine."
    ),
]
Actors = Annotated[
    int | None, typer.Option(min=1, help="Number of Ray processes. Default: as many as fit.")
]
Cpus = Annotated[
    int | None, typer.Option(min=1, help="CPU cores (and threads) per Ray process. Default: 1.")
]
Gpus = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="GPUs per Ray process; with 0.5, two share one. Default: 1 if one is available.",
    ),
]


ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="K/N",
        help="Process only part K of N, counted from 1: one call per part, all with the same "
        "--out, for instance in a SLURM array.",
    ),
]


class Engine(StrEnum):
    """The engines of ``medrd predict``."""

    auto = "auto"
    torch = "torch"
    fused = "fused"


class ExportFormat(StrEnum):
    """The formats of ``medrd export``."""

    onnx = "onnx"
    pt2 = "pt2"
    bundle = "bundle"


def read_arguments(arguments: Sequence[str]) -> list[str]:
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


def check_out(out: Path | None) -> Path | None:
    """Check ``--out`` before any work begins, and return it. Raises OutputError."""
    from medrd.files import refuse_no_place

    if out is not None:
        refuse_no_place(out)
    return out


def split_model(arguments: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """The model and the scans of ``medrd predict [MODEL] SCANS...``; None is the built-in model.

    The first argument is the model if it is a run or model folder.

    Raises
    ------
    ConfigError
        A model is the only argument.
    ModelError
        The first argument is neither a model, nor a scan, nor a folder of scans.
    """
    from medrd.data.brains.find import holds_input
    from medrd.errors import ConfigError, ModelError
    from medrd.run.model_folder import is_model_folder

    first, *rest = arguments
    if is_model_folder(first):
        if rest:
            return first, rest
        raise ConfigError(
            first,
            expected="a model and scans, or only scans (for the built-in model)",
            found="only a model",
            remedy="Add the scans after the model, or leave it out to use the built-in one.",
        )
    if holds_input(first):
        return None, [first, *rest]
    there = "a folder that contains neither" if os.path.isdir(first) else "a file of another kind"
    raise ModelError(
        first,
        expected="a run or model folder (model.json, model.safetensors); or, for the built-in "
        "model, a scan or a folder of scans",
        found=there if os.path.exists(first) else "no such file or folder",
        remedy="Check the path. For pictures, give a model trained on pictures before them.",
    )


def refuse_void_keys(overrides: Sequence[str], *, sections: Sequence[str]) -> None:
    """Raise ConfigError for a ``--set`` of keys that the trained model fixes, not the config."""
    from medrd.config import Config
    from medrd.config.load import parse_override
    from medrd.errors import ConfigError

    for override in overrides:
        key = parse_override(override)[0]
        section = key.split(".")[0]
        if section in Config.model_fields and section not in sections:
            raise ConfigError(
                f"--set {override}",
                expected=f"a key of {' or '.join(sections)}",
                found=f"{section}, which the trained model fixes",
                remedy="Leave it out, or train a model with this setting.",
            )


def on_ray(asked: bool, *options: object) -> bool:
    """Return whether Ray is requested, by its own option or by one that only Ray uses."""
    return asked or any(option is not None for option in options)


def choose_runner(
    ray: bool, address: str | None, actors: int | None, cpus: int | None, gpus: float | None
) -> Runner:
    """Return Ray if it is requested (see :func:`on_ray`), and this process otherwise."""
    if on_ray(ray, address, actors, cpus, gpus):
        from medrd.extras import require_extra
        from medrd.runner.on_ray import Ray

        require_extra("ray", "--ray")
        return Ray(cpus or 1, gpus, actors, address)
    from medrd.runner.runner import HERE

    return HERE


def parse_shard(text: str | None) -> Shard | None:
    """Return the shard that ``--shard`` names, or None without it. Raises ConfigError."""
    from medrd.run.shard import Shard

    return None if text is None else Shard.parse(text)
