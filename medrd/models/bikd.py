"""Bidirectional distillation: a RECONSTRUCTION from an abstract, not the authors' method.

Wang X., Wang Y., Pan Z., Wang G., Neural Computing and Applications 36:18499-18514, 2024 (doi
10.1007/s00521-024-10172-8). No code exists and only the abstract is public: this is our design
after it, and we do not claim the paper's numbers. According to the abstract, a teacher pretrained
for classification suits anomaly scoring badly. It describes a forward distillation for
generalisation, a backward one for "diversity in representing anomalies", a reciprocal exchange that
avoids inconsistent targets, and simulated anomalies. There are two readings of it:

``reciprocal``
    Teacher to student and student to teacher. The student (RD4AD's) reconstructs the features of
    healthy images from those of healthy and of changed ones. The teacher, a copy of the pretrained
    network, moves towards the student where an image is healthy and away from it, by a margin,
    where an anomaly was put in; an anchor keeps it near the pretrained network.
``two_branch``
    A forward student (an encoder that sees the image, as in STFPM) and a reverse one (RD4AD's)
    learn from one frozen teacher. Their maps are summed, each divided by its standard deviation on
    healthy slices (a z-score without the mean, so that maps stay above 0). The deviation is
    measured once after training, on the healthy training slices in eval mode, since a detector sees
    no others.

(Zhong, Kang & Xiong 2025, "BKD", is another method with nearly the same name.)
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from medrd.models.cosine import global_distance, pixel_distance, summed_map
from medrd.models.detector import Batch, Detector, OptimizerSpec, Step, group
from medrd.models.monitors import CollapseMonitor
from medrd.models.settings import Beta, ModelSection, Rate, SimulationConfig, TeacherConfig, Weight
from medrd.models.simulated import in_eval, masks_at_levels
from medrd.models.student import fresh_encoder, reverse_student
from medrd.models.teacher import Teacher

Levels = list[Tensor]


class HealthyScale(nn.Module):
    """Divides maps by their standard deviation on healthy slices, inside their region.

    The mean is not subtracted: in a sum of maps it would only be a constant, and without it maps
    stay non-negative.
    """

    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("std", torch.ones(()))
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, maps: Tensor, region: Tensor) -> None:
        """Add (B, H, W) maps of healthy slices and their region."""
        values = maps[region].double()
        sums = torch.stack([values.new_tensor(len(values)), values.sum(), values.square().sum()])
        self._sums = sums if self._sums is None else self._sums + sums

    def finish(self) -> None:
        """Set the scale once all maps have been added; it stays 1 if they had no pixel."""
        if self._sums is None or not self._sums[0]:
            return
        count, total, squares = self._sums
        variance = (squares / count - (total / count).square()).clamp(min=1e-12)
        self.std.copy_(variance.sqrt())
        self._sums = None

    def forward(self, maps: Tensor) -> Tensor:
        """Divide maps by their healthy standard deviation."""
        return maps / self.std


class BiKDConfig(ModelSection):
    """Bidirectional distillation: a reconstruction from the abstract of Wang et al., 2024."""

    name: Literal["bikd"] = "bikd"
    teacher: TeacherConfig = TeacherConfig()
    variant: Literal["reciprocal", "two_branch"] = "reciprocal"
    """``reciprocal``: the teacher also learns from the student; ``two_branch``: a forward and a
    reverse student learn from one frozen teacher."""
    student_lr: Rate = 5e-3
    teacher_lr: Rate = 1e-5
    """Learning rate of the trained teacher (reciprocal)."""
    margin: Weight = 0.5
    """Cosine distance from the student that the teacher should exceed where the image was
    changed (reciprocal)."""
    anchor: Weight = 1.0
    """Weight of the trained teacher's distance from the pretrained one (reciprocal)."""
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """``student_lr`` and ``betas`` are settings of Adam, for all students."""
    simulation: SimulationConfig = SimulationConfig()


class BiKD(Detector):
    """Bidirectional distillation as reconstructed from its abstract; see the module.

    ``teacher`` is the pretrained network and stays frozen. In the reciprocal variant,
    ``trained_teacher`` is a copy that learns, with BatchNorm in eval mode, and prediction does not
    need the frozen network.
    """

    section = BiKDConfig
    source = "reconstruction from the abstract of Wang et al., NCAA 2024"
    simulation = "anomalies"
    monitor: CollapseMonitor

    def __init__(self, teacher: Teacher, settings: BiKDConfig) -> None:
        super().__init__()
        self.settings = settings
        self.teacher = teacher
        self.trained_teacher: Teacher | None = None
        if settings.variant == "reciprocal":
            self.trained_teacher = copy.deepcopy(teacher).requires_grad_(True)
            self.frozen_batchnorm = (self.trained_teacher,)
            self.training_only = ("teacher",)
        else:
            self.encoder = fresh_encoder(teacher)
            self.forward_scale = HealthyScale()
            self.reverse_scale = HealthyScale()
            self.collects = True
        self.student = nn.Sequential(*reverse_student(teacher))
        self.size_multiple = 2 * teacher.strides[-1]
        self.monitor = CollapseMonitor()
        self._seen: tuple[Batch, Levels, Levels] | None = None
        self.freeze(teacher)
        self.train()

    def teacher_loaded(self) -> None:
        """The trained teacher starts as the pretrained one."""
        if self.trained_teacher is not None:
            self.trained_teacher.load_state_dict(self.teacher.state_dict())
        self._seen = None

    def steps(self) -> list[Step]:
        """The student's step, then the teacher's (reciprocal); one for both students otherwise."""
        settings = self.settings
        adam = OptimizerSpec("adam", {"lr": settings.student_lr, "betas": settings.betas})
        if self.trained_teacher is None:
            students = [group(self.encoder, self.student)]
            return [Step("students", students, adam, self.branches_loss)]
        slow = OptimizerSpec("adam", {"lr": settings.teacher_lr, "betas": settings.betas})
        return [
            Step("student", [group(self.student)], adam, self.student_loss),
            Step("teacher", [group(self.trained_teacher)], slow, self.teacher_loss),
        ]

    def anomaly_map(self, images: Tensor) -> Tensor:
        """Reciprocal: sum of the levels' cosine distances, in [0, 6]: (B, H, W) float32.

        Two branches: the sum of both maps, each in units of its spread on healthy slices; not
        negative, without an upper bound.
        """
        if self.trained_teacher is not None:
            features = self.trained_teacher(images)
            return summed_map(features, self.student(features), images)
        forward, reverse = self._branch_maps(images)
        return self.forward_scale(forward) + self.reverse_scale(reverse)

    def collect(self, batch: Batch) -> None:
        """Add to the scale of each branch's map on healthy slices (two branches)."""
        forward, reverse = self._branch_maps(batch.images)
        self.forward_scale.add(forward, batch.region)
        self.reverse_scale.add(reverse, batch.region)

    def finish(self, generator: torch.Generator) -> None:
        """Set the scales (two branches)."""
        self.forward_scale.finish()
        self.reverse_scale.finish()

    # --- The reciprocal variant ---

    def student_loss(self, batch: Batch) -> Tensor:
        """The student's loss, in [0, 12].

        It is the sum over levels of the flattened cosine distances of S(T(x)) and of S(T(changed
        x)) from T(x), without gradient to T.
        """
        changed, _ = batch.changed()
        healthy, anomalous = self._trained_features(batch.images), self._trained_features(changed)
        if not torch.compiler.is_compiling():
            # T does not change in this step: the next step's backward pass uses the same graph.
            self._seen = (batch, healthy, anomalous)
        healthy = [level.detach() for level in healthy]
        anomalous = [level.detach() for level in anomalous]
        outputs = self.student(healthy)
        self.monitor.see("student", outputs, healthy)
        return denoising_loss(outputs, self.student(anomalous), healthy)

    def teacher_loss(self, batch: Batch) -> Tensor:
        """The teacher's loss. It sums over levels:

        the mean distance of T from S where the image is healthy, in x and in changed x; the mean
        of ``max(0, margin - distance)`` where it was changed; and ``anchor`` times the mean
        distance of T(x) from the pretrained network. S is as at prediction, without gradient.
        """
        settings = self.settings
        changed, mask = batch.changed()
        seen, self._seen = self._seen, None
        if seen is not None and seen[0] is batch:
            healthy, anomalous = seen[1:]
        else:
            healthy = self._trained_features(batch.images)
            anomalous = self._trained_features(changed)
        with torch.no_grad(), in_eval(self.student):
            wanted = self.student([level.detach() for level in healthy])
            shunned = self.student([level.detach() for level in anomalous])
            reference = self.teacher(batch.images)
        self.monitor.see("trained teacher", healthy, reference)
        terms = []
        for level, inside in enumerate(masks_at_levels(mask, healthy)):
            apart = pixel_distance(anomalous[level], shunned[level])
            terms += [
                pixel_distance(healthy[level], wanted[level]).mean(),
                mean_where(apart, 1 - inside),
                mean_where((settings.margin - apart).clamp(min=0), inside),
                settings.anchor * pixel_distance(healthy[level], reference[level]).mean(),
            ]
        return torch.stack(terms).sum()

    def _trained_features(self, images: Tensor) -> Levels:
        assert self.trained_teacher is not None
        features: Levels = self.trained_teacher(images)
        return features

    # --- The variant with two branches ---

    def _branch_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The forward and the reverse student's maps, (B, H, W) each."""
        features = self.teacher(images)
        forward = summed_map(features, self.encoder(images), images)
        return forward, summed_map(features, self.student(features), images)

    def branches_loss(self, batch: Batch) -> Tensor:
        """The loss of both students against the healthy image's features, from it and from its
        changed copy.

        The forward student has the mean cosine distance per position (half of STFPM's squared
        distance), the reverse one that of flattened levels (RD4AD's): in [0, 24].
        """
        changed, _ = batch.changed()
        with torch.no_grad():
            targets = self.teacher(batch.images)
            anomalous = self.teacher(changed)
        forward, reverse = self.encoder(batch.images), self.student(targets)
        self.monitor.see("forward student", forward, targets)
        self.monitor.see("reverse student", reverse, targets)
        matched = [
            pixel_distance(level, target).mean()
            for outputs in (forward, self.encoder(changed))
            for level, target in zip(outputs, targets, strict=True)
        ]
        return torch.stack(matched).sum() + denoising_loss(
            reverse, self.student(anomalous), targets
        )


def denoising_loss(healthy: Levels, changed: Levels, targets: Levels) -> Tensor:
    """Sum over levels of the flattened cosine distances of both reconstructions."""
    return torch.stack(
        [
            global_distance(level, target).mean()
            for outputs in (healthy, changed)
            for level, target in zip(outputs, targets, strict=True)
        ]
    ).sum()


def mean_where(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of the batch's values where the weights are 1; 0 if no weight is."""
    return (values * weights).sum() / weights.sum().clamp(min=1)
