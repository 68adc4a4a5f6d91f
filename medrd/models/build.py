"""Where detectors are put together: the only place that knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from medrd.models.bikd import BiKD
from medrd.models.dae import DAE
from medrd.models.detector import Detector
from medrd.models.intensity import Intensity
from medrd.models.patchcore import PatchCore
from medrd.models.rd4ad import RD4AD
from medrd.models.rd_expert import RDExpert
from medrd.models.rdpp import RDPP
from medrd.models.rdseg import RDSeg
from medrd.models.recontrast import ReContrast
from medrd.models.stfpm import STFPM
from medrd.models.teacher import Teacher


@dataclass(frozen=True)
class Kind:
    """How a detector is made, and where it comes from."""

    make: Callable[..., Detector]
    source: str
    has_teacher: bool = True
    takes_stacks: bool = False
    """Whether it asks how many modalities and channels the images have; others have three."""


DETECTORS: Final[dict[str, Kind]] = {
    "rd4ad": Kind(RD4AD, "Deng & Li, CVPR 2022"),
    "stfpm": Kind(STFPM, "Wang et al., BMVC 2021"),
    "rd_expert": Kind(RDExpert, "Liu et al., AAAI 2025"),
    "bikd": Kind(BiKD, "reconstruction from the abstract of Wang et al., NCAA 2024"),
    "rdpp": Kind(RDPP, "Tien et al., CVPR 2023"),
    "recontrast": Kind(ReContrast, "Guo et al., NeurIPS 2023"),
    "rdseg": Kind(
        RDSeg, "medrd, after DeSTSeg (Zhang et al., CVPR 2023) and RD4AD", takes_stacks=True
    ),
    "patchcore": Kind(PatchCore, "Roth et al., CVPR 2022"),
    "dae": Kind(DAE, "Kascenas et al., MIDL 2022", has_teacher=False),
    "intensity": Kind(Intensity, "untrained baseline; cf. Meissen et al. 2021", has_teacher=False),
}
"""Every detector there is."""

# Keys of a model's config that tell the data side what to do, not the network.
_DATA_SIDE: Final = ("simulation", "noise")


def build_detector(name: str, *, teacher: str | None = None, **settings: Any) -> Detector:
    """Build a detector with random weights.

    Parameters
    ----------
    name
        A key of :data:`DETECTORS`.
    teacher
        timm name of the backbone, for detectors that have one.
    settings
        The detector's own keyword arguments.

    Raises
    ------
    ValueError
        Unknown detector or unusable teacher.
    """
    if name not in DETECTORS:
        raise ValueError(f"no detector named {name}; there are {', '.join(DETECTORS)}")
    kind = DETECTORS[name]
    if not kind.has_teacher:
        return kind.make(**settings)
    if teacher is None:
        raise ValueError(f"{name} needs a teacher")
    return kind.make(Teacher(teacher), **settings)


def detector_from_config(
    model: Mapping[str, Any], *, modalities: int = 3, channels: int = 3
) -> Detector:
    """Build from the ``model`` section of a config (plain types), weights still random.

    ``modalities`` and ``channels`` of the images are for the detectors that take any number.
    """
    settings = {key: value for key, value in model.items() if key not in _DATA_SIDE}
    name = settings.pop("name")
    teacher = settings.pop("teacher", None)
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if name in DETECTORS and DETECTORS[name].takes_stacks:
        settings |= {"modalities": modalities, "channels": channels}
    return build_detector(name, teacher=teacher["name"] if teacher else None, **settings)
