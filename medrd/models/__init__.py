"""Networks: pure torch, no files, nothing of medrd outside this package."""

from medrd.models.build import build_detector
from medrd.models.detector import Batch, Detector, OptimizerSpec, ParameterGroup, Step, group
from medrd.models.scoring import Scoring
from medrd.models.teacher import Backbone, Teacher, TokenTeacher

__all__ = [
    "Backbone",
    "Batch",
    "Detector",
    "OptimizerSpec",
    "ParameterGroup",
    "Scoring",
    "Step",
    "Teacher",
    "TokenTeacher",
    "build_detector",
    "group",
]
