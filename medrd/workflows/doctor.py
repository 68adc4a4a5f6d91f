"""``medrd doctor``: what is installed, what it runs on, and which models there are."""

from __future__ import annotations

import torch

from medrd.config import TeacherConfig
from medrd.data.cache import default_cache
from medrd.errors import MedrdError
from medrd.models import Teacher
from medrd.models.build import PAPERS, build_detector
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
    rows = []
    for name, paper in PAPERS.items():
        if name == "intensity":
            rows.append([name, "–", "0", "0", paper])
            continue
        for teacher in _TEACHERS:
            detector = build_detector(name, teacher=teacher)
            counts = [
                sum(p.numel() for p in detector.parameters() if p.requires_grad is wanted)
                for wanted in (True, False)
            ]
            rows.append([name, teacher, *(f"{count / 1e6:.1f} M" for count in counts), paper])
    table = markdown_table(["model", "teacher", "trained", "frozen", "source"], rows)
    return "\n".join([*lines, "", table])


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
