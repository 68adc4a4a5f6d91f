"""Options that several commands share, and how commands take them."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

if TYPE_CHECKING:
    from medrd.runner.runner import Runner

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a config key. May be repeated."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run or search.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join: HOST:PORT, or auto when run on one of its nodes. Default: "
        "RAY_ADDRESS if set, otherwise this machine."
    ),
]


@dataclass(frozen=True)
class RayOptions:
    """Where the commands that work on one input at a time run."""

    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Run in several processes with Ray, on this machine or a cluster. Implied by "
            "--address, --actors, --cpus and --gpus.",
        ),
    ] = False
    address: Address = None
    actors: Annotated[
        int | None, typer.Option(min=1, help="Number of Ray processes. Default: as many as fit.")
    ] = None
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPU cores (and threads) per Ray process. Default: 1.")
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="GPUs per Ray process; with 0.5, two processes share a GPU. Default: 1 if there "
            "is one.",
        ),
    ] = None

    def runner(self) -> Runner:
        """Ray if it is requested (see :func:`on_ray`), and this process otherwise."""
        if on_ray(self.ray, self.address, self.actors, self.cpus, self.gpus):
            from medrd.extras import require_extra
            from medrd.runner.on_ray import Ray

            require_extra("ray", "--ray")
            return Ray(self.cpus or 1, self.gpus, self.actors, self.address)
        from medrd.runner.runner import HERE

        return HERE


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its parameters that are dataclasses.

    A field with a ``typer.Option`` in its annotation is an option of the command line.
    """
    signature = inspect.signature(command, eval_str=True)
    own: list[inspect.Parameter] = []
    options: dict[tuple[str, type], list[inspect.Parameter]] = {}
    for each in signature.parameters.values():
        if isinstance(each.annotation, type) and is_dataclass(each.annotation):
            options[each.name, each.annotation] = list(_options_of(each.annotation))
        else:
            own.append(each)

    @wraps(command)
    def call(**given: Any) -> None:
        for (name, kind), fields_of in options.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in fields_of})
        command(**given)

    parameters = [*own, *itertools.chain(*options.values())]
    call.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return call


def _options_of(kind: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        if any(isinstance(part, OptionInfo) for part in get_args(hints[each.name])):
            yield inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=each.default,
                annotation=hints[each.name],
            )


def out(help: str) -> Any:
    """The option ``--out``, which is checked before there is any work: it may raise OutputError."""
    return typer.Option(callback=_check_out, help=help)


def _check_out(out: Path | None) -> Path | None:
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
