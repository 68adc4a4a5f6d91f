"""``medrd doctor``: what is installed, what it runs on, and which models there are."""

from __future__ import annotations

import torch

from medrd.config import TeacherConfig
from medrd.data.cache import default_cache
from medrd.errors import MedrdError
from medrd.models import Teacher
from medrd.models.build import DETECTORS, build_detector
from medrd.report.table import markdown_table
from medrd.workflows.device import choose_execution
from medrd.workflows.versions import git_revision, versions
from medrd.workflows.weights import load_teacher_weights

_TEACHERS = ("tf_efficientnet_lite0", "wide_resnet50_2")


def examine() -> str:
    """A report for people."""
    execution = choose_execution()
    lines = [f"{name:12} {version}" for name, version in versions().items()]
    lines.append(f"{'git':12} {git_revision() or 'not a checkout'}")
    lines.append(f"{'device':12} {_device()}, computes in {execution.precision}")
    lines.append(f"{'cache':12} {default_cache()}")
    lines.append(f"{'teacher':12} {_embedded_teacher()}")
    rows = [row for name in DETECTORS for row in _rows(name)]
    table = markdown_table(
        ["model", "teacher", "trained", "frozen", "kept to predict", "source"], rows
    )
    return "\n".join([*lines, "", table])


def _rows(name: str) -> list[list[str]]:
    """Parameters of a detector, with each teacher."""
    kind = DETECTORS[name]
    rows = []
    for teacher in _TEACHERS if kind.has_teacher else (None,):
        with torch.device("meta"):  # nothing is computed, so nothing need be filled
            detector = build_detector(name, teacher=teacher)
        counts = detector.parameter_counts()
        shown = (counts["trained"], counts["all"] - counts["trained"], counts["kept"])
        rows.append([name, teacher or "–", *(f"{n / 1e6:.1f} M" for n in shown), kind.source])
    return rows


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
