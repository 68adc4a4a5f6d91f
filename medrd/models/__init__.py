"""Networks: pure torch, no files, nothing of medrd outside this package."""

from medrd.models.build import build_detector
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step
from medrd.models.scoring import Scoring
from medrd.models.teacher import Teacher

__all__ = [
    "Batch",
    "Detector",
    "OptimizerSpec",
    "Scoring",
    "Step",
    "Teacher",
    "build_detector",
]
