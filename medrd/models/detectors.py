"""The list of all detectors: each is a class in a file of its own, with its section of a config.

This module imports no torch, so that names are checked without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from medrd.models.detector import Detector

DETECTORS: Final = {
    "rd4ad": "rd4ad.RD4AD",
    "stfpm": "stfpm.STFPM",
    "rd_expert": "rd_expert.RDExpert",
    "bikd": "bikd.BiKD",
    "rdpp": "rdpp.RDPP",
    "recontrast": "recontrast.ReContrast",
    "sk_rd4ad": "skip_rd.SKRD4AD",
    "skip_ts": "skip_rd.SkipTS",
    "edc": "edc.EDC",
    "rkdad": "rkdad.RKDAD",
    "cskd": "cskd.CSKD",
    "dinomaly": "dinomaly.Dinomaly",
    "rdseg": "rdseg.RDSeg",
    "outline": "outline.Outline",
    "patchcore": "patchcore.PatchCore",
    "dae": "dae.DAE",
    "intensity": "intensity.Intensity",
}
"""Names in configs -> file and class."""


def detector_class(name: str) -> type[Detector]:
    """The class of a detector, which knows its section of a config, its source and its teacher.

    Raises
    ------
    ValueError
        There is no detector of this name.
    """
    if name not in DETECTORS:
        raise ValueError(f"no detector named {name}; there are {', '.join(DETECTORS)}")
    module, kind = DETECTORS[name].split(".")
    found: type[Detector] = getattr(import_module(f"medrd.models.{module}"), kind)
    return found
