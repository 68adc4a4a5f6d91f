"""The list of all detectors, and the function that builds one from its section of a config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medrd.models.bikd import BiKD
from medrd.models.cskd import CSKD
from medrd.models.dae import DAE
from medrd.models.detector import Detector
from medrd.models.dinomaly import Dinomaly
from medrd.models.edc import EDC
from medrd.models.intensity import Intensity
from medrd.models.outline import Outline
from medrd.models.patchcore import PatchCore
from medrd.models.rd4ad import RD4AD
from medrd.models.rd_expert import RDExpert
from medrd.models.rdpp import RDPP
from medrd.models.rdseg import RDSeg
from medrd.models.recontrast import ReContrast
from medrd.models.rkdad import RKDAD
from medrd.models.skip_rd import SKRD4AD, SkipTS
from medrd.models.stfpm import STFPM
from medrd.models.teacher import DEEP_STRIDES, Backbone, Teacher, TokenTeacher


def deep_teacher(name: str) -> Teacher:
    """A teacher with a fourth level, for decoders that start from it."""
    return Teacher(name, DEEP_STRIDES)


@dataclass(frozen=True)
class Entry:
    """A detector's constructor, its source, and its kind of teacher by timm's name."""

    make: Callable[..., Detector]
    source: str
    teacher: Callable[[str], Backbone] | None = Teacher
    takes_stacks: bool = False
    """True if it takes images of any number of modalities and channels; others take three."""


DETECTORS: Final[dict[str, Entry]] = {
    "rd4ad": Entry(RD4AD, "Deng & Li, CVPR 2022"),
    "stfpm": Entry(STFPM, "Wang et al., BMVC 2021"),
    "rd_expert": Entry(RDExpert, "Liu et al., AAAI 2025"),
    "bikd": Entry(BiKD, "reconstruction from the abstract of Wang et al., NCAA 2024"),
    "rdpp": Entry(RDPP, "Tien et al., CVPR 2023"),
    "recontrast": Entry(ReContrast, "Guo et al., NeurIPS 2023"),
    "sk_rd4ad": Entry(SKRD4AD, "Park et al., CVPR Workshops 2025"),
    "skip_ts": Entry(SkipTS, "Liu et al., TIM 2024", teacher=deep_teacher),
    "edc": Entry(EDC, "Guo et al., TMI 2024", teacher=deep_teacher),
    "rkdad": Entry(RKDAD, "reconstruction from the abstract of Cheng et al., PRCV 2021"),
    "cskd": Entry(CSKD, "reconstruction from the abstract of Sheng et al., Sci Rep 2024"),
    "dinomaly": Entry(Dinomaly, "Guo et al., CVPR 2025", teacher=TokenTeacher),
    "rdseg": Entry(
        RDSeg, "medrd, after DeSTSeg (Zhang et al., CVPR 2023) and RD4AD", takes_stacks=True
    ),
    "outline": Entry(
        Outline,
        "medrd: a U-Net on simulated anomalies, cf. Ronneberger et al., MICCAI 2015",
        teacher=None,
        takes_stacks=True,
    ),
    "patchcore": Entry(PatchCore, "Roth et al., CVPR 2022"),
    "dae": Entry(DAE, "Kascenas et al., MIDL 2022", teacher=None),
    "intensity": Entry(Intensity, "untrained baseline; cf. Meissen et al. 2021", teacher=None),
}
"""All detectors by name."""

# Keys of a model's config that are for the simulation, not for the network.
_NOT_THE_NETWORKS: Final = ("simulation", "noise")


def build_detector(
    model: Mapping[str, Any], *, modalities: int, channels: int, median: float
) -> Detector:
    """Build a detector with random weights.

    Parameters
    ----------
    model
        The ``model`` section of a config, as plain types.
    modalities, channels, median
        Numbers of modalities and channels in the images, and a brain's median intensity, for
        detectors that take any number.

    Raises
    ------
    ValueError
        The detector is unknown, or the teacher unusable.
    """
    settings = {key: value for key, value in model.items() if key not in _NOT_THE_NETWORKS}
    name, teacher = settings.pop("name"), settings.pop("teacher", None)
    if name not in DETECTORS:
        raise ValueError(f"no detector named {name}; there are {', '.join(DETECTORS)}")
    entry = DETECTORS[name]
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if entry.takes_stacks:
        settings |= {"modalities": modalities, "channels": channels, "median": median}
    if entry.teacher is None:
        return entry.make(**settings)
    return entry.make(entry.teacher(teacher["name"]), **settings)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within this context, detectors are built on PyTorch's meta device: with shapes but without
    values.

    Weights are not initialised either, which would take most of the time on that device.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
