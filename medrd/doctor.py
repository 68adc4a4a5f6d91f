"""``medrd doctor``: installed versions, the device, and the available models."""

from __future__ import annotations

from typing import Any

import torch

from medrd.config import Config, TeacherConfig, make_config
from medrd.data.cache import default_cache
from medrd.errors import MedrdError
from medrd.models.build import shapes_only
from medrd.models.detectors import DETECTORS, detector_class
from medrd.models.teacher import Teacher, TokenTeacher
from medrd.run.device import choose_execution
from medrd.run.model_folder import make_detector
from medrd.run.progress import progress
from medrd.run.provenance import git_revision, part_versions, versions
from medrd.run.table import markdown_table
from medrd.run.teacher_weights import load_teacher_weights

_TEACHERS = ("tf_efficientnet_lite0", "wide_resnet50_2")
_TRANSFORMERS = ("vit_base_patch14_reg4_dinov2",)


def environment(*, count: bool = False) -> dict[str, Any]:
    """Versions, device, cache, teacher and models, as plain types for JSON.

    With ``count``, models come with each of their usual teachers and their number of parameters:
    building them takes seconds.
    """
    execution = choose_execution()
    return {
        "versions": versions() | part_versions(),
        "git": git_revision(),
        "device": {
            "type": execution.device.type,
            "name": _device(),
            "precision": execution.precision,
        },
        "cache": str(default_cache()),
        "teacher": _embedded_teacher(),
        "models": _counted_models() if count else _models(),
    }


def environment_text(*, count: bool = False) -> str:
    """The same as text; ``count`` as for :func:`environment`."""
    found = environment(count=count)
    lines = [f"{name:12} {version}" for name, version in found["versions"].items()]
    lines.append(f"{'git':12} {found['git'] or 'not a checkout'}")
    device = found["device"]
    lines.append(f"{'device':12} {device['name']}, computes in {device['precision']}")
    lines.append(f"{'cache':12} {found['cache']}")
    lines.append(f"{'teacher':12} {found['teacher']}")
    if count:
        header = ["model", "teacher", "trained", "frozen", "kept to predict", "source"]
        table = markdown_table(header, [_row(model) for model in found["models"]])
    else:
        rows = [[model["name"], model["source"]] for model in found["models"]]
        table = markdown_table(["model", "source"], rows)
    return "\n".join([*lines, "", table])


def _row(model: dict[str, Any]) -> list[str]:
    counts = model["parameters"]
    shown = (counts["trained"], counts["all"] - counts["trained"], counts["kept"])
    parameters = [f"{n / 1e6:.1f} M" for n in shown]
    return [model["name"], model["teacher"] or "–", *parameters, model["source"]]


def _models() -> list[dict[str, Any]]:
    return [{"name": name, "source": detector_class(name).source} for name in DETECTORS]


def _counted_models() -> list[dict[str, Any]]:
    """Each detector with each teacher, and its number of parameters."""
    wanted = [(name, teacher) for name in DETECTORS for teacher in _teachers(name)]
    models = []
    with progress("looking at models", len(wanted)) as advance:
        for name, teacher in wanted:
            with shapes_only():
                detector = make_detector(_config(name, teacher))
            models.append(
                {
                    "name": name,
                    "teacher": teacher,
                    "parameters": detector.parameter_counts(),
                    "exports": detector.exports,
                    "source": detector_class(name).source,
                }
            )
            advance(note=name)
    return models


def _teachers(name: str) -> tuple[str | None, ...]:
    teacher_kind = detector_class(name).teacher_kind
    if teacher_kind is None:
        return (None,)
    return _TRANSFORMERS if teacher_kind is TokenTeacher else _TEACHERS


def _config(name: str, teacher: str | None) -> Config:
    """A detector for images of three modalities."""
    model: dict[str, Any] = {"name": name}
    if teacher is not None:
        model["teacher"] = {"name": teacher, "weights": "random"}
    return make_config({"model": model, "recipe": {"channels": ["flair", "t1", "t2"]}})


def _device() -> str:
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"CPU with {torch.get_num_threads()} threads"


def _embedded_teacher() -> str:
    try:
        load_teacher_weights(Teacher("tf_efficientnet_lite0"), TeacherConfig())
    except MedrdError as error:
        return f"embedded weights cannot be used: {error}"
    return "embedded EfficientNet-Lite0 weights load"
