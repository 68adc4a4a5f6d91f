"""Where detectors are put together: the only place that knows them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medrd.models.detector import Detector
from medrd.models.intensity import Intensity
from medrd.models.rd4ad import RD4AD
from medrd.models.teacher import Teacher

PAPERS: dict[str, str] = {
    "rd4ad": "Deng & Li, CVPR 2022",
    "intensity": "untrained baseline; cf. Meissen et al. 2021",
}
"""Every detector there is, with its source."""


def build_detector(name: str, *, teacher: str | None = None, **settings: Any) -> Detector:
    """Build a detector with random weights.

    Parameters
    ----------
    name
        A key of :data:`PAPERS`.
    teacher
        timm name of the backbone, for detectors that have one.
    settings
        The detector's own keyword arguments.

    Raises
    ------
    ValueError
        Unknown detector or unusable teacher.
    """
    if name == "intensity":
        return Intensity(**settings)
    if name == "rd4ad":
        if teacher is None:
            raise ValueError("rd4ad needs a teacher")
        return RD4AD(Teacher(teacher), **settings)
    raise ValueError(f"no detector named {name}; there are {', '.join(PAPERS)}")


def detector_from_config(model: Mapping[str, Any]) -> Detector:
    """Build from the ``model`` section of a config (plain types), weights still random."""
    settings = dict(model)
    name = settings.pop("name")
    teacher = settings.pop("teacher", None)
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    return build_detector(name, teacher=teacher["name"] if teacher else None, **settings)
