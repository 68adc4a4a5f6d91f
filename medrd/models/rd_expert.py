"""RD with Expert: an expert, a teacher that learns, and a student with guided injection.

Liu et al., "Unlocking the Potential of Reverse Distillation for Anomaly Detection", AAAI 2025.
A frozen pretrained expert watches over a teacher of the same shape, which learns to keep the
expert's features where an image is healthy and to leave them where an anomaly was put in. The
student reconstructs the healthy features from the teacher's.

Where text and released code disagree:

- The paper gates the injected features by similarity. In the released code the flag's name is mixed
  up, so that it trains and tests without the gate, since the first release. ``gating=True`` follows
  the paper, ``gating=False`` the code that was run; without the gate, its convolutions do not exist
  here.
- The losses are those of the code's last version (January 2025): the first release had more
  terms, weighted 0.1, one of them with an obvious slip. All weights are 1.

Left out: layer 4 of the networks and one unused 1x1 convolution of the bottleneck; the choice of
the best epoch on the test set; and random noise on features, which is disabled in the code.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from medrd.models.cosine import global_distance, pixel_distance, summed_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.injection import GuidedStudent
from medrd.models.monitors import CollapseMonitor
from medrd.models.settings import Beta, ModelSection, Rate, SimulationConfig, TeacherConfig
from medrd.models.simulated import in_eval, masks_at_levels
from medrd.models.teacher import Teacher


class RDExpertConfig(ModelSection):
    """RD with Expert: expert, teacher and student, Liu et al., AAAI 2025."""

    name: Literal["rd_expert"] = "rd_expert"
    teacher: TeacherConfig = TeacherConfig()
    gating: bool = True
    """The similarity gate on the injected teacher features; the paper describes it, but the
    published training never runs it."""
    teacher_batch_norm: Literal["train", "eval"] = "train"
    """``train`` as published; with ``eval`` the teacher starts out equal to the expert."""
    teacher_lr: Rate = 1e-4
    student_lr: Rate = 5e-3
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """``teacher_lr``, ``student_lr`` and ``betas`` are settings of the two Adams, constant over
    5,000 iterations of 16 images in the released code."""
    simulation: SimulationConfig = SimulationConfig()


class RDExpert(Detector):
    """Frozen expert, trainable teacher, trainable student.

    As in every detector here, ``teacher`` is the frozen pretrained network: the paper's
    *expert*. The paper's *teacher*, which starts equal to it and learns, is
    ``trained_teacher``. No prediction needs the expert.
    """

    section = RDExpertConfig
    source = "Liu et al., AAAI 2025"
    simulation = "anomalies"
    monitor: CollapseMonitor
    training_only = ("teacher",)

    def __init__(self, teacher: Teacher, settings: RDExpertConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.trained_teacher = copy.deepcopy(teacher).requires_grad_(True)
        self.student = GuidedStudent(teacher, gating=settings.gating)
        if settings.teacher_batch_norm == "eval":
            self.frozen_batchnorm = (self.trained_teacher,)
        self.size_multiple = 2 * teacher.strides[-1]
        self.monitor = CollapseMonitor()
        self._seen: tuple[Batch, list[Tensor]] | None = None
        self.freeze(teacher)
        self.train()

    def teacher_loaded(self) -> None:
        """The trainable teacher starts as the expert."""
        self.trained_teacher.load_state_dict(self.teacher.state_dict())
        self._seen = None

    def teacher_loss(self, batch: Batch) -> Tensor:
        """Keep the expert's features where the image is healthy, leave them elsewhere: in [0, 18].

        With teacher T, expert E, healthy images n, their changed copies a and the mask M, three
        terms are summed over levels: the mean over positions of 1 - cos(T(n), E(n)); that of ``|1 -
        cos(T(a), E(n)) - M|``; and the mean over images of 1 - cos(T(a), E(a)), flattened.
        """
        changed, mask = batch.changed()
        with torch.no_grad():
            expert = self.teacher(batch.images)
            expert_changed = self.teacher(changed)
        if not torch.compiler.is_compiling():
            self._seen = (batch, expert)
        # Two forward passes: BatchNorm takes its statistics from one kind of image at a time.
        healthy = self.trained_teacher(batch.images)
        anomalous = self.trained_teacher(changed)
        self.monitor.see("trained teacher", healthy, expert)
        masks = masks_at_levels(mask, expert)
        terms = []
        for level, wanted in enumerate(masks):
            apart = pixel_distance(anomalous[level], expert[level])
            terms += [
                pixel_distance(healthy[level], expert[level]).mean(),
                (apart - wanted).abs().mean(),
                global_distance(anomalous[level], expert_changed[level]).mean(),
            ]
        return torch.stack(terms).sum()

    def student_loss(self, batch: Batch) -> Tensor:
        """Reconstruct healthy features from healthy and from changed images: in [0, 24].

        Sum over levels of the mean flattened cosine distances of S(n) and S(a), each from T(n)
        and from E(n). The teacher is in eval mode and gets no gradient.
        """
        changed, _ = batch.changed()
        expert = self._expert_of(batch)
        with torch.no_grad(), in_eval(self.trained_teacher):
            healthy = self.trained_teacher(batch.images)
            anomalous = self.trained_teacher(changed)
        return torch.stack(
            [
                summed_distance(outputs, targets)
                for outputs in (self.student(healthy), self.student(anomalous))
                for targets in (healthy, expert)
            ]
        ).sum()

    def _expert_of(self, batch: Batch) -> list[Tensor]:
        """The expert's features of the healthy images, which the teacher's step has just made."""
        seen, self._seen = self._seen, None
        if seen is not None and seen[0] is batch:
            return seen[1]
        with torch.no_grad():
            features: list[Tensor] = self.teacher(batch.images)
        return features

    def steps(self) -> list[Step]:
        """Two, in this order: the teacher's, then the student's."""
        settings = self.settings
        return [
            Step(
                name="teacher",
                groups=[group(self.trained_teacher)],
                optimizer=OptimizerSpec(
                    "adam", {"lr": settings.teacher_lr, "betas": settings.betas}
                ),
                loss=self.teacher_loss,
            ),
            Step(
                name="student",
                groups=[group(self.student)],
                optimizer=OptimizerSpec(
                    "adam", {"lr": settings.student_lr, "betas": settings.betas}
                ),
                loss=self.student_loss,
            ),
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Sum of the three levels' distances of student and teacher, in [0, 6]: (B, H, W)."""
        targets = self.trained_teacher(images)
        return summed_map(targets, self.student(targets), images)
